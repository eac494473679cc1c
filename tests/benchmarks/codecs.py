"""``make bench``, codecs: megabytes of float32 a second, each beside what it reached at first, numpy's and zstd's.

Every codec gets the same number of values, as a compressed layer holds them. Values count as four bytes each, whatever
a codec is given, so that its figures can be laid beside those of the weights that they come from.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from condensery import Registry
from condensery.nets import BitPack, Coding, Leaf, build_net
from condensery.recipe import ModelSpec
from condensery.storage import bake, open_artifact, save_artifact
from condensery.tasks import TaskFacts
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.codecs.bitmap import Bitmap
from condensery_plugins.codecs.huffman import Huffman
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.codecs.sparse import sparse
from condensery_plugins.codecs.sparse_index import SparseIndex

VALUES = 4_000_000
ROUNDS = 3
FIRST = {
    "huffman": (87, 154),
    "bitpack(4)": (683, 428),
    "palette": (63, 277),
    "sparse-index(2)": (85, 272),
    "numpy nibbles": (5480, 6226),
    "zstd": (2594, 5619),
}
"""Megabytes a second in and out when the codecs were first measured, on another machine: compare ratios to numpy's."""


def best(work: Callable[[], object]) -> float:
    """Return the shortest of a few times in seconds of the processor, which others on the machine hardly add to."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def layers() -> dict[str, tuple[Callable[[Tensor], Coding], Tensor]]:
    """Return, by name, how a coding is made for some values, and the values."""
    draw = np.random.default_rng(0)
    codes = torch.from_numpy(np.clip(draw.normal(size=VALUES) * 4, -15, 15).round().astype(np.int32))
    nibbles = torch.from_numpy(draw.integers(0, 16, VALUES).astype(np.int32))
    few = codes.to(torch.float32) * 0.01
    zeros = torch.from_numpy(draw.random(VALUES) < 0.7)
    holes = torch.from_numpy(draw.normal(size=VALUES).astype(np.float32)).masked_fill_(zeros, 0)
    return {
        "huffman": (lambda _: Coding(Huffman()), codes),
        "bitpack(4)": (lambda _: Coding(BitPack(4)), nibbles),
        "bitpack(5)": (lambda _: Coding(BitPack(5, -15)), codes),
        "palette": (lambda values: Coding(Palette(values)), few),
        "affine": (lambda _: Coding(Affine(5, torch.tensor(0.01))), few),
        "bitmap": (lambda _: Coding(Bitmap()), holes),
        "sparse-index(2)": (lambda _: Coding(SparseIndex(2)), holes),
        "sparse, chosen": (lambda values: sparse(Coding(BitPack(5, -15)), values), codes.masked_fill(zeros, 0)),
    }


def rates(make: Callable[[Tensor], Coding], values: Tensor) -> tuple[float, float]:
    """Return the megabytes of float32 a second that a coding encodes and decodes; making it counts as encoding.

    Where it is a branch, its streams are what is counted: what stores them has lines of its own.
    """
    megabytes = 4e-6 * values.numel()
    encoded = best(lambda: make(values).codec.encode(values))
    codec = make(values).codec
    streams = codec.encode(values)
    assert isinstance(codec, Leaf) or codec.parts()
    return megabytes / encoded, megabytes / best(lambda: codec.decode(streams, values.shape))


def numpy_nibbles() -> tuple[float, float]:
    """Return what numpy reaches with two numbers to a byte: the plainest packing there is."""
    numbers = np.random.default_rng(0).integers(0, 16, VALUES).astype(np.int32)

    def pack() -> np.ndarray:
        small = numbers.astype(np.uint8)
        return small[::2] | small[1::2] << 4

    packed = pack()

    def unpack() -> np.ndarray:
        return np.stack([packed & 15, packed >> 4], 1).reshape(-1).astype(np.int32)

    megabytes = 4e-6 * VALUES
    return megabytes / best(pack), megabytes / best(unpack)


def zstd() -> tuple[float, float] | None:
    """Return what zstd reaches on the codes that Huffman's code gets, one byte each; ``None`` where it isn't there."""
    for name in ("compression.zstd", "zstandard"):  # Python 3.14's own, or a package
        with contextlib.suppress(ImportError):
            peer = importlib.import_module(name)
            break
    else:
        return None

    codes = layers()["huffman"][1].numpy().astype(np.int8).tobytes()
    packed, megabytes = peer.compress(codes), 4e-6 * VALUES
    return megabytes / best(lambda: peer.compress(codes)), megabytes / best(lambda: peer.decompress(packed))


def files(folder: Path) -> dict[str, float]:
    """Return how much longer saving and opening a dense net takes than safetensors alone."""
    registry = Registry.open()
    facts = TaskFacts("image", outputs=10, channels=3, size=32)
    spec = ModelSpec(key="timm/resnet18")
    net = build_net(spec, facts, registry, 0)
    ours, theirs = folder / "ours.safetensors", folder / "theirs.safetensors"
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}

    saved = best(lambda: save_artifact(ours, bake(net, registry), spec, facts, registry))
    peer_saved = best(lambda: save_file(tensors, theirs))
    opened = best(lambda: open_artifact(ours, registry))
    blank = build_net(spec, facts, registry, 0)
    peer_opened = best(lambda: blank.load_state_dict(load_file(theirs)))
    built = best(lambda: build_net(spec, facts, registry, 0))
    return {
        "save_over_safetensors": saved / peer_saved,
        "open_over_safetensors": opened / peer_opened,
        "open_over_building_the_net": opened / built,
    }


def told(name: str, reached: tuple[float, float]) -> dict[str, float]:
    """Print what was reached beside what it was at first; returns it."""
    first, said = FIRST.get(name), ""
    if first:
        said = (
            f" (at first {first[0]:,} and {first[1]:,}: {reached[0] / first[0]:.1f}x and {reached[1] / first[1]:.1f}x)"
        )
    print(f"{name}: {reached[0]:,.0f} MB/s in, {reached[1]:,.0f} MB/s out{said}", flush=True)
    return {"encode_mb_per_s": reached[0], "decode_mb_per_s": reached[1]}


def main() -> None:
    """Print and store the figures."""
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    figures: dict[str, object] = {}
    for name, (make, values) in layers().items():
        if not wanted or name in wanted:
            figures[name] = told(name, rates(make, values))
    for name, peer in (("numpy nibbles", numpy_nibbles()), ("zstd", zstd())):
        if peer is None:
            print(f"{name}: not installed, so not compared")
        else:
            figures[name] = told(name, peer)

    if not wanted:
        with tempfile.TemporaryDirectory() as folder:
            figures["files"] = found = files(Path(folder))
        print(
            "timm/resnet18: "
            + ", ".join(f"{name} {value:.1f}x" for name, value in found.items())
            + " (at first 13x, 18x)"
        )

    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-codecs.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
