from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.plugins.tasks.conftest import Offer

from condensery import Registry
from condensery.errors import UsageError
from condensery.measure import evaluate
from condensery.recipe import ModelSpec
from condensery.storage import build_with_weights
from condensery_plugins.tasks.cifar import (
    Cifar10,
    Cifar100,
    CifarTask,
    unpack_strips,
)


def write_strips(path: Path, images: NDArray[np.uint8], each: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, start in reversed(list(enumerate(range(0, len(images), each)))):
            strip = io.BytesIO()
            Image.fromarray(images[start : start + each].reshape(-1, 32, 3)).save(strip, "WEBP", lossless=True)
            archive.writestr(f"{number:04d}.webp", strip.getvalue())


@pytest.fixture
def small(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.uint8]]:
    """CIFAR-10 in small: 10 + 6 images to train on, 4 to test on, in files whose digests are pinned."""
    folder = own_places / "cifar10"
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(3).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    write_strips(folder / "train_0.zip", drawn[:10], 5)
    write_strips(folder / "train_1.zip", drawn[10:16], 3)
    write_strips(folder / "test.zip", drawn[16:], 4)
    np.savez(folder / "labels.npz", train=labels[:16], test=labels[16:], names=np.array(["a", "b"]))
    pins = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in Cifar10.data_set.files}
    monkeypatch.setattr(Cifar10, "data_set", dataclasses.replace(Cifar10.data_set, files=pins))
    return {"images": drawn, "labels": labels}


def test_strips_are_unpacked_in_name_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    write_strips(tmp_path / "x.zip", images, 3)
    assert np.array_equal(unpack_strips(tmp_path / "x.zip"), images.transpose(0, 3, 1, 2))


def test_local_files_are_decoded_bit_for_bit(small: dict[str, NDArray[np.uint8]]) -> None:
    task = Cifar10()
    inputs, labels = task.split("train")
    assert np.array_equal(inputs["images"].numpy(), small["images"][:16].transpose(0, 3, 1, 2))
    assert labels.tolist() == small["labels"][:16].tolist()
    assert task.count("test") == 4
    batch = next(task.batches("test", batch_size=1)).inputs
    pixel = small["images"][16, 5, 6, 2] / 255
    assert batch[0, 2, 5, 6].item() == pytest.approx((pixel - 0.4465) / 0.2616, abs=1e-5)


def test_a_damaged_file_is_named(small: dict[str, NDArray[np.uint8]], own_places: Path) -> None:
    path = own_places / "cifar10" / "train_1.zip"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"train_1\.zip: damaged or another version"):
        Cifar10().split("train")
    assert not list((own_places.parent / "cache").rglob("*.npy")), "half a set must not be kept"
    assert Cifar10().count("test") == 4


def test_normalization_and_augmentation_are_settings() -> None:
    assert Cifar10(normalize="imagenet").mean == (0.485, 0.456, 0.406)
    assert Cifar10().mean != Cifar100().mean
    assert (Cifar10(normalize="symmetric").mean, Cifar10(normalize="symmetric").std) == ((0.5,) * 3, (0.5,) * 3)
    assert (Cifar10(augment=False).pad, Cifar10().pad, Cifar10().flip) == (0, 4, True)
    settings: list[dict[str, Any]] = [{}, {"normalize": "imagenet"}, {"augment": False}, {"loss": "squared-hinge"}]
    assert len({str(Cifar10(**s).describe()) for s in settings}) == 4
    with pytest.raises(UsageError, match="normalize is 'own', 'imagenet' or 'symmetric', got 'none'"):
        Cifar10(normalize="none")  # type: ignore[arg-type]


def test_the_hubs_order_becomes_the_local_order() -> None:
    labels = np.array([1, 0, 1, 0, 2, 2], np.uint8)
    assert Cifar100.hub_order(labels).tolist() == [1, 0, 4, 3, 2, 5]
    assert Cifar10.hub_order(labels).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_hubs_images_are_stacked_channels_first_in_the_local_order(offer: Offer) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    offer(Cifar100, {"cifar100/test": {"img": images.tolist(), "fine_label": [7, 7, 2]}})
    inputs, labels = Cifar100().split("test")
    assert labels.tolist() == [2, 7, 7]
    assert np.array_equal(inputs["images"].numpy(), images[[2, 0, 1]].transpose(0, 3, 1, 2))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "train", "test"),
    [
        (
            Cifar10,
            "d550eaa203f0c17e8ea29b29df8190a82e94c20ebb20d5b6d99da2edd4081484",
            "ed893735ff82c0178f2cd31343a1d5ab993eeae4f3b919d9c1436789336729f1",
        ),
        (
            Cifar100,
            "68d4ac64726f4da29176b23debb5277cc9b89ff770cf21a337d4777a0b05e859",
            "14b806336dadb7a6f5dc292f1f40dd3e7f25f29087f08f34094bf909a73fa961",
        ),
    ],
    ids=["cifar10", "cifar100"],
)
def test_the_real_sets(task: Callable[[], CifarTask], train: str, test: str, need_data: Callable[[str], Path]) -> None:
    made = task()
    need_data(made.key)
    for split, digest in (("train", train), ("test", test)):
        images = made.split(split)[0]["images"]  # type: ignore[arg-type]
        assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == digest
    pixels = made.split("train")[0]["images"].double() / 255
    assert made.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert made.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=1e-4)
    counts = made.split("train")[1].bincount()
    assert counts.tolist() == [50_000 // made.facts.outputs] * made.facts.outputs


@pytest.mark.data
@pytest.mark.slow
def test_published_weights_score_their_published_accuracy(need_data: Callable[[str], Path]) -> None:
    need_data("cifar10")
    need_data("ckpt_cifar10_resnet")
    task = Cifar10(normalize="imagenet")
    spec = ModelSpec(key="resnet56", weights="$CONDENSERY_DATA/ckpt_cifar10_resnet/resnet56.safetensors")
    net = build_with_weights(spec, task.facts, Registry.open(), seed=0)
    accuracy = evaluate(task, net, torch.device("cpu"))["accuracy"]
    assert accuracy == pytest.approx(93.39, abs=0.005)
