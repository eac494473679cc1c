"""Cases that each run in a process of their own, forked from one that has imported everything already.

A case may hang, take all memory, kill itself, import or run what it found: its process ends, and what it did is told.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from condensery.errors import CondenseryError

SECONDS = 5
"""Of computing that a case may take; it may wait four times as long, as on a machine that does other things too."""
MEMORY = 1_500_000_000
"""Bytes that a case may take beyond what its process has when it starts: the limit for nets, and half of it again."""
LONGEST = 300


class Outcome(NamedTuple):
    """How a case ended.

    :param kind: ``valid``, ``refused``, or what must not be: ``traceback``, ``several lines``, ``hung``, ``memory``,
        ``executed``, ``left behind``, ``died``.
    :param said: the message, or what was seen.
    :param through: the functions in which it was refused, from the outermost on.
    """

    kind: str
    said: str
    through: Sequence[str] = ()


GOOD = ("valid", "refused")


def run_case(case: Callable[[Path], object], *, seconds: int = SECONDS) -> Outcome:
    """Run one case in a forked process, in a folder of its own; tell how it ended.

    :param case: gets the folder. It returns when the result is valid, and raises otherwise.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            _play(case, Path(folder), writing)

        os.close(writing)
        ready, _, _ = select.select([reading], [], [], 4 * seconds)
        said = _all_of(reading) if ready else b""
        os.close(reading)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)

    if not ready or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return Outcome("hung", f"over {seconds} s")
    if not said:
        return Outcome("died", f"status {status}")
    return Outcome(*json.loads(said))


def _all_of(handle: int) -> bytes:
    """Return what a pipe gives until it is closed."""
    found = b""
    while piece := os.read(handle, 65536):
        found += piece
    return found


def _play(case: Callable[[Path], object], folder: Path, writing: int) -> None:
    """Run a case and tell how it ended; never returns."""
    seen: list[str] = []
    try:
        os.chdir(folder)
        os.environ["CONDENSERY_CACHE"] = str(folder / "cache")
        _watch(seen)
        base = _memory()
        resource.setrlimit(resource.RLIMIT_AS, (base + 4 * MEMORY, base + 4 * MEMORY))
        kind, said, through = _ending(case, folder)
        if seen:
            kind, said = "executed", seen[0]
        elif _peak() - _resident() > MEMORY:
            kind, said = "memory", f"{_peak() / 1e6:,.0f} MB; {said}"
        elif any(folder.rglob(".*.[0-9a-f]*")):
            kind, said = "left behind", str(next(folder.rglob(".*.[0-9a-f]*")))
        os.write(writing, json.dumps([kind, said[:2000], through]).encode())
    finally:
        os._exit(0)


def _ending(case: Callable[[Path], object], folder: Path) -> tuple[str, str, list[str]]:
    through: list[str] = []
    try:
        case(folder)
    except CondenseryError as error:
        said = str(error)
        bad = "\n" in said or len(said.replace(str(folder), "")) >= LONGEST or error.exit_code != 2
        cause: BaseException | None = error
        while cause is not None:
            through += [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
            cause = cause.__context__
        return ("several lines" if bad else "refused"), said, through
    except MemoryError:
        return "memory", "MemoryError", through
    except BaseException as error:  # noqa: BLE001  Whatever else a case raises is what is looked for.
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})", through
    return "valid", "", through


def _watch(seen: list[str]) -> None:
    """Note what no case may do: reach for the network, start a program, import what lies in its folder."""
    before = set(sys.path)
    sys.path.insert(0, os.getcwd())

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
            seen.append(f"{event} {args[:2]!r}"[:200])
        elif event == "open" and args[1] in ("r", "rb") and str(args[0]).endswith((".py", ".pyc", ".so")):
            if not _strange(str(args[0]), before):
                return
            seen.append(f"import of {args[0]}")

    sys.addaudithook(hook)
    socket.setdefaulttimeout(1)


def _strange(path: str, known: set[str]) -> bool:
    """Tell whether code comes from neither the installed packages nor this project."""
    ours = {*known, sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])}
    return not any(root and os.path.isabs(root) and path.startswith(root) for root in ours)


def _memory() -> int:
    """Return the addresses that this process has taken, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


_START = 0


def _resident() -> int:
    return _START


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def started() -> float:
    """Return when a target began, in seconds of a clock that never jumps; the memory it has now is no case's."""
    global _START
    _START = _peak()
    return time.monotonic()
