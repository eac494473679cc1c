"""The tour: the ten most used commands with what they print at 80 columns, run for the page that shows them.

Figures that are another machine's own, times above all, are masked digit by digit.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from condensery.errors import UsageError
from condensery_catalogue.generated import keep, play

MODULE = "condensery_catalogue.tour"
PAGE = Path("catalogue", "docs", "tour.md")
WORDS = """The ten most used commands, with what they print on a terminal of 80 columns. `#` stands for digits that are
another machine's own; `...` for what is left out. Every command has `--help`, and most have `--json`."""
NUMBERS = r"(?<![\w.])(?<!\w-)\d[\d,.]*"
"""Not those of names, such as LeNet-300-100."""
FIGURES = r"(?<![\w.])(?:\d[\d,.]*\d(?![\d,.]*x\d)|\d+(?= s\b))"
"""Numbers of more than a digit that are no shape, and seconds."""


class Stop(NamedTuple):
    """One command of the tour.

    :param words: what is said of it.
    :param masked: a pattern of what is masked.
    :param lines: how many are shown; what changes with each method that is added isn't.
    """

    command: str
    words: str
    masked: str = r"(?!)"
    lines: int = 30


STOPS = (
    Stop("condensery list --network DQN", "The papers, by any word of the survey's taxonomy."),
    Stop("condensery show magnitude", "One card: paper, settings, and each claim with where it was read."),
    Stop(
        'condensery fit "resnet8(width=0.5)" --method network-slimming',
        "What a net can take. Without `--method` all methods are ranked, and each that doesn't apply says why.",
        lines=3,
    ),
    Stop(
        'condensery compose "magnitude(sparsity=0.8)" --model "resnet8(width=0.5)" --epochs 1 --out runs/tour',
        "Run a line of methods. The ratio of files is what a disk sees.",
        FIGURES,
        40,
    ),
    Stop("condensery inspect runs/tour/artifact.safetensors", "Where the bytes of the compressed net are.", FIGURES),
    Stop("condensery measure runs/tour/artifact.safetensors", "What a net costs.", NUMBERS),
    Stop(
        "condensery reproduce magnitude --tier smoke --out runs/smoke", "A claim beside what is measured.", NUMBERS, 45
    ),
    Stop("condensery data", "Which data the tasks need, where they were looked for, and who has them.", lines=20),
    Stop(
        "condensery cache",
        "What is kept between runs; `condensery cache clear nets` removes the trained nets.",
        NUMBERS,
    ),
    Stop("condensery plugins", "What is installed.", NUMBERS),
)


def page(folder: Path) -> str:
    """Run all commands in a folder, one after another, and return the page.

    :raises UsageError: if one of them fails.
    """
    parts = [f"<!-- made by python -m {MODULE}: make tour -->", "# A tour", WORDS]
    for stop in STOPS:
        said = f"```console\n$ {stop.command}\n{output(stop, folder)}\n```"
        parts += [f"## {stop.command.split()[1]}", stop.words, said]
    return "\n\n".join(parts) + "\n"


def output(stop: Stop, folder: Path) -> str:
    """Run a command and return what it prints, its first lines, masked.

    :raises UsageError: if it fails.
    """
    # Nothing of this machine's own: no data, an empty cache, no terminal.
    kept = {name: value for name, value in os.environ.items() if name != "CONDENSERY_DATA"}
    environment = {**kept, "COLUMNS": "80", "CONDENSERY_CACHE": "cache", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "condensery_catalogue.cli", *shlex.split(stop.command)[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{stop.command}: {done.stderr.strip().splitlines()[-1]}")

    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    shown = [*lines[: stop.lines], *(["..."] if len(lines) > stop.lines else [])]
    return "\n".join(re.sub(stop.masked, lambda found: re.sub(r"\d", "#", found[0]), line) for line in shown)


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    with tempfile.TemporaryDirectory() as folder:
        return keep(PAGE, page(Path(folder)), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
