"""``demo``: a claim beside its result on a CNN and on a ViT, the artifact loaded back, and what to try next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from condensery.contract import Registry
from condensery_catalogue.inspecting import describe, print_sizes
from condensery_catalogue.listing import console, open_registry
from condensery_catalogue.reproduce import reproduce_paper
from condensery_catalogue.running import RunOptions

REPRODUCTION, TIER = "first-look", "smoke"
SHOWN = ("cnn-half", "vit-half")
"""Arms whose artifacts are loaded back; the bytes of the first one's are shown."""
NEXT = (
    ("condensery fit resnet20", "which methods a net can take, and what goes with what"),
    ('condensery compose "magnitude(sparsity=0.8) -> kmeans-sharing -> huffman"', "three methods after each other"),
    ("condensery list", "all methods; condensery show KEY tells what a paper claims"),
)
"""Commands to try, and what they do."""


def show_demo(out: Path) -> None:
    """Play the demo into a folder, from its start, and print what came out."""
    if (out / TIER / "result.json").is_file():
        shutil.rmtree(out / TIER)  # an earlier demo's
    reproduce_paper(REPRODUCTION, TIER, None, RunOptions(device="cpu", out=out))

    from condensery.storage import read

    registry, say = open_registry(), console()
    paths = [out / TIER / "seed0" / arm / "artifact.safetensors" for arm in SHOWN]
    for path in paths:
        say.print(run_again(path, registry), markup=False, highlight=False)
    print_sizes(describe(read(paths[0], registry), registry, paths[0]), paths[0])

    say.print("\nnext:", style="bold")
    for command, what in NEXT:
        say.print(f"{command}\n    {what}", markup=False, highlight=False)


def run_again(path: Path, registry: Registry) -> str:
    """Load an artifact back, run it on its task's test split, and say whether that is what its run had measured."""
    from condensery.storage import open_artifact
    from condensery.tasks import build_task

    found = open_artifact(path, registry)
    assert found.task is not None  # a run writes it
    task = build_task(found.task, registry)
    metric = task.metrics[0].name
    value = task.evaluate(found.net, "test")[metric]
    was = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))["after"]["quality"][metric]
    same = "as its run measured" if abs(value - was) < 1e-6 else f"where its run measured {was:.2f}"
    return f"loaded back and run: {path}, {metric} {value:.2f}, {same}"
