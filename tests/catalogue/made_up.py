"""A made-up paper: its card, its reproduction, reports of its arms, and a distribution that brings all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from condensery.files import write_json
from condensery.recipe import checked
from condensery_catalogue.judging import judge
from condensery_catalogue.reproduction import Reproduction
from condensery_catalogue.results import TierName

KEY = "made-up"
ON: dict[str, Any] = {"kind": "quality", "unit": "%", "model": "M", "dataset": "D"}
ROW = {"row": "M, pruned", "protocol": "last epoch"}
CARD: dict[str, Any] = {
    "key": KEY,
    "ref": 7,
    "name": "Made-up method",
    "summary": "It isn't real.",
    "paper": {"title": "T", "authors": "A", "year": 2000, "venue": "V 2000"},
    "family": "joint",
    "taxonomy": {"combination": "KD+P"},
    "network": ["CNN"],
    "composition": "magnitude -> hinton-kd{teacher=original}",
    "status": "tested",
    "claims": [
        {**ON, **ROW, "id": "error", "metric": "error", "better": "lower"}
        | {"baseline": {"value": 6, "source": "read", "where": "p. 1"}}
        | {"value": {"value": 4.4, "source": "read", "where": "p. 1"}},
        {**ON, "id": "gain", "metric": "error", "unit": "points", "better": "lower", "says": "gain"}
        | {"value": {"value": 1.5, "source": "recalled"}},
        {**ON, "id": "theirs", "metric": "accuracy", "setting": "half the MACs", "by": "third party"}
        | {"value": {"value": 93.25, "source": "recalled"}},
        {**ON, "id": "words", "kind": "qualitative", "metric": "accuracy", "unit": "statement"}
        | {"value": {"value": "better", "source": "read", "where": "p. 1"}},
    ],
}
ERROR: dict[str, Any] = {
    "claim": "error",
    "metric": "after.quality.error",
    "arm": "better",
    "baseline_arm": "plain",
}
GAIN = ERROR | {"claim": "gain"}
SMALL: dict[str, Any] = {
    "task": "digits",
    "model": {"key": "mlp", "hidden": [8]},
    "base": "none",
    "data": {"subset": {"size": 64}},
    "train": {"epochs": 1, "batch_size": 32},
}
TIER = {"defaults": SMALL, "arms": {"plain": {"stages": [{"name": "longer"}]}, "better": {"stages": ["magnitude"]}}}
RECIPE: dict[str, Any] = {
    "key": KEY,
    "card": KEY,
    "tiers": {"smoke": TIER, "desk": TIER | {"compare": [ERROR]}, "paper": TIER | {"scale": "paper"}},
    "compare": [ERROR, GAIN],
}


def report(seed: int, x: float = 1.25, **quality: float) -> dict[str, Any]:
    """Return as much of a run's report as a result is made of."""
    storage = {"file": 90 + seed, "payload": 40, "tables": 10, "header": 30 + seed, "manifest": 10}
    after = {"quality": quality, "parameters": 10, "nonzeros": 8, "macs": 100, "storage": storage}
    rates = {"compression_rate": 2.0 + seed, "storage_rate": 4.0, "macs": x}
    machine = {"cpu": "C", "flags": [], "cores": 2, "threads": 1, "gpu": None}
    made = {"versions": {"torch": "2"}, "device": "cpu", "environment": machine}
    return {"seed": seed, "after": after, "ratios": rates, "wall_s": 1.5, "recipe": {"seed": seed}, **made}


def plan(**changed: Any) -> Reproduction:
    """Return the made-up reproduction with some of its fields changed."""
    return checked(Reproduction, {**RECIPE, **changed}, "plan")


def result(tier: TierName, errors: Mapping[str, list[float]], collapsed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the result of one tier.

    :param errors: of each arm, one for each seed.
    :param collapsed: arms whose net collapsed in the first seed.
    """
    reports = {arm: [report(seed, error=e) for seed, e in enumerate(found)] for arm, found in errors.items()}
    for arm in collapsed:
        reports[arm][0]["collapsed"] = [{"stage": "s", "methods": ["ssl"], "what": ["conv1"]}]
    made = plan()
    return judge(made, made.tiers[tier], tier, CARD, reports)


def install(site: Path, package: str, monkeypatch: pytest.MonkeyPatch, *results: Mapping[str, Any]) -> Path:
    """Install a distribution that brings the made-up paper and results of it; return the folder of its recipe.

    :param site: is put on the path and holds the package.
    :param package: has to be new to this process, which keeps what it imports.
    """
    home = distribution(site, package, *results)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("CONDENSERY_CACHE", str(site / "cache"))
    return home


def distribution(site: Path, package: str, *results: Mapping[str, Any]) -> Path:
    """Write such a distribution, and return the folder of its recipe."""
    home = site / package / KEY
    home.mkdir(parents=True)
    text = f"from condensery.contract import Papers\n\nplugin = Papers({package!r})\n"
    (site / package / "__init__.py").write_text(text)
    (site / package / "made_up.yaml").write_text(yaml.safe_dump(CARD))
    (home / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    for made in results:
        write_json(home / f"{made['tier']}.json", made)

    about = site / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[condensery]\n{package} = {package}:plugin\n")
    return home
