"""Quality of trained nets that was measured before: the arms and seeds of one reproduction start from the same net."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from condensery.files import cache_dir, cached_json, write_json
from condensery.measure.measuring import evaluate
from condensery.measure.precision import AS_IT_IS, Precision
from condensery.measure.report import origin
from condensery.recipe import fingerprint
from condensery.tasks import Task, hash_tree

VERSIONED = ("abc", "builtins", "condensery", "torch", "typing")
"""Packages whose code is told by their versions, which stand beside what was made."""


def known_quality(
    task: Task, net: nn.Module, identity: Mapping[str, Any], device: torch.device, precision: Precision = AS_IT_IS
) -> dict[str, float]:
    """Return the task's metrics over the test split, from the cache where this very net was evaluated before.

    :param identity: says which task it is, and how the net is built; its values and the data are told by their bytes.
    """
    if not task.caches:
        return evaluate(task, net, device, precision=precision)

    key = {
        **identity,
        "data": task.fingerprint("test"),
        "values": digest(net),
        "precision": dataclasses.asdict(precision),
        "origin": origin(device.type),
    }

    path = cache_dir() / "quality" / f"{fingerprint(key)}.json"
    found: dict[str, float] | None = cached_json(path)
    if found is None:
        found = evaluate(task, net, device, precision=precision)
        if all(map(math.isfinite, found.values())):  # what isn't finite is no quality, and the run will say so
            write_json(path, found)
    return found


def digest(net: nn.Module) -> str:
    """Return a hash of the names, types, shapes and bytes of all that a net's state holds."""
    return hash_tree(dict(net.state_dict()))


def code_of(*targets: Any) -> str:
    """Return a hash of the code of classes and functions: of the modules that they and their bases stand in.

    Comments, docstrings and layout don't count; of what was typed into a notebook only its own functions do.
    """
    parts = [p for target in targets for p in (target.__mro__ if inspect.isclass(target) else (target,))]
    own = [part for part in parts if part.__module__.partition(".")[0] not in VERSIONED]
    return fingerprint([_bare(source) for part in own for source in _sources(part)])


def _sources(target: Any) -> list[str]:
    """Return the text of a target's module; where that is no file, of the target's own functions."""
    module = sys.modules.get(target.__module__)
    parts: list[Any] = [module]
    if not getattr(module, "__file__", None):
        parts = [f for f in (vars(target).values() if inspect.isclass(target) else [target]) if inspect.isfunction(f)]

    sources = []
    for part in parts:
        try:
            sources.append(inspect.getsource(part))
        except (OSError, TypeError):  # typed at a prompt, which keeps no text
            continue
    return sources


@functools.cache
def _bare(source: str) -> str:
    """Return a program without comments and docstrings, in one layout."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a lambda comes with the line around it
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[:1] = [] if len(node.body) > 1 else [ast.Pass()]
    return ast.unparse(tree)
