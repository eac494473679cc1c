"""``make bench``, memory: magnitude pruning of a BERT of 86 million parameters without training, start to artifact.

The run is in a process of its own, and a thread looks at that process's resident memory all the time; what stood there
before the first net was built is taken off.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from condensery import Registry, Run
from condensery.measure import dense_bytes
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse

DEPTH = int(os.environ.get("BENCH_DEPTH", "12"))
"""Of the BERT: 12 layers are 85.5 million parameters beside the embeddings of a small vocabulary."""


def peak_bytes() -> int:
    """Return the peak of this process's resident memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pruned(folder: Path) -> dict[str, float]:
    """Run the recipe; returns seconds and peak memory, over what the net alone would take."""
    torch.set_num_threads(1)
    registry = Registry.open()
    model = {"key": "transformer", "hidden": 768, "depth": DEPTH, "heads": 12}
    small = {"data": {"subset": {"size": 32}}, "base": "none", "train": {"epochs": 0}}
    stages = parse("magnitude(sparsity=0.9)")

    # A tiny net first, so that what every run imports is there before.
    tiny = {"key": "transformer", "hidden": 12, "depth": 1, "heads": 3}
    warm = parse_recipe({"model": tiny, "task": "word-language", **small, "stages": stages})
    Run(warm, registry, out=folder / "warm", device="cpu").execute()
    before = peak_bytes()

    start = time.perf_counter()
    recipe = parse_recipe({"model": model, "task": "word-language", **small, "stages": stages})
    run = Run(recipe, registry, out=folder / "run", device="cpu")
    run.execute()
    took = time.perf_counter() - start
    assert run.baked is not None
    dense = dense_bytes(run.baked.net)
    return {
        "parameters_millions": dense / 4e6,
        "seconds": took,
        "peak_over_dense": (peak_bytes() - before) / dense,
    }


def main() -> None:
    """Print and store the figures."""
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] == ["run"]:
            print(json.dumps(pruned(Path(folder))))
            return
        done = subprocess.run([sys.executable, __file__, "run"], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
    said = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
    print(f"BERT, magnitude, no training: {said} (at first 201 s and 15.7x; the aim is under 3x)")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-memory.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
