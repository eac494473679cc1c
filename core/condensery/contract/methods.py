"""The base class of a method, and how one is built from a recipe's settings."""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from condensery.errors import CondenseryError, PluginError, UnknownKey, UsageError, short


class Words(NamedTuple):
    """What a method needs, leaves and removes, in the words of :mod:`condensery.contract.facts`."""

    needs: frozenset[str]
    leaves: frozenset[str]
    removes: frozenset[str]


@dataclasses.dataclass(eq=False, kw_only=True)
class Method:
    """One cited technique: hyper-parameters as fields, and a few hook implementations.

    Write ``@dataclass(eq=False, kw_only=True)`` over each subclass: plugins are compared with ``==``, which must mean
    identity. What is built in ``prepare`` is kept in attributes that end in ``_``: tensors without gradient, numbers,
    strings, or lists, tuples and dicts of these. They are saved in checkpoints and restored by themselves; a dry run
    refuses any other, unless ``state()`` returns what is saved, and ``load_state(state)`` takes it.
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
    reports: ClassVar[tuple[str, ...]] = ()
    """Names in ``report`` that are there on every net: a search or a picture may ask for ``reported.<key>.<name>``."""
    asks_quality: ClassVar[bool] = False
    """Whether it calls ``stage.quality``: the recipe then holds out examples that no stage trains on."""

    key: ClassVar[str] = ""
    """As it is registered; each class says its own, and messages name it."""

    def words(self) -> Words:
        """Return what it needs, leaves and removes; override where a hyper-parameter decides."""
        return Words(self.needs, self.leaves, self.removes)


def settings_of(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the hyper-parameters of a method class by name."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def build_method(
    key: str, cls: type[Method], settings: Mapping[str, Any], card: Mapping[str, Any] | None = None
) -> Method:
    """Build one configured method.

    :param card: the paper's card; its hyper-parameter ranges are checked, so that a bad value fails before training.
    :raises PluginError: for a class that is no method.
    :raises UnknownKey: for a setting that the method doesn't have.
    :raises UsageError: for a value of the wrong type or out of range.
    """
    if not (dataclasses.is_dataclass(cls) and issubclass(cls, Method)):
        raise PluginError(f"{key}: {cls.__name__} must be a dataclass that extends condensery.Method")
    plain = [name for name in inspect.get_annotations(cls) if name not in cls.__dataclass_fields__]
    lost = [name for name in plain if "ClassVar" not in str(inspect.get_annotations(cls)[name])]
    if lost:
        raise PluginError(
            f"{key}: {cls.__name__} lacks @dataclass(eq=False, kw_only=True), so that {', '.join(lost)} is no setting"
        )

    return configured(key, cls, settings, card)


T = TypeVar("T")


def configured(
    key: str, cls: type[T], settings: Mapping[str, Any], card: Mapping[str, Any] | None = None, **given: Any
) -> T:
    """Build what a user configures by settings: a dataclass of a plugin's.

    :param given: its fields that are no settings of the user's.
    :raises UnknownKey: for a setting that it doesn't have.
    :raises UsageError: for a value of the wrong type or out of range.
    """
    known = settings_of(cls).keys() - given.keys()
    for name in settings:
        if name not in known:
            raise UnknownKey("hyper-parameter", name, known, where=key)

    described: Mapping[str, Any] = (card or {}).get("hyperparameters") or {}
    hints = get_type_hints(cls)
    checked = {
        name: check_value(f"{key}.{name}", value, hints[name], described.get(name) or {})
        for name, value in settings.items()
    }
    try:
        return cls(**checked, **given)
    except CondenseryError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: {error}") from error


BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}
"""The bounds of a card: how messages write them, and what holds for a value and its bound."""


def in_words(described: Mapping[str, Any]) -> str:
    """Return the bounds that a card gives for a hyper-parameter, as in ``>= 0 and < 1``."""
    given = [f"{sign} {described[word]:g}" for word, (sign, _) in BOUNDS.items() if described.get(word) is not None]
    return " and ".join(given)


def check_value(name: str, value: Any, hint: Any, described: Mapping[str, Any]) -> Any:
    """Return ``value`` as the type of ``hint``, within the range that the card gives; it holds for each entry too.

    :param described: the hyper-parameter's part of the card: bounds and choices.
    :raises UsageError: naming the setting, the value and what would be right.
    """
    if not _fits(value, hint):
        raise UsageError(f"{name} must be {_words(hint)}, got {short(value)}")

    if isinstance(value, (dict, list)):
        inner = (get_args(hint) or (Any,))[-1] if get_origin(hint) in (dict, list) else Any
        if isinstance(value, list):
            return [check_value(f"{name}.{i}", entry, inner, described) for i, entry in enumerate(value)]
        return {key: check_value(f"{name}.{key}", entry, inner, described) for key, entry in value.items()}

    if _is_number(value):
        for word, (_, holds) in BOUNDS.items():
            if described.get(word) is not None and not holds(value, described[word]):
                raise UsageError(f"{name} must be {in_words(described)}, got {short(value)}")

    choices = described.get("choices")
    if choices and value not in choices:
        raise UnknownKey("value", str(value), [str(choice) for choice in choices], where=name)
    return float(value) if hint is float else value


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number; to Python, ``True`` is one too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type; what is in a list or dict isn't looked at, and a tuple may be a list."""
    if hint is Any:
        return True
    if hint is float:
        return _is_number(value)
    if hint is int:
        return _is_number(value) and isinstance(value, int)
    if hint is None:
        return value is None

    origin, options = get_origin(hint), get_args(hint)
    if origin is None:
        return isinstance(value, hint)
    if origin is Literal:
        return value in options
    if origin in (list, tuple):
        return isinstance(value, (list, tuple))
    if origin in (dict, set, frozenset):
        return isinstance(value, origin)
    return any(_fits(value, option) for option in options)  # What is left is a union.


def _words(hint: Any) -> str:
    """Return how messages name a type."""
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
    if hint in names:
        return names[hint]

    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, options))
    if options and origin not in (list, tuple, dict):
        return " or ".join(_words(option) for option in options)
    return f"a {getattr(origin or hint, '__name__', hint)}"


def takes_list(hint: Any) -> bool:
    """Tell whether a setting's own type is a list, so that a list isn't one value for each round."""
    kinds = {get_origin(hint), *map(get_origin, get_args(hint))}
    return bool(kinds & {list, tuple})
