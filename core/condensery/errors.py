"""Errors that a user can act on: one line, naming the culprit and the nearest right thing.

Every error here ends a command with its ``exit_code``; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any


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
    """A hook of a method raised; names the stage, the method, the hook, and the line of the plugin's own file."""


class Misuse(KeyError):
    """A hook asks for what it can't have there, in words; the stage's manager adds whose hook it was, and where.

    It is a ``KeyError`` because mappings raise it too, whose ``get`` and ``in`` then work as ever.
    """

    def __str__(self) -> str:
        return str(self.args[0])


class NonFiniteLoss(CondenseryError):
    """A loss term became infinite or not a number."""

    exit_code = 1


class NonFiniteNet(CondenseryError):
    """A weight or an output of a net became infinite or not a number."""

    exit_code = 1


class FileError(UsageError):
    """A file can't be written; names it and says how to go on."""


class ArtifactError(UsageError):
    """A checkpoint or artifact can't be read: truncated, altered, or of another version."""


CRASH = (Exception, SystemExit)
"""What a plugin's code may raise: ``sys.exit()`` in it would end everything without a word."""


def cut(text: str) -> str:
    """Return how messages show a name that may be of any length: as it is, in one line, cut after 60 characters."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else line[: SHOWN - 3] + "..."


def in_line(error: BaseException, most: int = 160) -> str:
    """Return what an error says in one line of limited length; its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def called(what: str, function: Callable[..., Any], *given: Any) -> Any:
    """Call a function that a user gave, and return what it returns.

    :param what: the user knows it as, for the message.
    :raises UsageError: for whatever it raises, naming it and the line of its own file.
    """
    try:
        return function(*given)
    except CondenseryError:
        raise
    except CRASH as error:
        file = getattr(getattr(function, "__code__", None), "co_filename", None)
        lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
        place = f" ({file}:{lines[-1]})" if lines else ""
        raise UsageError(f"{what}: {type(error).__name__}: {in_line(error)}{place}") from error


SHOWN = 60
"""Characters of a value that a message shows."""


def short(value: object) -> str:
    """Return how messages show a value: its ``repr``, cut after 60 characters; no more of it is made than that."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > SHOWN:
            return text[: SHOWN - 3] + "..."
    return text


def _pieces(value: object) -> Iterator[str]:
    """Yield the ``repr`` of plain data bit by bit: a few aliases in YAML can stand for millions of entries."""
    if type(value) in (list, tuple, dict):
        items = value.items() if isinstance(value, dict) else value
        opening, closing = (
            ("{", "}") if isinstance(value, dict) else ("[", "]") if isinstance(value, list) else ("(", ")")
        )
        yield opening
        for number, item in enumerate(items):  # type: ignore[arg-type, var-annotated]
            yield ", " if number else ""
            if isinstance(value, dict):
                yield from _pieces(item[0])
                yield ": "
                yield from _pieces(item[1])
            else:
                yield from _pieces(item)
        yield ",)" if isinstance(value, tuple) and len(value) == 1 else closing
    elif isinstance(value, str):
        yield repr(value[: SHOWN + 1])
    elif isinstance(value, int) and value.bit_length() > 8 * SHOWN:
        yield f"a number of {value.bit_length()} bits"
    else:
        yield repr(value)


def nearest(key: str, known: Iterable[str], cutoff: float = 0.55) -> str | None:
    """Return the known key closest in spelling to ``key``, or ``None`` if none is close.

    :param cutoff: share of letters that must agree, 0 to 1.
    """
    choices = list(known)
    lower = {c.lower(): c for c in choices}
    key = key.lower()

    # Of names that differ in their numbers alone, the spelling says nothing: resnet21 is nearer to 20 than to 32.
    numbered = [c for c in lower if NUMBER.search(c) and NUMBER.sub("#", c) == NUMBER.sub("#", key)]
    if numbered:
        wanted = [int(n) for n in NUMBER.findall(key)]
        gaps = {c: [abs(int(n) - w) for n, w in zip(NUMBER.findall(c), wanted, strict=True)] for c in numbered}
        return lower[min(numbered, key=lambda c: gaps[c])]

    found = difflib.get_close_matches(key, lower, n=1, cutoff=cutoff)
    return lower[found[0]] if found else None


NUMBER = re.compile(r"[0-9]{1,18}")
