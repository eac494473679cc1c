"""CIFAR-10 and CIFAR-100: 32x32 colour images, kept as lossless strips."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from condensery import UsageError
from condensery.tasks import Arrays, DataSet, Hub, Split, TaskFacts, check_sha256
from condensery_plugins.tasks.images import IMAGENET_MEAN, IMAGENET_STD, StoredImages, sgd, unpack_png

Normalization = Literal["own", "imagenet", "symmetric"]
ZIPS: dict[Split, tuple[str, ...]] = {"train": ("train_0.zip", "train_1.zip"), "test": ("test.zip",)}
REPACKED = "the hub's copy is the one to take; the local files are a repacking of it, lossless strips of WebP"


class CifarTask(StoredImages):
    """50,000 + 10,000 images of 32x32 pixels; random crops out of a border of 4, and flips.

    Krizhevsky: "Learning Multiple Layers of Features from Tiny Images", 2009. Local files are ``labels.npz`` and zips
    of lossless WebP strips of 100 images each; they are pinned and decoded once, as the files of the hub's copy are.

    :param normalize: ``own`` takes the training set's mean and deviation; ``imagenet`` those of ImageNet, as many
        published nets do; ``symmetric`` leaves pixels from -1 to 1, as BNN has them.
    :param augment: whether training images are cropped and flipped.
    :param loss: ``cross-entropy``, or ``squared-hinge``.
    """

    hub_config: ClassVar[str]
    """Under which the hub's copy has its splits."""
    hub_label: ClassVar[str]
    own: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]]
    """Mean and standard deviation of the training set, per channel."""
    base = {
        "epochs": 60,
        "batch_size": 128,
        "optimizer": sgd(0.1),
        "schedule": {"name": "cosine"},
        "autocast": "bf16",
        "channels_last": True,
    }

    def __init__(self, outputs: int, normalize: Normalization, augment: bool, loss: str) -> None:
        known = {"own": self.own, "imagenet": (IMAGENET_MEAN, IMAGENET_STD), "symmetric": ((0.5,) * 3, (0.5,) * 3)}
        if normalize not in known:
            raise UsageError(f"task {self.key}: normalize is 'own', 'imagenet' or 'symmetric', got {normalize!r}")
        facts = TaskFacts("image", outputs=outputs, channels=3, size=32)
        super().__init__(facts, *known[normalize], pad=4 if augment else 0, flip=augment, loss=loss)

    def read(self, folder: Path, split: Split) -> Arrays:
        """Decode one split of the local files."""
        for file in ("labels.npz", *ZIPS[split]):
            check_sha256(folder / file, self.data_set.files)
        with np.load(folder / "labels.npz", allow_pickle=False) as labels:
            return {
                f"{split}_images": np.concatenate([unpack_strips(folder / z) for z in ZIPS[split]]),
                f"{split}_labels": labels[split],
            }

    def fetch(self, split: Split) -> Arrays:
        """Return one split of the hub's copy."""
        columns = self.data_set.columns(f"{self.hub_config}/{split}")
        labels = np.asarray(columns[self.hub_label], np.uint8)
        images = np.stack([unpack_png(cell, "RGB") for cell in columns["img"]]).transpose(0, 3, 1, 2)
        order = self.hub_order(labels)
        return {f"{split}_images": images[order], f"{split}_labels": labels[order]}

    @staticmethod
    def hub_order(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return which of the hub's rows come first, second and so on in this project's order.

        :param labels: of the hub's rows, ``(images,)``; so is what is returned.
        """
        return np.arange(len(labels))


class Cifar10(CifarTask):
    """Ten classes, in the original order.

    In the local files 104 images (81 train, 23 test, nearly all ships) are JPEG copies; the others are exact.
    """

    key = "cifar10"
    hub_config, hub_label = "plain_text", "label"
    data_set = DataSet(
        key,
        {
            "labels.npz": "76b0ae705fb8cbc2614044ecc1a54a77efb2a5d543b929774f6eee55c126b8ce",
            "train_0.zip": "594a2eb625435cd2dfb3f3dad4a49eb0311ab2d4ebd4dc504187f9f25838afa9",
            "train_1.zip": "3b2d1b987a73fd7671ab5d7d0d07745e00b5d54350be6eab878d9a0aae4b4779",
            "test.zip": "73a99dc814237937684a4251c0f5eada6dbb1f9a2c55635bcf3415c127f19113",
        },
        Hub(
            "uoft-cs/cifar10",
            "0b2714987fa478483af9968de7c934580d0bb9a2",
            {
                "plain_text/train": "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
                "plain_text/test": "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
            },
        ),
        source=REPACKED,
    )
    default_model = "resnet20"
    own = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def __init__(self, normalize: Normalization = "own", augment: bool = True, loss: str = "cross-entropy") -> None:
        super().__init__(10, normalize, augment, loss)


class Cifar100(CifarTask):
    """A hundred fine classes, in an order in which each run of 100 images holds every class once."""

    key = hub_config = "cifar100"
    hub_label = "fine_label"
    data_set = DataSet(
        key,
        {
            "labels.npz": "869086f31934267c56683925dd9be3ef7bfbf48c1ba35e793e9d2b54631aacba",
            "train_0.zip": "6d2c7e1262943b97661017e7c873a5cb38e69606380d84687c28f42ce98501ff",
            "train_1.zip": "9b3864d9f9fdc19b006a9a470c5110f5fb64df0581d4d2bd9fbefdac7fc2e55a",
            "test.zip": "078afce2f8297e84f47c35676f9b6f545cc6170e7ba0570050a966838e7027d6",
        },
        Hub(
            "uoft-cs/cifar100",
            "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
            {
                "cifar100/train": "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
                "cifar100/test": "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
            },
        ),
        source=REPACKED,
    )
    default_model = "resnet56"
    own = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    def __init__(self, normalize: Normalization = "own", augment: bool = True, loss: str = "cross-entropy") -> None:
        super().__init__(100, normalize, augment, loss)

    @staticmethod
    def hub_order(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the first of each class, then the second of each, and so on: the order of the local files."""
        by_class = np.argsort(labels, kind="stable")
        rank = np.empty(len(labels), np.int64)
        starts = np.searchsorted(labels[by_class], labels[by_class])
        rank[by_class] = np.arange(len(labels)) - starts
        return np.lexsort((labels, rank))


def unpack_strips(path: Path) -> NDArray[np.uint8]:
    """Decode a zip of strips, each with square images stacked from top to bottom.

    :returns: ``(images, 3, side, side)``.
    """
    from PIL import Image

    parts = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            with Image.open(io.BytesIO(archive.read(name))) as strip:
                pixels = np.asarray(strip.convert("RGB"))
            side = pixels.shape[1]
            parts.append(pixels.reshape(-1, side, side, 3).transpose(0, 3, 1, 2))
    return np.concatenate(parts)
