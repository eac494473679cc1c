from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.plugins.tasks.conftest import Offer

from condensery.errors import UsageError
from condensery.tasks import DataSet, Hub, Split
from condensery_plugins.tasks.mnist import FILES, FashionMnist, IdxTask, Mnist, idx_bytes, parse_idx

SPLITS: tuple[Split, ...] = ("train", "test")


class Tiny(IdxTask):
    """Three images to train on and two to test on; their content is pinned by the fixture."""

    key = hub_config = "tiny"
    data_set = DataSet("tiny", dict.fromkeys(Mnist.data_set.files, ""), Hub("nobody/tiny", "0" * 40, {}))

    def __init__(self) -> None:
        super().__init__(0.5, 0.25, jitter=0)


@pytest.fixture
def tiny(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = own_places / "tiny"
    folder.mkdir(parents=True)
    pins = {}
    for split, examples in (("train", 3), ("test", 2)):
        images = np.arange(examples * 784, dtype=np.uint32).astype(np.uint8).reshape(examples, 28, 28)
        contents = (idx_bytes(images), idx_bytes(np.arange(examples, dtype=np.uint8)))
        for file, content in zip(FILES[split], contents, strict=True):  # type: ignore[index]
            (folder / file).write_bytes(gzip.compress(content))
            pins[file] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(Tiny, "data_set", dataclasses.replace(Tiny.data_set, files=pins))
    return folder


def test_parse_idx() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(Path("x"), idx_bytes(array)), array)
    for content, word in (
        (idx_bytes(array)[:-1], "damaged"),
        (b"\0\0\x0d\x01\0\0\0\0", "not an IDX"),
        (b"", "not an IDX"),
    ):
        with pytest.raises(UsageError, match=f"x: {word}"):
            parse_idx(Path("x"), content)


def test_an_idx_file_begins_with_its_shape() -> None:
    content = idx_bytes(np.array([[1, 2, 3]], np.uint8))
    assert content == bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3])


@pytest.mark.parametrize("as_pinned", [True, False])
def test_the_hubs_copy_must_hold_what_the_files_hold(tiny: Path, as_pinned: bool, offer: Offer) -> None:
    """Two test images of 28 x 28 pixels, numbered on from 0; the last pixel of the second is 1567 % 256 = 31."""
    images = (np.arange(2 * 784) % 256).reshape(2, 28, 28)
    if not as_pinned:
        images[1, 27, 27] += 1
    offer(Tiny, {"tiny/test": {"image": images.tolist(), "label": [0, 1]}})
    for file in FILES["test"]:
        (tiny / file).unlink()
    if not as_pinned:
        with pytest.raises(UsageError, match="the hub's tiny, test: damaged or another version"):
            Tiny().split("test")
        return
    inputs, labels = Tiny().split("test")
    assert labels.tolist() == [0, 1]
    assert inputs["images"].shape == (2, 1, 28, 28)
    assert (inputs["images"][0, 0, 0, :3].tolist(), inputs["images"][1, 0, 27, 27].item()) == ([0, 1, 2], 31)


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
        raw = bytearray(gzip.compress(idx_bytes(np.zeros((3, 28, 28), np.uint8))))
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
