"""How a command ends: its exit code, and each error that a user can act on in one line."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import typer

from condensery.errors import CondenseryError, UnknownKey, UsageError


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line; an error that a user can act on is one line, exit code 2.

    Typer shows errors of its own in several lines unless it is told to raise them.
    """
    usage: type[Any] = typer.BadParameter.__mro__[1]
    try:
        refuse_empty(sys.argv)
        code = app(standalone_mode=False)
        if code == 130:  # what Typer makes of a Ctrl-C between the commands' own handlers, which say how to go on
            raise KeyboardInterrupt
    except usage as error:
        said = error.format_message()
        if type(error).__name__ == "NoArgsIsHelpError":
            print(said)
            sys.exit(2)
        from condensery.recipe import UNQUOTED

        fail(UNQUOTED if "-" in sys.argv else said.rstrip("."), 2)
    except CondenseryError as error:
        brings = isinstance(error, UnknownKey) and error.kind == "model" and error.nearest is None
        fail(f"{error}; {how_to_bring(error.key)}" if brings else str(error), error.exit_code)  # type: ignore[attr-defined]
    except OSError as error:
        # A disk that is full, a folder that isn't ours: no bug of this program, wherever it was met.
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror or error}; give another place, or make room, and run it again", 2)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse an empty word, as a shell makes it of a variable that isn't set: as a path it is the folder one is in.

    :param words: of the command line.
    :raises UsageError: naming the option.
    """
    for before, word in pairwise(words):
        option = before if not word else word[:-1]
        if not word or re.fullmatch(r"--[\w-]+=", word):
            named = option if option.startswith("-") else f"the word after {option!r}"
            raise UsageError(f"{named} is empty; is a variable not set?")


def how_to_bring(key: str) -> str:
    """Return how a user gets a net that no plugin has under this key: a published one, or one of the user's own."""
    family, _, name = key.rpartition("/")
    own = "a net of your own: --plugin FILE.py that registers it, or condensery.compress(net, ...) in Python"
    if family == "torchvision":
        return f"timm/{name} is the same net; {own}"
    return f"a published net is timm/{name} or hf/{key}; {own}" if family and key[0] not in "./~" else own


def fail(said: str, code: int) -> NoReturn:
    """Say what is wrong in one line, as JSON too where that was asked for, and end."""
    if "--traceback" in sys.argv:
        traceback.print_exc()
    print(f"error: {' '.join(said.split())}", file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": said}))
    sys.exit(code)
