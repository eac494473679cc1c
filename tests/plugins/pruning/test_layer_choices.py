"""One spelling for which layers, in every pruning method that has such a setting."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pytest
import torch
from tests.core.helpers import recipe
from torch import Tensor

from condensery import Registry, Run, Stage, UnknownKey
from condensery.contract import settings_of
from condensery.nets import CONVS
from condensery.run import Observer

REGISTRY = Registry.open()

OTHERS = {("ssl", "granularity"), ("ssl", "strengths")}
"""Lists and mappings that choose kinds of groups and not layers."""
ALONE: dict[tuple[str, str], dict[str, float]] = {
    ("magnitude", name): {"sparsity": 0.0} for name in ("density", "quality")
}
"""By method and setting, other settings that leave the layers alone which aren't named."""
FILTERS = {
    "conv1": 8,
    **{f"layer{stage}.0.conv{conv}": 4 * 2**stage for stage in (1, 2, 3) for conv in (1, 2)},
}
"""Of the convolutions of the helpers' net."""


def choices() -> list[tuple[str, str, type]]:
    """Return method, setting and kind of every list or mapping that chooses layers."""
    methods = [p.key for p in REGISTRY.entries["papers"].values() if p.target["family"] == "pruning"]
    found = []
    for key in methods:
        cls = REGISTRY.load("methods", key)
        hints = get_type_hints(cls)
        kinds = {name: get_origin(hints[name]) for name in settings_of(cls)}
        found += [(key, name, kind) for name, kind in kinds.items() if kind in (list, dict)]
    return [c for c in found if c[:2] not in OTHERS]


def check(path: Path, method: str, setting: str, kind: type, layer: str) -> None:
    """Run a stage dry in which a setting names a layer."""
    value: Any = [layer] if kind is list else {layer: 0.5}
    stages = [{"methods": [{method: {setting: value}}]}]
    Run(recipe(stages), REGISTRY, out=path / "out", device="cpu").check()


def test_these_methods_choose_layers() -> None:
    assert {choice[:2] for choice in choices()} >= {
        ("asymptotic-soft-filter-pruning", "skip"),
        ("filter-pruning", "skip"),
        ("gradual-magnitude-pruning", "skip"),
        ("group-brain-damage", "rates"),
        ("l1-filter-pruning", "rates"),
        ("magnitude", "density"),
        ("magnitude", "quality"),
        ("magnitude", "skip"),
        ("soft-filter-pruning", "skip"),
        ("ssl", "factors"),
        ("thinet", "layers"),
    }


@pytest.mark.parametrize(("method", "setting", "kind"), choices())
def test_a_misspelt_layer_is_refused_with_the_nearest(method: str, setting: str, kind: type, tmp_path: Path) -> None:
    with pytest.raises(UnknownKey) as caught:
        check(tmp_path, method, setting, kind, "layre1")
    where, _, says = str(caught.value).partition(": ")
    assert where.startswith(f"{method}.")
    assert setting in where
    assert says == "unknown layer 'layre1'; did you mean 'layer1'?"
    assert not (tmp_path / "out").exists()


class Look(Observer):
    """Notes of each convolution, when a stage has ended, how many filters are left and its weights as they are used."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def stage_ended(self, stage: Stage) -> None:
        self.seen = {weight.path: weight.value.clone() for weight in stage.weights(kinds=CONVS)}


def played(path: Path, method: str, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Run a method for a single step, and return the weights of each convolution that are left."""
    look, train = Look(), {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.05}}
    made = recipe([{"methods": [{method: settings}]}], train=train)
    Run(made, REGISTRY, out=path, device="cpu", observer=look).execute()
    return look.seen


def treated(path: Path, method: str, settings: Mapping[str, Any]) -> dict[str, bool]:
    """Return of each convolution whether it has lost filters, or weights; of ssl whether it was drawn otherwise.

    In a single step a layer's gradient doesn't depend on how strongly another one is drawn towards zero.
    """
    found = played(path / "chosen", method, settings)
    if method == "ssl":
        without = played(path / "all", method, {})
        return {name: not torch.equal(value, without[name]) for name, value in found.items()}
    return {name: len(value) < FILTERS[name] or bool((value == 0).any()) for name, value in found.items()}


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer?.0.conv1", "*.conv1"])
@pytest.mark.parametrize(("method", "setting", "kind"), choices())
def test_a_path_or_a_pattern_chooses_these_layers_and_no_others(
    method: str, setting: str, kind: type, layer: str, tmp_path: Path
) -> None:
    value: Any = [layer] if kind is list else {layer: 0.5}
    found = treated(tmp_path, method, {setting: value, **ALONE.get((method, setting), {})})
    named = {name for name in FILTERS if fnmatchcase(name, layer)}
    assert named
    assert found.keys() == FILTERS.keys()
    chosen = FILTERS.keys() - named if setting == "skip" else named
    assert {name for name, was in found.items() if was} == chosen
