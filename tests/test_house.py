"""A paper lands in its own files: no code outside a method's own knows its key, other papers that use it aside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from condensery import Registry
from condensery_catalogue.lost_writes import lost_writes

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for folder in ("core", "plugins", "catalogue", "reproductions") for path in (ROOT / folder).rglob("*.py")
)


def texts(path: Path) -> Iterator[str]:
    """Yield the texts in a file's code, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            yield node.value


CRITERIA = "plugins/condensery_plugins/pruning/criteria.py"
"""Its words are those of a setting; one of them, obd, is a method's key as well."""


def test_no_other_code_knows_a_methods_key() -> None:
    registry = Registry.open()
    homes = {key: registry.load("methods", key).__module__ for key in registry.keys("methods")}
    papers = set(homes.values())
    assert len(homes) > 20

    found = []
    for path in CODE:
        place = path.relative_to(ROOT)
        # Another paper may name a method that it builds on; a codec may have a method's key as its own.
        if ".".join(place.with_suffix("").parts[1:]) in papers or str(place) == CRITERIA or "codecs" in place.parts:
            continue
        others = homes.keys() - registry.entries["codecs"].keys()
        found += [f"{place}: {text}" for text in texts(path) if text in others]
    assert not found


def test_no_file_is_over_four_hundred_lines() -> None:
    written = [*CODE, *(ROOT / "tests").rglob("*.py"), *(ROOT / "catalogue" / "docs").glob("*.md"), *ROOT.glob("*.md")]
    texts = {path: path.read_text() for path in written}
    by_hand = {path: text for path, text in texts.items() if not text.startswith("<!-- made by")}
    assert len(by_hand) < len(texts)
    long = [str(path.relative_to(ROOT)) for path, text in by_hand.items() if text.count("\n") > 400]
    assert not long


def test_no_method_writes_where_a_write_is_lost() -> None:
    families = ROOT / "plugins" / "condensery_plugins"
    methods = [
        path
        for folder in ("pruning", "quantization", "distillation", "joint")
        for path in CODE
        if path.is_relative_to(families / folder)
    ]
    assert len(methods) > 80
    assert [place for path in methods for place in lost_writes(path)] == []
