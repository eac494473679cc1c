"""``make bench``, desk run: the share of a run that goes on measuring, and how long a run of real length would be.

The run has two short epochs, because a step takes as long as any other; what an epoch of 10,000 or 50,000 images makes
of the share is worked out from its seconds. Everything but the epochs is counted once, as it is in any run. Seconds are
the processor's, on one thread: what else runs on the machine hardly adds to them.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from condensery import Registry, Run, UsageError
from condensery.recipe import parse_recipe
from condensery.run import engine, validation

IMAGES, EPOCHS = 1_000, 2
LENGTHS = (10_000, 50_000)
"""Images an epoch: of the desk tiers' subset, and of the whole training split."""
LIMIT = 0.12


class Clock:
    """Adds up the seconds of some functions; what one of them calls of the others counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = False

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return work(*args, **kwargs)
            self._running, start = True, time.process_time()
            try:
                return work(*args, **kwargs)
            finally:
                self._running = False
                self.seconds += time.process_time() - start

        return run


def shares(folder: Path) -> dict[str, float]:
    """Run a desk-like recipe; returns its seconds by kind, and the share of measuring by images an epoch."""
    recipe = parse_recipe(
        {
            "model": "resnet56",
            "task": "cifar10",
            "base": "none",
            "data": {"subset": {"size": IMAGES}},
            "train": {"epochs": EPOCHS, "batch_size": 128, "channels_last": True, "autocast": "bf16"},
            "stages": ["magnitude"],
        }
    )
    run, clock = Run(recipe, Registry.open(), out=folder, device="cpu"), Clock()
    with contextlib.ExitStack() as patched:
        patched.enter_context(mock.patch.object(time, "monotonic", time.process_time))
        for room, name in ((engine, "measure"), (engine, "known_quality"), (validation, "evaluate")):
            patched.enter_context(mock.patch.object(room, name, clock.timed(getattr(room, name))))
        report = run.execute()

    epochs = sum(stage["wall_s"] for stage in report["stages"])
    found = {"whole_run_s": report["wall_s"], "epochs_s": epochs, "measuring_s": clock.seconds}
    for length in (IMAGES, *LENGTHS):
        whole = report["wall_s"] - epochs + epochs * length / IMAGES
        found[f"measuring_share_at_{length}"] = clock.seconds / whole
    found["images_under_limit"] = IMAGES * (clock.seconds / LIMIT - (report["wall_s"] - epochs)) / epochs
    return found


def main() -> None:
    """Print and store the figures."""
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = shares(Path(folder) / "run")
    except UsageError as error:
        print(f"share of measuring: not taken: {error}", file=sys.stderr)
        return

    seconds = ", ".join(f"{name.removesuffix('_s')} {found[name]:.1f} s" for name in found if name.endswith("_s"))
    print(f"resnet56 on cifar10, {EPOCHS} epochs of {IMAGES:,} images: {seconds}")
    for length in (IMAGES, *LENGTHS):
        share = found[f"measuring_share_at_{length}"]
        said = "as it ran" if length == IMAGES else "worked out"
        print(f"  measuring in {EPOCHS} epochs of {length:,} images: {100 * share:.1f} % of the run ({said})")
    enough = f"under {100 * LIMIT:.0f} % from {found['images_under_limit']:,.0f} images an epoch on"
    print(f"  {enough} (at first 46 % of two epochs of a desk run)")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-desk.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
