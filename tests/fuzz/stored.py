"""What is fuzzed of the files that Condensery writes for itself: checkpoints, cache, reports of runs."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.fuzz.mutants import ODD, bytes_of, like_of, tree_of

from condensery.contract import Registry
from condensery.files import cached_json, read_json, write_json
from condensery.nets import attach, build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage import describe_net, load_tree, rebuild_net, save_tree
from condensery.storage.bounds import bounded
from condensery.tasks import TaskFacts, build_task, stored_arrays

Case = Callable[[Path], object]


@functools.cache
def registry() -> Registry:
    """Return what is installed; opened once, before any case."""
    return Registry.open()


@functools.cache
def checkpoint() -> bytes:
    """Return a checkpoint's bytes."""
    import tempfile

    tree = {
        "unit": "1.0", "epoch": 3, "players": {"student": {"net": {"a.weight": torch.arange(60.0).reshape(6, 10)}}},
        "rng": {"cpu": torch.get_rng_state(), "cuda": []}, "history": [{"epoch": 1, "terms": {"task": 0.5}}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_tree(Path(folder) / "c.safetensors", tree)
        return (Path(folder) / "c.safetensors").read_bytes()


@functools.cache
def described_net() -> tuple[TaskFacts, dict[str, Any]]:
    """Return the facts of a task, and what a checkpoint holds of a net that is masked and quantized."""
    facts, spec = (
        build_task(TaskSpec(key="digits"), registry()).facts,
        ModelSpec.model_validate({"key": "mlp", "hidden": [6]}),
    )
    net, fresh = (build_net(spec, facts, registry(), 0) for _ in range(2))
    attach(net, "fc1.weight", "mask", registry().load("layers", "mask")([6, 64]))
    attach(net, "fc2:input", "lsq", registry().load("layers", "lsq-step")(bits=4))
    return facts, describe_net(net, spec, fresh, registry())


def checkpoints(rng: random.Random) -> Case:
    """Read a damaged checkpoint; or one whose checksum is right and whose net is described otherwise, and build it."""
    if rng.random() < 0.5:
        content = bytes_of(rng, checkpoint())

        def case(folder: Path) -> None:
            (folder / "c.safetensors").write_bytes(content)
            load_tree(folder / "c.safetensors")

        return case

    facts, described = described_net()
    part = rng.choice(["structure", "transforms", "transforms", "tensors"])
    changed = {**described, part: (like_of if rng.random() < 0.7 else tree_of)(rng, described[part])}
    if rng.random() < 0.1:
        changed[rng.choice(list(changed))] = rng.choice(ODD)

    def rebuilt(folder: Path) -> None:
        save_tree(folder / "c.safetensors", changed)
        found = load_tree(folder / "c.safetensors")
        with bounded("c.safetensors"):  # a run's own nets may have any size, which isn't what is looked for here
            rebuild_net(found, lambda spec: build_net(spec, facts, registry(), 0), registry())

    return rebuilt


def cache(rng: random.Random) -> Case:
    """Read what is damaged in the cache, or says something else under a right checksum: it is made again."""
    seed = rng.randrange(2**30)

    def case(folder: Path) -> None:
        own = random.Random(seed)
        array = np.arange(300, dtype=np.int32).reshape(3, 100)
        quality, sums = folder / "cache/quality/q.json", folder / "cache/decoded/set/sums.json"
        write_json(quality, {"accuracy": 91.5})
        stored_arrays("set", ["a"], lambda: {"a": array})
        for path in sorted((folder / "cache").rglob("*.*")):
            if own.random() < 0.6:
                path.write_bytes(bytes_of(own, path.read_bytes()))
        assert cached_json(quality) in (None, {"accuracy": 91.5})
        if own.random() < 0.5:
            write_json(sums, own.choice([like_of, tree_of])(own, cached_json(sums) or {"a": [1, 2]}))
        assert stored_arrays("set", ["a"], lambda: {"a": array})["a"].tolist() == array.tolist()

    return case


def runfiles(rng: random.Random) -> Case:
    """Read a damaged report of a run."""
    seed = rng.randrange(2**30)

    def case(folder: Path) -> None:
        report = {
            "recipe": {"name": "x", "stages": [{"epochs": 1}]},
            "seed": 0,
            "after": {"quality": {"accuracy": 91.5}},
            "stages": [],
        }
        write_json(folder / "report.json", report)
        path = folder / "report.json"
        path.write_bytes(bytes_of(random.Random(seed), path.read_bytes()))
        read_json(path, "remove it to run it again")

    return case
