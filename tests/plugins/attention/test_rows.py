"""Which classes of timm and transformers are known, and as what."""

from __future__ import annotations

import importlib

from condensery import Registry
from condensery.surgery.attention.rows import Row
from condensery_plugins.attention import ROWS, timm_nets, transformers_nets

REGISTRY = Registry.open()


def test_each_class_is_there_under_the_name_that_its_row_has() -> None:
    for name, _ in ROWS:
        module, _, cls = name.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), cls), type), name
        assert isinstance(REGISTRY.load("attention", name), Row), name


def test_each_row_is_of_some_class() -> None:
    targets = {target for _, target in ROWS}
    for module in (timm_nets, transformers_nets):
        file = module.__name__.removeprefix("condensery_plugins.")
        rows = [name for name, row in vars(module).items() if isinstance(row, Row)]
        assert {f"{file}:{name}" for name in rows} <= targets
