"""One spelling for which layers, in every pruning method that has such a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pytest
from tests.core.helpers import recipe

from condensery import Registry, Run, UnknownKey
from condensery.contract import settings_of

REGISTRY = Registry.open()

OTHERS = {("ssl", "granularity"), ("ssl", "strengths")}
"""Lists and mappings that choose kinds of groups and not layers."""


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


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer?.0.conv1", "*.conv1"])
@pytest.mark.parametrize(("method", "setting", "kind"), choices())
def test_a_path_or_a_pattern_is_taken(method: str, setting: str, kind: type, layer: str, tmp_path: Path) -> None:
    check(tmp_path, method, setting, kind, layer)
