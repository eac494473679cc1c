"""What is fuzzed: for each kind, what one case with its seed does."""

from __future__ import annotations

import functools
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.fuzz.mutants import ODD, bytes_of, like_of, text_of, tree_of
from tests.fuzz.stored import Case, cache, checkpoint, checkpoints, described_net, registry, runfiles

from condensery.contract import Papers, Registry
from condensery.errors import UsageError
from condensery.recipe import (
    apply_overrides,
    checked,
    evaluate,
    load_recipe,
    parse,
    parse_model,
    parse_recipe,
)
from condensery.run.opening import check_settings
from condensery.storage import (
    MANIFEST,
    Source,
    decode,
    open_artifact,
    read,
)
from condensery.storage.artifact_file import counts_in
from condensery.storage.manifest import StoredRecord, check_streams
from condensery.tasks import read_gzip
from condensery_catalogue.inspecting import describe
from condensery_plugins.tasks.mnist import parse_idx

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


def described(file: Path, registry: Registry) -> None:
    """Look at a file as ``inspect`` does, without its net."""
    describe(read(file, registry), registry, file)


def manifests(rng: random.Random) -> Case:
    """Open and inspect an artifact whose manifest says something else; its checksums are right."""
    path = rng.choice(WRITTEN)
    tensors = load_file(path)
    manifest = json.loads(zlib.decompress(tensors[MANIFEST].numpy().tobytes()))
    if rng.random() < 0.8:
        part = rng.choice(["model", "facts", "structure", "transforms", "tensors", "tensors"])
        manifest[part] = like_of(rng, manifest[part])
        fitted(manifest, tensors)
    else:
        manifest = tree_of(rng, manifest)
    changed = json.dumps(manifest).encode()
    if rng.random() < 0.02:
        changed = bytes_of(rng, changed)
    packed = bytearray(zlib.compress(changed))
    looks: list[Callable[[Path, Registry], object]] = [described, open_artifact, open_artifact]
    look = rng.choice(looks)

    def case(folder: Path) -> None:
        (folder / "evil.py").write_text("raise KeyboardInterrupt('ran')")
        file = folder / "a.safetensors"
        save_file({**tensors, MANIFEST: torch.frombuffer(packed, dtype=torch.uint8)}, file, {"condensery": "1"})
        look(file, registry())

    return case


def fitted(manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Give a changed manifest the bytes and checksums that it tells of, as somebody would who means harm."""
    if not isinstance(manifest.get("tensors"), dict):
        return
    manifest["crc"] = {}
    for module, parts in manifest["tensors"].items():
        try:
            size = min(sum(count for record in parts.values() for count in counts_in(record)), 1_000_000)
        except (AttributeError, TypeError):
            continue
        blob = tensors.get(module, torch.zeros(0, dtype=torch.uint8))[:size]
        tensors[module] = torch.cat([blob, torch.zeros(size - blob.numel(), dtype=torch.uint8)])
        manifest["crc"][module] = zlib.crc32(tensors[module].numpy().data)
    for module in set(tensors) - set(manifest["tensors"]):
        del tensors[module]


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
    if rng.random() < 0.4:
        content = bytes_of(rng, content)
    else:
        changed = like_of if rng.random() < 0.7 else tree_of
        record = {**changed(rng, record), "shape": record["shape"]}

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
    checkpoint()
    described_net()
    for kind, make in KINDS.items():
        try:
            make(random.Random(kind))
        except (UsageError, SafetensorError):
            continue


STAGES = {
    "manifests": [
        *("read", "check_manifest", "check_offered", "stored_model", "stored_facts", "build_unfilled", "restructure"),
        *("attach_described", "check_shapes", "decoded", "check_numbers", "load_tensors"),
    ],
    "checkpoints": ["load_tree", "unpack", "rebuild_net", "restructure", "attach_described", "load_tensors"],
}
"""By kind, the functions that take such a file one after the other: a case that is refused got to one of them."""


def reached(kind: str, through: Sequence[str]) -> str:
    """Return how far a case got.

    :param through: the functions in which it ended, from the outermost on.
    """
    return next((name for name in reversed(STAGES.get(kind, [])) if name in through), "")
