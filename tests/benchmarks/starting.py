"""``make bench``: how long commands that load no torch take to start, beside Python alone and an app that does nothing.

Seconds of the wall clock and of the processor, the least of several times: what else runs on the machine adds to the
wall clock, and on a busy one only the processor's tell anything. The aim is 0.3 s for each command.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

TIMES = 7
AIM_S = 0.3
CLI = ["-m", "condensery_catalogue.cli"]
EMPTY_APP = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"
COMMANDS = {
    "python": ["-c", "pass"],
    "an empty typer app": ["-c", EMPTY_APP],
    "import condensery": ["-c", "import condensery, sys; assert 'torch' not in sys.modules"],
    "import condensery.contract": ["-c", "from condensery.contract import Registry"],
    "condensery --version": [*CLI, "--version"],
    "condensery list": [*CLI, "list"],
    "condensery show lsq": [*CLI, "show", "lsq"],
    "condensery fit --help": [*CLI, "fit", "--help"],
}


def start_s(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds of one start of Python, of the wall clock and of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    wall = time.perf_counter() - start

    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print and store the figures."""
    figures = {}
    for name, arguments in COMMANDS.items():
        start_s(arguments)  # Python compiles what is new, and the cards are read into the cache.
        wall, processor = map(min, zip(*(start_s(arguments) for _ in range(TIMES)), strict=True))
        figures[name] = {"wall_s": wall, "processor_s": processor}
        alone = processor / figures["python"]["processor_s"]
        late = "  over the aim" if name.startswith("condensery") and processor > AIM_S else ""
        print(f"{name:28} {wall:6.3f} s, processor {processor:.3f} s, {alone:4.1f} x Python alone{late}")

    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-starting.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
