"""``make bench``, distilling: images a second of plain training and of distilling, teacher asked or its answers kept.

A resnet8 learns from a resnet20 on digits; where answers are kept the run that counts is the second with its seed. Each
side is a process of its own, so that its peak memory is too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from condensery import Registry, Run
from condensery.recipe import parse_recipe
from condensery.run.memory import LIMIT

EXAMPLES, ROUNDS = 1280, 2
SIDES = {"plain": "0", "asked": "0", "kept": "10"}
"""How each side trains, with how many megabytes for the teacher's answers."""


def trained(side: str, folder: Path) -> dict[str, float]:
    """Train a student for three epochs; return images a second in the last, and the process's peak in MB."""
    torch.set_num_threads(1)
    os.environ |= {"CONDENSERY_CACHE": str(folder / "cache"), LIMIT: SIDES[side]}
    taught = {} if side == "plain" else {"methods": ["hinton-kd"], "teacher": "original"}
    recipe = parse_recipe(
        {
            "task": "digits",
            "model": "resnet20",
            "base": "none",
            "data": {"subset": {"size": EXAMPLES}},
            "train": {"epochs": 3, "batch_size": 64, "optimizer": {"lr": 0.05}},
            "stages": [{"name": "bench", "student": "resnet8", **taught}],
        }
    )
    for number in range(2 if side == "kept" else 1):
        run = Run(recipe, Registry.open(), out=folder / str(number), device="cpu")
        run.execute()
    seconds = run.stages[-1]["history"][-1]["wall_s"]
    return {"per_s": EXAMPLES / seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def main() -> None:
    """Print and store the figures, the best of a few rounds."""
    if len(sys.argv) == 2:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(trained(sys.argv[1], Path(folder))))
        return

    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side, runs in found.items():
            done = subprocess.run([sys.executable, __file__, side], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))

    best = {
        side: {"per_s": max(run["per_s"] for run in runs), "mb": min(run["mb"] for run in runs)}
        for side, runs in found.items()
    }
    for side, (per_s, mb) in ((side, figures.values()) for side, figures in best.items()):
        share = per_s / best["plain"]["per_s"]
        print(f"resnet8 from resnet20, {side}: {per_s:.0f} images/s, {share:.2f} of plain, {mb:.0f} MB at the peak")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-distilling.json").write_text(json.dumps(best, indent=1) + "\n")


if __name__ == "__main__":
    main()
