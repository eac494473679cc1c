from __future__ import annotations

import dataclasses
import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from condensery.errors import UsageError
from condensery.tasks import DataSet, Split
from condensery_plugins.tasks.mnist import FILES, FashionMnist, IdxTask, Mnist, parse_idx

SPLITS: tuple[Split, ...] = ("train", "test")


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Tiny(IdxTask):
    """Three images to train on and two to test on; their content is pinned by the fixture."""

    key = "tiny"
    data_set = DataSet("tiny", dict.fromkeys(Mnist.data_set.files, ""), "nobody/tiny")

    def __init__(self) -> None:
        super().__init__(0.5, 0.25, jitter=0)


@pytest.fixture
def tiny(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = own_places / "tiny"
    folder.mkdir(parents=True)
    pins = {}
    for split, examples in (("train", 3), ("test", 2)):
        images = np.arange(examples * 784, dtype=np.uint32).astype(np.uint8).reshape(examples, 28, 28)
        contents = (idx(images), idx(np.arange(examples, dtype=np.uint8)))
        for file, content in zip(FILES[split], contents, strict=True):  # type: ignore[index]
            (folder / file).write_bytes(gzip.compress(content))
            pins[file] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(Tiny, "data_set", dataclasses.replace(Tiny.data_set, files=pins))
    return folder


def test_parse_idx() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(Path("x"), idx(array)), array)
    for content, word in ((idx(array)[:-1], "damaged"), (b"\0\0\x0d\x01\0\0\0\0", "not an IDX"), (b"", "not an IDX")):
        with pytest.raises(UsageError, match=f"x: {word}"):
            parse_idx(Path("x"), content)


def test_files_are_read_and_then_kept_in_the_cache(tiny: Path) -> None:
    for _ in range(2):
        inputs, labels = Tiny().split("train")
        assert inputs["images"].shape == (3, 1, 28, 28)
        assert inputs["images"].flatten()[:300].tolist() == [i % 256 for i in range(300)]
        assert (labels.tolist(), labels.dtype) == ([0, 1, 2], torch.int64)
        for file in FILES["train"]:  # the second time the cache has it
            (tiny / file).unlink(missing_ok=True)
    with pytest.raises(UsageError, match="'tiny' not found"):
        Tiny().split("test")  # it isn't complete, and was never decoded


def test_another_packing_of_the_same_bytes_is_the_same_data(tiny: Path) -> None:
    for file in Mnist.data_set.files:
        (tiny / file).write_bytes(gzip.compress(gzip.decompress((tiny / file).read_bytes()), 1, mtime=12345))
    assert Tiny().count("test") == 2


@pytest.mark.parametrize("how", ["cut", "flipped", "other", "not gzip"])
def test_a_damaged_file_is_named(tiny: Path, how: str) -> None:
    path = tiny / FILES["train"][0]
    raw = bytearray(path.read_bytes())
    if how == "cut":
        raw = raw[:-20]
    elif how == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    elif how == "other":
        raw = bytearray(gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))))
    else:
        raw = bytearray(b"<html>")
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=f"{path.name}: damaged"):
        Tiny().split("train")
    assert Tiny().count("test") == 2, "the other split is whole"


def test_missing_data_names_every_place(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UsageError) as caught:
        Mnist().count("train")
    text = str(caught.value)
    for place in ("$CONDENSERY_DATA/mnist", str(own_places.parent / "cache" / "data" / "mnist"), "'ylecun/mnist'"):
        assert place in text
    assert "\n" not in text


def test_jitter_shifts_training_images_only() -> None:
    assert (Mnist().pad, Mnist(jitter=2).pad, Mnist(jitter=2).flip) == (0, 2, False)
    assert Mnist(jitter=2).describe() != Mnist().describe()
    with pytest.raises(UsageError, match="jitter must be 0 to 8 pixels, got 9"):
        FashionMnist(jitter=9)


@pytest.mark.data
@pytest.mark.parametrize("task", [Mnist, FashionMnist])
def test_the_real_sets(task: Callable[[], IdxTask], need_data: Callable[[str], Path]) -> None:
    made = task()
    need_data(made.key)
    assert (made.count("train"), made.count("test")) == (60_000, 10_000)
    pixels = made.split("train")[0]["images"].double() / 255
    assert made.mean[0] == pytest.approx(float(pixels.mean()), abs=1e-4)
    assert made.std[0] == pytest.approx(float(pixels.std()), abs=1e-4)
    if made.key == "mnist":  # the class counts that the set is known for
        assert made.split("test")[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
