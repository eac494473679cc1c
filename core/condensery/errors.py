"""Errors that a user can act on: one line, naming the culprit and the nearest right thing.

Every error here ends a command with its ``exit_code``; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CondenseryError(Exception):
    """Base of all errors that are reported as one line."""

    exit_code = 2


class UsageError(CondenseryError):
    """The input is wrong: a file, a key, a value."""


class UnknownKey(UsageError):
    """A key that nothing has registered.

    :param kind: what was looked for, in words: ``"method"``, ``"recipe field"``.
    :param key: the key that was given.
    :param known: the keys that would have been right.
    """

    def __init__(self, kind: str, key: str, known: Iterable[str], *, where: str = "") -> None:
        choices = sorted(known)
        near = nearest(key, choices)
        if near is not None:
            hint = f"; did you mean {near!r}?"
        elif choices:
            shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
            hint = f"; known: {shown}"
        else:
            hint = ""
        super().__init__(f"{where + ': ' if where else ''}unknown {kind} {short(key)}{hint}")
        self.kind, self.key, self.nearest = kind, key, near


class NotApplicable(CondenseryError):
    """A method can't act on this net, task or stage; raised before anything trains.

    :param method: key of the method.
    :param reason: what is missing, in words.
    """

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"{method} is not applicable: {reason}")
        self.method, self.reason = method, reason


class PluginError(CondenseryError):
    """A plugin is broken: it can't be imported, clashes, or implements a hook wrongly."""


class MethodError(CondenseryError):
    """A hook of a method raised; names the stage, the method and the hook."""

    exit_code = 1


class NonFiniteLoss(CondenseryError):
    """A loss term became infinite or not a number."""

    exit_code = 1


class NonFiniteNet(CondenseryError):
    """A weight or an output of a net became infinite or not a number."""

    exit_code = 1


class ArtifactError(UsageError):
    """A checkpoint or artifact can't be read: truncated, altered, or of another version."""


def short(value: object) -> str:
    """Return how messages show a value: its ``repr``, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known key closest in spelling to ``key``, or ``None`` if none is close."""
    choices = list(known)
    lower = {c.lower(): c for c in choices}
    found = difflib.get_close_matches(key.lower(), lower, n=1, cutoff=0.55)
    return lower[found[0]] if found else None
