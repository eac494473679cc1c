"""``make bench``, part two: writing and reading artifacts of about 25 million parameters, time and memory.

Each side runs in a process of its own, so that the peak of resident memory is that side's alone.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from condensery import Registry
from condensery.measure import dense_bytes
from condensery.nets import CONVS, LINEARS, attach, build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage import bake, open_artifact, read, save_artifact
from condensery.tasks import build_task
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.quantization.kmeans_sharing import SharedWeights
from condensery_plugins.quantization.lloyd import lloyd, start_centers

SPEC = ModelSpec(key="timm/resnet50")
KINDS = ("dense", "deep-compression")
DENSITY, BITS = 0.1, 5


def peak_mb() -> float:
    """Return the peak of this process's resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def share(net: torch.nn.Module) -> None:
    """Put on every layer what Deep Compression leaves: a mask, few shared values, Huffman's code."""
    for path, module in list(net.named_modules()):
        if not isinstance(module, CONVS + LINEARS):
            continue
        weight = module.get_parameter("weight").detach()
        keep = weight.abs() > weight.abs().flatten().quantile(1 - DENSITY)
        found = lloyd(weight[keep], start_centers(weight[keep], 2**BITS - 1, "linear", 0), 30)
        shared = SharedWeights(BITS, list(weight.shape), len(found.centers))
        with torch.no_grad():
            shared.centers.copy_(found.centers)
        shared.codes[keep] = (found.members + 1).to(shared.codes.dtype)
        mask = Mask(weight.shape)
        mask.keep.copy_(keep)
        for name, transform in (("share", shared), ("mask", mask), ("huffman", EntropyCoded())):
            attach(net, f"{path}.weight", name, transform)


def write(kind: str, path: Path) -> dict[str, float]:
    """Build, bake and save a net; returns seconds, bytes and peak memory."""
    registry = Registry.open()
    facts = build_task(TaskSpec(key="cifar10"), registry).facts
    net = build_net(SPEC, facts, registry, 0)
    dense = dense_bytes(net)
    if kind == "deep-compression":
        share(net)
    before = peak_mb()
    start = time.perf_counter()
    baked = bake(net, registry)
    sizes = save_artifact(path, baked, SPEC, facts, registry)
    took = time.perf_counter() - start
    return {
        "encode_and_save_s": took,
        "save_dense_mb_per_s": dense / 1e6 / took,
        "file_bytes": sizes.file,
        "dense_bytes": dense,
        "peak_mb": peak_mb(),
        "peak_before_mb": before,
    }


def load(kind: str, path: Path) -> dict[str, float]:
    """Load an artifact; returns seconds and peak memory, beside building the plain net alone."""
    registry = Registry.open()
    facts = build_task(TaskSpec(key="cifar10"), registry).facts
    build_net(ModelSpec(key="timm/resnet18"), facts, registry, 0)  # imports
    before = peak_mb()
    start = time.perf_counter()
    build_net(SPEC, facts, registry, 0)
    built = time.perf_counter() - start
    start = time.perf_counter()
    read(path, registry)
    read_s = time.perf_counter() - start
    start = time.perf_counter()
    found = open_artifact(path, registry)
    took = time.perf_counter() - start
    dense = dense_bytes(found.net)
    return {
        "load_s": took,
        "of_that_building_the_net_s": built,
        "of_that_reading_and_checking_s": read_s,
        "load_dense_mb_per_s": dense / 1e6 / took,
        "peak_grew_mb": peak_mb() - before,
        "peak_grew_over_dense": (peak_mb() - before) / (dense / 1e6),
    }


def main() -> None:
    """Print and store the figures."""
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        verb, kind, path = sys.argv[1:]
        print(json.dumps({"write": write, "load": load}[verb](kind, Path(path))))
        return
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for verb in ("write", "load"):
                command = [sys.executable, __file__, verb, kind, str(Path(folder) / f"{kind}.safetensors")]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout)
                figures[f"{verb} {kind}"] = found
                said = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
                print(f"{verb} {kind} (timm/resnet50): {said}")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-artifacts.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
