"""The base class of a method, and how one is built from a recipe's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

from condensery.errors import CondenseryError, PluginError, UnknownKey, UsageError


class Words(NamedTuple):
    """What a method needs, leaves and removes, in the words of :mod:`condensery.contract.facts`."""

    needs: frozenset[str]
    leaves: frozenset[str]
    removes: frozenset[str]


@dataclasses.dataclass(eq=False, kw_only=True)
class Method:
    """One cited technique: hyper-parameters as fields, and a few hook implementations.

    Write ``@dataclass(eq=False, kw_only=True)`` over each subclass: plugins are compared with ``==``, which must mean
    identity. What is built in ``prepare`` is kept in attributes that end in ``_``; those that are tensors without
    gradient, numbers, strings, or lists and dicts of these are saved in checkpoints and restored by themselves.
    Keep modules or names across a stage, never parameters: a cut replaces them.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Words that must hold when the stage starts, see :mod:`condensery.contract.facts`; else ``NotApplicable``."""
    leaves: ClassVar[frozenset[str]] = frozenset()
    """Words that hold for all later stages."""
    removes: ClassVar[frozenset[str]] = frozenset()
    """Words that no longer hold after it."""
    acts_on: ClassVar[tuple[str, ...]] = ("student",)
    """Players for which the per-player hooks are called; ``("all",)`` for every one."""

    key: ClassVar[str] = ""
    """As it is registered; each class says its own, and messages name it."""

    def words(self) -> Words:
        """Return what it needs, leaves and removes; override where a hyper-parameter decides."""
        return Words(self.needs, self.leaves, self.removes)


def settings_of(cls: type[Method]) -> dict[str, dataclasses.Field[Any]]:
    """Return the hyper-parameters of a method class by name."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


def build_method(
    key: str, cls: type[Method], settings: Mapping[str, Any], card: Mapping[str, Any] | None = None
) -> Method:
    """Build one configured method.

    :param card: the paper's card; its hyper-parameter ranges are checked, so that a bad value fails before training.
    :raises UnknownKey: for a setting that the method doesn't have.
    :raises UsageError: for a value of the wrong type or out of range.
    """
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Method)):
        raise PluginError(f"{key}: {cls.__name__} must be a dataclass that extends condensery.Method")
    known = settings_of(cls)
    for name in settings:
        if name not in known:
            raise UnknownKey("hyper-parameter", name, known, where=key)
    described: Mapping[str, Any] = (card or {}).get("hyperparameters") or {}
    hints = get_type_hints(cls)
    checked = {n: check_value(f"{key}.{n}", v, hints[n], described.get(n) or {}) for n, v in settings.items()}
    try:
        method = cls(**checked)
    except CondenseryError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: {error}") from error
    return method


SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
"""How messages write the bounds of a card."""


def check_value(name: str, value: Any, hint: Any, described: Mapping[str, Any]) -> Any:
    """Return ``value`` as the type of ``hint``, within the range that the card gives; it holds for each entry too.

    :raises UsageError: naming the setting, the value and what would be right.
    """
    if isinstance(value, (dict, list)) and _fits(value, hint):
        inner = (get_args(hint) or (Any,))[-1] if get_origin(hint) in (dict, list) else Any
        if isinstance(value, list):
            return [check_value(f"{name}.{i}", v, inner, described) for i, v in enumerate(value)]
        return {k: check_value(f"{name}.{k}", v, inner, described) for k, v in value.items()}
    given = value
    if not _fits(value, hint):
        if _fits(0.5, hint) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        else:
            raise UsageError(f"{name} must be {_words(hint)}, got {value!r}")
    elif hint is float and isinstance(value, int):
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        bounds = {word: described[word] for word in SIGNS if described.get(word) is not None}
        if not all(_compare(value, word, bound) for word, bound in bounds.items()):
            wanted = " and ".join(f"{SIGNS[word]} {bound:g}" for word, bound in bounds.items())
            raise UsageError(f"{name} must be {wanted}, got {given!r}")
    choices = described.get("choices")
    if choices and value not in choices:
        raise UnknownKey("value", str(value), [str(c) for c in choices], where=name)
    return value


def _compare(value: float, word: str, bound: float) -> bool:
    return {"gt": value > bound, "ge": value >= bound, "lt": value < bound, "le": value <= bound}[word]


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return isinstance(value, hint)
    if str(origin) == "typing.Literal":
        return value in args
    if origin in (list, tuple, dict, set, frozenset):
        return isinstance(value, (list, tuple) if origin in (list, tuple) else origin)
    return any(_fits(value, a) for a in args)  # a union


def _words(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]
    args = get_args(hint)
    if args and str(get_origin(hint)) == "typing.Literal":
        return "one of " + ", ".join(map(repr, args))
    if args and get_origin(hint) not in (list, tuple, dict):
        return " or ".join(_words(a) for a in args)
    return f"a {getattr(get_origin(hint) or hint, '__name__', hint)}"


def takes_list(hint: Any) -> bool:
    """Tell whether a setting's own type is a list, so that a list isn't one value for each round."""
    options = get_args(hint) if get_origin(hint) not in (list, tuple) else ()
    return get_origin(hint) in (list, tuple) or any(get_origin(o) in (list, tuple) for o in options)
