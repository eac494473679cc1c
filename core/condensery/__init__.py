"""Condensery's core: hook specs, registry, recipes, stages and the engine. It knows no method.

Importing this package doesn't import torch; names that need it are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from condensery.errors import CondenseryError, NotApplicable, PluginError, UnknownKey, UsageError
from condensery.hookspecs import hookimpl
from condensery.methods import Method

if TYPE_CHECKING:
    from condensery.artifact import load
    from condensery.engine import Run
    from condensery.layers import Layer
    from condensery.recipe import Recipe
    from condensery.registry import Registry
    from condensery.stage import Stage, Weight
    from condensery.tasks import Batch, Task
    from condensery.transforms import Transform, straight_through

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "CondenseryError",
    "Layer",
    "Method",
    "NotApplicable",
    "PluginError",
    "Recipe",
    "Registry",
    "Run",
    "Stage",
    "Task",
    "Transform",
    "UnknownKey",
    "UsageError",
    "Weight",
    "__version__",
    "hookimpl",
    "load",
    "straight_through",
]

_LAZY = {
    "Batch": "tasks",
    "Layer": "layers",
    "Recipe": "recipe",
    "Registry": "registry",
    "Run": "engine",
    "Stage": "stage",
    "Task": "tasks",
    "Transform": "transforms",
    "Weight": "stage",
    "load": "artifact",
    "straight_through": "transforms",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"condensery.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'condensery' has no attribute {name!r}")
