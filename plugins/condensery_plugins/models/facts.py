"""What builders check before they build."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from condensery import UnknownKey, UsageError
from condensery.tasks import TaskFacts

Build = Callable[..., nn.Module]


def builder(*kinds: str, least: int = 0, family: str = "") -> Callable[[Build], Build]:
    """Mark a function ``build(facts, name, **settings)`` as a builder that checks what it is given.

    :param kinds: of task it takes: ``image``, ``text``, ``vector``.
    :param least: side of the smallest image it takes, in pixels.
    :param family: what stands before ``name`` in the model's key: ``timm/``.
    """

    def wrap(build: Build) -> Build:
        parameters = inspect.signature(build).parameters
        settings = {n for n, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        is_open = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

        @functools.wraps(build)
        def checked(facts: TaskFacts, name: str, **config: Any) -> nn.Module:
            key = family + name
            need(facts, key, kinds, least=least)
            for unknown in () if is_open else sorted(set(config) - settings):
                refuse(key, unknown, settings)
            return build(facts, name, **config)

        return checked

    return wrap


def refuse(key: str, setting: str, known: set[str]) -> None:
    """Refuse a setting that a model doesn't have.

    :raises UsageError: in words for the settings that a model spec's own fields stand for.
    :raises UnknownKey: naming the nearest known setting.
    """
    if setting == "pretrained":
        raise UsageError(f"model {key!r} has no weights on the hub; give 'weights' a safetensors file")
    if setting == "depth":
        raise UsageError(f"model {key!r} has a fixed depth: it takes neither 'depth' nor 'layers'")
    raise UnknownKey("setting", setting, known, where=f"model {key!r}")


def need(facts: TaskFacts, name: str, kinds: Sequence[str], *, least: int = 0) -> None:
    """Refuse a task of another kind, or images that are too small.

    :raises UsageError: naming the model and what it takes.
    """
    if facts.kind not in kinds:
        raise UsageError(f"model {name!r} takes {' or '.join(f'{k}s' for k in kinds)}, the task gives {facts.kind}s")
    if facts.kind == "image" and min(facts.height, facts.width) < least:
        raise UsageError(
            f"model {name!r} needs images of at least {least}x{least}, the task's are {facts.height}x{facts.width}"
        )


def scaled(width: float, channels: int, *, multiple: int = 1) -> int:
    """Return a number of channels times a width, rounded to a multiple, at least one multiple.

    :raises UsageError: if the width or the number is not positive.
    """
    if width <= 0:
        raise UsageError(f"width must be positive, got {width}")
    if channels <= 0:
        raise UsageError(f"a layer has at least one channel or unit, got {channels}")
    return max(1, round(channels * width / multiple)) * multiple


def check_widths(name: str, setting: str, widths: Sequence[int], many: str = "a list of", count: int = 0) -> None:
    """Refuse channels or units of a model's layers that aren't whole numbers above 0.

    :param many: how many there must be, in words.
    :param count: the same as a number; 0: any.
    :raises UsageError: naming model and setting.
    """
    right = not count or len(widths) == count
    if not right or not all(isinstance(width, int) and width > 0 for width in widths):
        raise UsageError(f"model {name!r}: {setting} is {many} whole numbers above 0, got {list(widths)}")


def shared(key: str, what: str, size: int, heads: int) -> int:
    """Return ``size`` if ``heads`` share it evenly.

    :raises UsageError: naming both.
    """
    if heads < 1 or size < heads or size % heads:
        raise UsageError(f"model {key!r}: {what} {size} is not a multiple of {heads} heads")
    return size
