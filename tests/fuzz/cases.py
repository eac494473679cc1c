"""What is fuzzed: for each kind, what one case with its seed does."""

from __future__ import annotations

import functools
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.fuzz.mutants import ODD, bytes_of, text_of, tree_of

from condensery.contract import Papers, Registry
from condensery.errors import UsageError
from condensery.files import cached_json, read_json, write_json
from condensery.recipe import apply_overrides, checked, evaluate, load_recipe, parse, parse_model, parse_recipe
from condensery.run.opening import check_settings
from condensery.storage import MANIFEST, Source, decode, load_tree, open_artifact, save_tree
from condensery.storage.manifest import StoredRecord, check_streams
from condensery.tasks import read_gzip, stored_arrays
from condensery_catalogue.inspecting import describe
from condensery_plugins.tasks.mnist import parse_idx

Case = Callable[[Path], object]
ROOT = Path(__file__).resolve().parents[2]
WRITTEN = sorted((ROOT / "tests/core/storage/written").glob("*/artifact.safetensors"))
CARDS = sorted((ROOT / "plugins/condensery_plugins").rglob("*.yaml"))
RECIPES = sorted((ROOT / "reproductions").rglob("recipe.yaml"))
LINES = [
    "network-slimming(ratio=0.4) -> hinton-kd(T=4){teacher=original}",
    "(magnitude(sparsity==1-0.8**(round+1)) + hinton-kd{teacher=original}) * 5",
    "l1-filter-pruning{name=p} -> prune-then-distill{teacher=p, student=resnet8(width=0.5)}",
    "magnitude -> kmeans-sharing(levels={conv: 16, fc: 8}) -> huffman",
]
RECIPE = {
    "name": "x",
    "model": {"key": "resnet8", "width": 0.5},
    "task": "digits",
    "seed": 1,
    "data": {"subset": {"per_class": 4, "without": [3]}},
    "base": {"epochs": 1},
    "train": {"epochs": 2, "optimizer": {"name": "sgd", "lr": 0.1, "options": {"momentum": 0.9}}},
    "stages": [
        {"name": "p", "methods": [{"magnitude": {"sparsity": 0.5}}], "epochs": 1},
        {"repeat": 2, "until": "sparsity >= 0.9", "stages": [{"methods": ["hinton-kd"], "teacher": "stage:p"}]},
    ],
}
FORMULAS = [
    "=1-0.8**(round+1)",
    "sparsity >= 0.9 and accuracy > 50",
    "max(round, 2) * sqrt(rounds) // 3",
    "-log(rounds)",
]
NAMES = {"round": 2, "rounds": 5, "sparsity": 0.5, "accuracy": 80.0}


@functools.cache
def registry() -> Registry:
    """Return what is installed; opened once, before any case."""
    return Registry.open()


# ---------------------------------------------------------------- what a user writes


def recipe(rng: random.Random) -> Case:
    """Read a recipe: a damaged text, or damaged data."""
    if rng.random() < 0.5:
        text = text_of(rng, yaml.safe_dump(RECIPE, sort_keys=False))
    else:
        text = json.dumps(tree_of(rng, RECIPE))

    def case(folder: Path) -> None:
        (folder / "r.yaml").write_text(text, encoding="utf-8")
        check_settings(load_recipe(folder / "r.yaml").stages, registry())

    return case


def spelling(rng: random.Random) -> Case:
    """Read a composition, or a model."""
    line = text_of(rng, rng.choice(LINES))
    return lambda folder: (
        parse_recipe({"model": "resnet8", "task": "digits", "stages": parse(line)}) or parse_model(line)
    )


def overrides(rng: random.Random) -> Case:
    """Change values of a recipe."""
    path = rng.choice(
        ["train.epochs", "stages.p.magnitude.sparsity", "stages.1.stages.0.teacher", "model.width", "data"]
    )
    given = text_of(rng, f"{path}={rng.choice(ODD)}")
    return lambda folder: parse_recipe(apply_overrides(RECIPE, [given]))


def formula(rng: random.Random) -> Case:
    """Work out a formula."""
    text = text_of(rng, rng.choice(FORMULAS))
    return lambda folder: evaluate(text, NAMES)


# ---------------------------------------------------------------- what a stranger sends


def cards(rng: random.Random) -> Case:
    """List a stranger's package in which one card is damaged: the others are there, and show works for each."""
    path = rng.choice(CARDS)
    text = path.read_text(encoding="utf-8")
    bad = text_of(rng, text) if rng.random() < 0.5 else json.dumps(tree_of(rng, yaml.safe_load(text)))
    other = rng.choice([p for p in CARDS if p != path])

    def case(folder: Path) -> None:
        from condensery.contract.papers import read_cards

        (folder / path.name).write_text(bad, encoding="utf-8")
        files = {p.stem.replace("_", "-"): p for p in (folder / path.name, other)}
        good, wrong = read_cards("strange", files)
        assert other.stem.replace("_", "-") in good
        shown(good)
        if wrong:
            raise wrong[0]

    return case


def shown(good: dict[str, Any]) -> None:
    """Go through cards as ``list`` and ``show`` do."""
    found = Registry()
    found.add("strange", _Strange(good), "test 1")
    for card in found.entries["papers"].values():
        assert ", ".join(card.target["network"]) is not None
        assert json.dumps(card.target, allow_nan=False)


class _Strange(Papers):
    def __init__(self, good: dict[str, Any]) -> None:
        super().__init__("condensery_plugins")
        self._cards = (good, [])
        self._files = {key: [CARDS[0]] for key in good}


def manifests(rng: random.Random) -> Case:
    """Open and inspect an artifact whose manifest says something else; its checksums are right."""
    path = rng.choice(WRITTEN)
    tensors = load_file(path)
    manifest = json.loads(zlib.decompress(tensors[MANIFEST].numpy().tobytes()))
    changed = json.dumps(tree_of(rng, manifest)).encode()
    if rng.random() < 0.1:
        changed = bytes_of(rng, changed)
    packed = bytearray(zlib.compress(changed))

    def case(folder: Path) -> None:
        (folder / "evil.py").write_text("raise SystemExit('ran')")
        file = folder / "a.safetensors"
        save_file({**tensors, MANIFEST: torch.frombuffer(packed, dtype=torch.uint8)}, file, {"condensery": "1"})
        describe(file, registry())
        open_artifact(file, registry())

    return case


def artifacts(rng: random.Random) -> Case:
    """Open an artifact whose bytes are damaged."""
    content = bytes_of(rng, rng.choice(WRITTEN).read_bytes())

    def case(folder: Path) -> None:
        (folder / "a.safetensors").write_bytes(content)
        open_artifact(folder / "a.safetensors", registry())

    return case


@functools.cache
def _streams() -> list[tuple[dict[str, Any], bytes]]:
    """Return every tensor of the written artifacts: its record, and its bytes."""
    found = []
    for path in WRITTEN:
        tensors = load_file(path)
        manifest = json.loads(zlib.decompress(tensors[MANIFEST].numpy().tobytes()))
        for module, parts in manifest["tensors"].items():
            source = Source(tensors[module], "test")
            for record in parts.values():
                begin = source.at
                decode(record, source, registry())
                found.append((record, tensors[module][begin : source.at].numpy().tobytes()))
    return found


def streams(rng: random.Random) -> Case:
    """Decode a tensor whose bytes are damaged, or whose record's settings are."""
    record, content = rng.choice(_streams())
    if rng.random() < 0.6:
        content = bytes_of(rng, content)
    else:
        shape = record["shape"]
        record = {**tree_of(rng, record), "shape": shape}

    def case(folder: Path) -> None:
        checked(StoredRecord, record, "record")
        check_streams(record, "record")
        data = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
        decode(record, Source(data, "stream"), registry())

    return case


def datafiles(rng: random.Random) -> Case:
    """Read a data file: gzip that is damaged or huge, and an IDX file in it."""
    idx = b"\0\0\x08\x03" + struct.pack(">3I", 4, 5, 6) + bytes(range(120))
    kind = rng.randrange(4)
    if kind == 0:
        content = gzip.compress(bytes(400_000_000), 1) if rng.random() < 0.02 else gzip.compress(bytes(1_000_000))
    elif kind == 1:
        content = gzip.compress(bytes_of(rng, idx))
    else:
        content = bytes_of(rng, gzip.compress(idx))

    def case(folder: Path) -> None:
        path = folder / "x.gz"
        path.write_bytes(content)
        parse_idx(path, read_gzip(path, {}))

    return case


# ---------------------------------------------------------------- what we wrote ourselves


@functools.cache
def _checkpoint() -> bytes:
    """Return a checkpoint's bytes."""
    import tempfile

    tree = {
        "unit": "1.0", "epoch": 3, "players": {"student": {"net": {"a.weight": torch.arange(60.0).reshape(6, 10)}}},
        "rng": {"cpu": torch.get_rng_state(), "cuda": []}, "history": [{"epoch": 1, "terms": {"task": 0.5}}],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_tree(Path(folder) / "c.safetensors", tree)
        return (Path(folder) / "c.safetensors").read_bytes()


def checkpoints(rng: random.Random) -> Case:
    """Read a damaged checkpoint."""
    content = bytes_of(rng, _checkpoint())

    def case(folder: Path) -> None:
        (folder / "c.safetensors").write_bytes(content)
        load_tree(folder / "c.safetensors")

    return case


def cache(rng: random.Random) -> Case:
    """Read what is damaged in the cache: it is made again, whatever it was."""
    seed = rng.randrange(2**30)

    def case(folder: Path) -> None:
        own = random.Random(seed)
        array = np.arange(300, dtype=np.int32).reshape(3, 100)
        write_json(folder / "cache/quality/q.json", {"accuracy": 91.5})
        stored_arrays("set", ["a"], lambda: {"a": array})
        for path in sorted((folder / "cache").rglob("*.*")):
            if own.random() < 0.6:
                path.write_bytes(bytes_of(own, path.read_bytes()))
        assert cached_json(folder / "cache/quality/q.json") in (None, {"accuracy": 91.5})
        assert stored_arrays("set", ["a"], lambda: {"a": array})["a"].tolist() == array.tolist()

    return case


def runfiles(rng: random.Random) -> Case:
    """Read a damaged report of a run."""
    seed = rng.randrange(2**30)

    def case(folder: Path) -> None:
        report = {"recipe": RECIPE, "seed": 0, "after": {"quality": {"accuracy": 91.5}}, "stages": []}
        write_json(folder / "report.json", report)
        path = folder / "report.json"
        path.write_bytes(bytes_of(random.Random(seed), path.read_bytes()))
        read_json(path, "remove it to run it again")

    return case


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "recipe": recipe,
    "spelling": spelling,
    "--set": overrides,
    "formula": formula,
    "cards": cards,
    "manifests": manifests,
    "artifacts": artifacts,
    "codec streams": streams,
    "data files": datafiles,
    "checkpoints": checkpoints,
    "cache": cache,
    "run files": runfiles,
}
"""In turn, so that each gets the same share of the cases."""


def warm() -> None:
    """Import and open everything that cases need, so that a forked process starts at once."""
    registry()
    for path in WRITTEN:
        open_artifact(path, registry())
    _streams()
    _checkpoint()
    for kind, make in KINDS.items():
        try:
            make(random.Random(kind))
        except (UsageError, SafetensorError):
            continue
