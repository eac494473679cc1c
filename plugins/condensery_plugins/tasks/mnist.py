"""MNIST and Fashion-MNIST: 28x28 grey images in IDX files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from condensery import UsageError
from condensery.tasks import Arrays, DataSet, Hub, Split, TaskFacts, check_content, read_gzip
from condensery_plugins.tasks.images import StoredImages, sgd, unpack_png

FILES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class IdxTask(StoredImages):
    """60,000 + 10,000 images in four gzip'd IDX files, in ten classes.

    Training images are shifted by up to ``jitter`` pixels, by default not at all. The ``loss`` is ``cross-entropy``, or
    ``squared-hinge``.

    The files' *content* is pinned, so the authors' files, any repacking of them and the hub's copy are all right.
    """

    hub_config: ClassVar[str]
    """Under which the hub's copy has its splits."""
    default_model = "lenet-5"
    base = {
        "epochs": 10,
        "batch_size": 128,
        "optimizer": sgd(0.05),
        "schedule": {"name": "cosine"},
    }

    def __init__(self, mean: float, std: float, jitter: int, loss: str = "cross-entropy") -> None:
        if not 0 <= jitter <= 8:
            raise UsageError(f"task {self.key}: jitter must be 0 to 8 pixels, got {jitter}")
        super().__init__(TaskFacts("image", outputs=10, channels=1, size=28), (mean,), (std,), pad=jitter, loss=loss)

    def read(self, folder: Path, split: Split) -> Arrays:
        """Decode one split of the local files."""
        images, labels = FILES[split]
        return {
            f"{split}_images": parse_idx(folder / images, read_gzip(folder / images, self.data_set.files)),
            f"{split}_labels": parse_idx(folder / labels, read_gzip(folder / labels, self.data_set.files)),
        }

    def fetch(self, split: Split) -> Arrays:
        """Return one split of the hub's copy."""
        columns = self.data_set.columns(f"{self.hub_config}/{split}")
        images = np.stack([unpack_png(cell, "L") for cell in columns["image"]])
        labels = np.asarray(columns["label"], np.uint8)

        for file, array in zip(FILES[split], (images, labels), strict=True):
            check_content(f"the hub's {self.key}, {split}", idx_bytes(array), self.data_set.files[file])
        return {f"{split}_images": images, f"{split}_labels": labels}


class Mnist(IdxTask):
    """Handwritten digits.

    LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998.
    """

    key = hub_config = "mnist"
    data_set = DataSet(
        key,
        {
            "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        Hub(
            "ylecun/mnist",
            "77f3279092a1c1579b2250db8eafed0ad422088c",
            {
                "mnist/train": "f2c01285a9f89399335b00ee4e8d499dc4e46db5e39c74903ce5618d895eb3bf",
                "mnist/test": "d49fcf556ce25b002b302e318ce4a11098bbfe5d4499c3f35d7c72297c52374b",
            },
        ),
        source="the authors' four files, in any gzip packing",
    )

    def __init__(self, jitter: int = 0, normalize: bool = True, loss: str = "cross-entropy") -> None:
        super().__init__(0.1307 if normalize else 0.0, 0.3081 if normalize else 1.0, jitter, loss)


class FashionMnist(IdxTask):
    """Pictures of clothes, in MNIST's format.

    Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
    arXiv:1708.07747. The pinned content is that of Debian's package ``dataset-fashion-mnist``.
    """

    key, hub_config = "fashion-mnist", "fashion_mnist"
    data_set = DataSet(
        key,
        {
            "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        Hub(
            "zalando-datasets/fashion_mnist",
            "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2",
            {"fashion_mnist/train": "", "fashion_mnist/test": ""},
        ),
        source="the authors' four files; Debian and Ubuntu: the package dataset-fashion-mnist",
    )

    def __init__(self, jitter: int = 0, loss: str = "cross-entropy") -> None:
        super().__init__(0.2860, 0.3530, jitter, loss)


def parse_idx(path: Path, content: bytes) -> NDArray[Any]:
    """Return the array in an IDX file of unsigned bytes.

    :param path: where the content is from, for errors.
    :raises UsageError: if it is of another type, or not as long as its header says.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise UsageError(f"{path}: not an IDX file of unsigned bytes")

    head = 4 + 4 * content[3]
    shape = struct.unpack_from(f">{content[3]}I", content, 4) if len(content) >= head else ()
    if not shape or len(content) - head != int(np.prod(shape)):
        raise UsageError(f"{path}: damaged, its header doesn't fit its length of {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return an array as the content of an IDX file: what :func:`parse_idx` reads."""
    return b"\0\0\x08" + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()
