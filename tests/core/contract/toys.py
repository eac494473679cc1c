"""A toy card, and packages of toy papers in a temporary folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CLAIM: dict[str, Any] = {
    "id": "net-error",
    "kind": "quality",
    "metric": "error",
    "unit": "%",
    "model": "LeNet-5",
    "dataset": "MNIST",
    "baseline": {"value": 0.8, "source": "recalled"},
    "value": {"value": 0.74, "source": "read", "where": "Table 1"},
    "row": "LeNet-5, compressed",
    "protocol": "error of the last epoch",
}
CARD: dict[str, Any] = {
    "key": "sum-pruning",
    "ref": 14,
    "name": "Pruning by sums",
    "summary": "Filters with the smallest sum of weights go.",
    "paper": {"title": "Sums", "authors": "A, B", "year": 2017, "venue": "ICLR 2017", "arxiv": "1608.08710"},
    "family": "pruning",
    "taxonomy": {"granularity": ["filter"], "criterion": "sum", "scope": ["local"], "schedule": ["one-shot"]},
    "network": ["CNN"],
    "domain": ["classification"],
    "hyperparameters": {"ratio": {"type": "float", "default": 0.5, "ge": 0, "lt": 1, "meaning": "share removed"}},
    "claims": [CLAIM],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the card above with one place changed, ``claims.0.unit``; a value of ``...`` removes it."""
    card: Any = copy.deepcopy(CARD)
    *parents, last = path.split(".")
    node = card
    for part in parents:
        node = node[int(part) if part.isdigit() else part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return card  # type: ignore[no-any-return]


def text_of(key: str, **fields: Any) -> str:
    """Return the text of a card's file."""
    return yaml.safe_dump({**CARD, "key": key, **fields})


def write_package(root: Path, files: Mapping[str, str]) -> None:
    """Write files of text by their path below ``root``, and an ``__init__.py`` into each folder of Python files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for folder in {root, *(path.parent for path in root.rglob("*.py"))}:
        (folder / "__init__.py").touch()
