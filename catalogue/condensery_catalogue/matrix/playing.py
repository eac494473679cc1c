"""Running one cell, and processes that run many: importing what a cell needs takes longer than the cell.

``python -m condensery_catalogue.matrix.playing`` reads a cell a line from its standard input and answers each with a
line of what it came to. It ends when its input does, so that none outlives the command that started it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import CondenseryError, FileError, MethodError
from condensery_catalogue.matrix.plan import Planned, cell_recipe, in_one_line

INNERMOST = 3
"""Lines of a traceback that are kept."""


def play(cell: Planned, registry: Registry) -> dict[str, Any]:
    """Run a cell, once for each of its seeds, and return what it came to.

    The ``outcome`` is ``ran``, ``refused`` or ``fails``. A refusal is an error of the dry run, before anything trains;
    whatever goes wrong later, and every error that is no sentence for a user, is a fault of ours.
    """
    found: dict[str, Any] = {}
    runs = []
    try:
        for seed in range(cell.seeds):
            recipe = cell_recipe(cell, registry, seed)
            found.setdefault("line", in_one_line(recipe))
            with tempfile.TemporaryDirectory() as folder:
                runs.append(_run(recipe, registry, Path(folder) / "run"))
    except Refused as refusal:
        return {**found, "outcome": "refused", "reason": str(refusal)}
    except Exception as error:  # noqa: BLE001  whatever it is, it is what the cell came to
        return {**found, "outcome": "fails", "reason": innermost(error)}

    last = runs[-1]
    quality = [run["after"] for run in runs]
    # The median, because the first run on a net trains that net.
    seconds = round(statistics.median(run["seconds"] for run in runs), 2)
    return {**found, **last, "outcome": "ran", "quality": quality, "seconds": seconds}


class Refused(Exception):
    """The dry run of a cell was refused, with a sentence."""


def _run(recipe: Any, registry: Registry, folder: Path) -> dict[str, Any]:
    """Run one recipe and return its main figure before and after, its bytes, the layers that died and its seconds.

    :raises Refused: if its dry run is refused.
    """
    from condensery.measure import quick
    from condensery.run import Run

    started = time.process_time()
    with quick():
        try:
            run = Run(recipe, registry, out=folder, device="cpu")
            run.check()
        except (MethodError, FileError):
            raise  # a hook that broke, and a full disk, are no refusals
        except CondenseryError as error:
            raise Refused(str(error)) from None
        report = run.execute()

    metric = run.task.metrics[0].name
    before, after = report["before"], report["after"]
    return {
        "before": before["quality"][metric],
        "after": after["quality"][metric],
        "bytes_before": before["bytes"],
        "bytes": after["bytes"],
        "collapsed": sorted({str(what) for mark in report["collapsed"] for what in mark["what"]}),
        "seconds": time.process_time() - started,
    }


def innermost(error: BaseException) -> str:
    """Return what is kept of a traceback: its innermost lines and the error itself, without folders of this machine."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-INNERMOST:]
    lines = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    return "\n".join([*lines, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"])


# ---------------------------------------------------------------- processes


class Player:
    """A process that runs cells, one after another."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]

    def play(self, cell: Planned) -> dict[str, Any] | None:
        """Run a cell; ``None`` if the process was ended meanwhile, see :attr:`ended`."""
        try:
            self._process.stdin.write(json.dumps(dataclasses.asdict(cell)) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    @property
    def ended(self) -> int:
        """The exit status of a process that has ended; negative, the signal that ended it."""
        return int(self._process.wait())

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def close(self) -> None:
        """End the process and take back what it had."""
        self.kill()
        self._process.communicate()


def main() -> int:
    """Run the cells that come in."""
    import torch

    from condensery_catalogue.running import quiet_libraries

    # Whatever a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    quiet_libraries()
    torch.set_num_threads(1)

    registry = Registry.open()
    for line in sys.stdin:
        answers.write(json.dumps(play(planned_cell(json.loads(line)), registry)) + "\n")
        answers.flush()
    return 0


def planned_cell(data: Mapping[str, Any]) -> Planned:
    """Return a cell from plain data."""
    return Planned(data["net"], data["kind"], tuple(data["methods"]), data["seeds"])


if __name__ == "__main__":
    sys.exit(main())
