"""Runs that are killed, and go on: each in a process forked from one that has imported everything already."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.kill.kinds import KINDS, Kind

from condensery.errors import CondenseryError
from condensery.measure import quick

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
"""Audit events of operations that change a folder; opening a file to write counts as well."""


class Ended(NamedTuple):
    """How a case ended: ``equal``, or ``unequal``, ``lost``, ``traceback``, ``damaged``; and what was seen."""

    kind: str
    said: str


def forked(play: Callable[[], object], *, after: float | None = None) -> int:
    """Run something in a process of its own; returns its status, -9 where it was killed.

    :param after: seconds after which it is killed.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            play()
            status = 0
        except CondenseryError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
        except BaseException:  # noqa: BLE001  Told by the status, whatever it was.
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)  # the process is ours until it is waited for, dead or not
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def play(kind: Kind, folder: Path, *, kill_at: int | None = None, count: Path | None = None) -> None:
    """Run or go on with one kind of command.

    :param kill_at: number of the write before which the process kills itself.
    :param count: file that the number of writes goes to.
    """
    os.environ["CONDENSERY_CACHE"] = str(folder / "cache")
    writes = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal writes
        writing = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wa+x")
        if (event in WRITES or writing) and str(args[0]).startswith(str(folder)):
            writes += 1
            if writes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with quick():
        kind.play(folder)
    if count is not None:
        writes, number = -(10**9), writes
        count.write_text(str(number))


class Reference(NamedTuple):
    """A command that nobody killed: what it came to, how many writes it made and how long it took."""

    outcome: object
    writes: int
    seconds: float


def prepared(kind: Kind, place: str) -> Path:
    """Return a new folder with what a command reads."""
    folder = Path(place) / "case"
    folder.mkdir()
    kind.prepare(folder)
    return folder


def warm(name: str) -> None:
    """Play a kind here, so that processes forked from this one have imported all that it needs."""
    here, cache, path = os.getcwd(), os.environ.get("CONDENSERY_CACHE"), list(sys.path)
    with tempfile.TemporaryDirectory() as place:
        folder = prepared(KINDS[name], place)
        os.environ["CONDENSERY_CACHE"] = str(folder / "cache")
        with quick():
            KINDS[name].play(folder)
        KINDS[name].outcome(folder)
    os.chdir(here)
    sys.path[:] = path
    sys.modules.pop("killed", None)  # the package of the paper, which lay in that folder
    os.environ.pop("CONDENSERY_CACHE")
    if cache is not None:
        os.environ["CONDENSERY_CACHE"] = cache


def reference(name: str) -> Reference:
    """Run a kind of command to its end."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as place:
        folder, begun = prepared(kind, place), time.monotonic()
        status = forked(lambda: play(kind, folder, count=Path(place) / "count"))
        assert status == 0, f"{name} doesn't run at all"
        seconds = time.monotonic() - begun
        return Reference(kind.outcome(folder), int((Path(place) / "count").read_text()), seconds)


def killed(name: str, known: Reference, rng: random.Random, *, aimed: int | None = None) -> Ended:
    """Kill a command, perhaps what goes on from it as well, and let it end; then compare.

    :param aimed: before this write; at a random time where it is ``None``.
    """
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as place:
        folder, said = prepared(kind, place), Path(place) / "said"
        try:
            for _ in range(rng.choice([1, 1, 2])):
                if aimed is not None:
                    forked(lambda: play(kind, folder, kill_at=aimed))
                else:
                    forked(lambda: play(kind, folder), after=rng.uniform(0, known.seconds))
                kind.holds(folder)

            status = forked(lambda: _noted(said, lambda: play(kind, folder)))
            if status:
                return Ended("lost" if status == 2 else "traceback", " ".join(said.read_text().split())[-300:])
            if kind.outcome(folder) != known.outcome:
                return Ended("unequal", "it came to something else than the one which nobody killed")
        except (CondenseryError, OSError) as error:
            return Ended("damaged", str(error))
        return Ended("equal", "")


def _noted(path: Path, play: Callable[[], object]) -> None:
    """Play with what is said on standard error in a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 2)
    play()
