"""Changing one value of a recipe by its dotted path: ``--set stages.2.hinton-kd.T=2``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from condensery.errors import UnknownKey, UsageError


def apply_overrides(data: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a recipe's plain data with some values changed; the input stays as it is.

    A stage is addressed by its number (from 0) or its name; inside a stage, a method's key addresses its settings.

    :param assignments: ``path=value`` each, the value in YAML.
    :raises UsageError: naming the part of the path that leads nowhere.
    """
    out: dict[str, Any] = copy.deepcopy(dict(data))
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign or not path.strip():
            raise UsageError(f"--set {assignment!r}: write path=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {assignment!r}: {text!r} is not a value") from None
        _set(out, path.strip().split("."), value, assignment)
    return out


def _set(node: Any, parts: list[str], value: Any, where: str) -> None:
    head, rest = parts[0], parts[1:]
    if isinstance(node, list):
        number = _index(node, head, where)
        if not rest:
            node[number] = value
            return
        if isinstance(node[number], str):
            node[number] = {"methods": [node[number]]}
        _set(node[number], rest, value, where)
        return
    if not isinstance(node, dict):
        raise UsageError(f"--set {where!r}: {head!r} leads into a plain value")
    if isinstance(node.get("methods"), list) and head not in node:
        settings = _method_settings(node["methods"], head)
        if settings is not None and rest:
            _set(settings, rest, value, where)
            return
    if not rest:
        node[head] = value
        return
    if isinstance(node.get(head), str) and head in ("model", "task", "student", "teacher"):
        node[head] = {"key": node[head]}
    if node.get(head) is None:
        node[head] = {}
    _set(node[head], rest, value, where)


def _index(items: list[Any], head: str, where: str) -> int:
    if head.isdecimal():
        if int(head) >= len(items):
            raise UsageError(f"--set {where!r}: there are {len(items)} stages, numbered from 0; no {head}")
        return int(head)
    names = {str(i["name"]): n for n, i in enumerate(items) if isinstance(i, Mapping) and i.get("name")}
    if head not in names:
        raise UnknownKey("stage", head, names, where=f"--set {where!r}")
    return names[head]


def _method_settings(methods: list[Any], key: str) -> dict[str, Any] | None:
    """Return a method's settings in a stage, however the method is spelt there."""
    for number, item in enumerate(methods):
        if item == key:
            methods[number] = {"key": key, "settings": {}}
        elif isinstance(item, dict) and "key" not in item and key in item:
            methods[number] = {"key": key, "settings": item[key] or {}}
        elif not (isinstance(item, dict) and item.get("key") == key):
            continue
        found: dict[str, Any] = methods[number].setdefault("settings", {})
        return found
    return None
