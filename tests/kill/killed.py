"""Runs that are killed, and go on: each in a process forked from one that has imported everything already."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.core.helpers import recipe, registry

from condensery import Run
from condensery.errors import CondenseryError
from condensery.measure import quick
from condensery.recipe import parse
from condensery.run import Checked

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
"""Audit events of operations that change a folder; opening a file to write counts as well."""


def _recipe(line: str | list[Any], **changes: Any) -> Any:
    stages = parse(line) if isinstance(line, str) else line
    train = {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
    return recipe(stages, **{"train": train, **changes})


RECIPES: dict[str, Callable[[], Any]] = {
    "mask": lambda: _recipe("gradual-magnitude-pruning(sparsity=0.6) -> magnitude(sparsity=0.7)"),
    "quantizer": lambda: _recipe("lsq -> magnitude(sparsity=0.5)"),
    "players": lambda: _recipe("deep-mutual-learning -> hinton-kd{teacher=original}"),
    "rounds": lambda: _recipe("(magnitude(sparsity==1-0.6**(round+1)) + hinton-kd{teacher=original}) * 3"),
    "cut": lambda: _recipe("l1-filter-pruning(ratio=0.3) -> hinton-kd{teacher=original}"),
    "snapshots": lambda: _recipe(
        [
            {"name": "p", "epochs": 3},
            {"repeat": 2, "stages": [{"name": "q", "methods": ["hinton-kd"], "teacher": "stage:p@epoch=2"},
                                     {"name": "r", "methods": ["hinton-kd"], "teacher": "stage:q@epoch=1"}]},
        ]
    ),
    "base": lambda: _recipe("magnitude{teacher=original}", base={"epochs": 2, "batch_size": 16, "max_steps": 3}),
}  # fmt: skip
"""By what is at stake."""


CHECKED: dict[str, Checked] = {}
"""What the dry run of each recipe found. It writes nothing, so that no kill within it tells anything."""


def check(kind: str) -> None:
    """Run a recipe dry, once for all runs that are forked after that."""
    with tempfile.TemporaryDirectory() as place:
        CHECKED[kind] = Run(RECIPES[kind](), registry(), out=Path(place) / "out", device="cpu").check()


class Ended(NamedTuple):
    """How a case ended: ``equal``, or ``unequal``, ``lost``, ``traceback``, ``left behind``; and what was seen."""

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


def run(kind: str, folder: Path, *, kill_at: int | None = None, count: Path | None = None) -> None:
    """Run or go on with one recipe.

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
    out = folder / "out"
    known = CHECKED.get(kind)
    with quick():
        Run(RECIPES[kind](), registry(), out=out, resume=out.is_dir(), device="cpu", checked=known).execute()
    if count is not None:
        writes, number = -(10**9), writes
        count.write_text(str(number))


class Reference(NamedTuple):
    """A run that nobody killed: its artifact, how many writes it made and how long it took."""

    artifact: bytes
    writes: int
    seconds: float


def reference(kind: str) -> Reference:
    """Run a recipe to its end."""
    with tempfile.TemporaryDirectory() as place:
        folder, begun = Path(place) / "case", time.monotonic()
        folder.mkdir()
        status = forked(lambda: run(kind, folder, count=Path(place) / "count"))
        assert status == 0, f"{kind} doesn't run at all"
        seconds = time.monotonic() - begun
        return Reference(
            (folder / "out/artifact.safetensors").read_bytes(), int((Path(place) / "count").read_text()), seconds
        )


def killed(kind: str, known: Reference, rng: random.Random, *, aimed: int | None = None) -> Ended:
    """Kill a run, perhaps what goes on from it as well, and let it end; then compare.

    :param aimed: before this write; at a random time where it is ``None``.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "case"
        folder.mkdir()
        for _ in range(rng.choice([1, 1, 2])):
            if aimed is not None:
                forked(lambda: run(kind, folder, kill_at=aimed))
            else:
                forked(lambda: run(kind, folder), after=rng.uniform(0, known.seconds))

        said = Path(place) / "said"
        status = forked(lambda: _noted(said, lambda: run(kind, folder)))
        if status:
            return Ended("lost" if status == 2 else "traceback", " ".join(said.read_text().split())[-300:])
        if (folder / "out/artifact.safetensors").read_bytes() != known.artifact:
            return Ended("unequal", "the artifact differs from that of a run which nobody killed")
        left = sorted(p.name for p in (folder / "out").iterdir())
        if left != ["artifact.safetensors", "log.jsonl", "recipe.json", "report.json"]:
            return Ended("left behind", ", ".join(left))
        json.loads((folder / "out/report.json").read_text())
        return Ended("equal", "")


def _noted(path: Path, play: Callable[[], object]) -> None:
    """Play with what is said on standard error in a file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 2)
    play()
