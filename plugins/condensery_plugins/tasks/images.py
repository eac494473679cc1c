"""Image classification: digits (embedded), MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import gzip
import io
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condensery.data import cache_dir, check_sha256, find_data, missing_data, write_atomic
from condensery.errors import UnknownKey, UsageError
from condensery.tasks import ACCURACY, Batch, Split, Subset, Task, TaskFacts, accuracy_metrics

Arrays = dict[str, tuple[Tensor, Tensor]]
"""By split: uint8 images ``(N, C, H, W)`` and int64 labels ``(N,)``."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def augment(images: Tensor, generator: torch.Generator, *, pad: int, flip: bool) -> Tensor:
    """Shift each image by up to ``pad`` pixels with zeros moving in, and mirror half of them.

    :param images: ``(N, C, H, W)``.
    :param generator: on the CPU, so that every device gets the same draw.
    """
    n, _, height, width = images.shape
    if pad:
        shift = torch.randint(0, 2 * pad + 1, (2, n), generator=generator).to(images.device)
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        rows = shift[0, :, None] + torch.arange(height, device=images.device)
        columns = shift[1, :, None] + torch.arange(width, device=images.device)
        index = torch.arange(n, device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
    return images.contiguous()


class ImageTask(Task):
    """Images in memory as uint8; each batch is augmented and normalized at once, on the device.

    :param normalize: ``own`` (the set's mean and deviation) or ``imagenet``.
    :param augmented: shift (and mirror, where the set calls for it) training images.
    """

    metrics = ACCURACY
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    pad: ClassVar[int] = 0
    flip: ClassVar[bool] = False

    def __init__(self, normalize: str = "own", augmented: bool = True) -> None:
        if normalize not in ("own", "imagenet"):
            raise UnknownKey("value", str(normalize), ["own", "imagenet"], where="normalize")
        if normalize == "imagenet" and self.facts.channels != 3:
            raise UsageError(f"task {self.key!r}: normalize=imagenet needs three channels")
        self.normalize, self.augmented = normalize, augmented
        self._arrays: Arrays | None = None

    @abstractmethod
    def load(self) -> Arrays:
        """Read the whole set."""

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return a split's images and labels, read when first asked for."""
        if self._arrays is None:
            self._arrays = self.load()
        return self._arrays[split]

    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""
        labels = self.arrays(split)[1]
        return len(labels if subset is None else subset.pick(labels))

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int = 0,
        subset: Subset | None = None,
        device: torch.device | str = "cpu",
        train: bool = False,
    ) -> Iterator[Batch]:
        """Yield one epoch of batches."""
        images, labels = self.arrays(split)
        index = torch.arange(len(labels)) if subset is None else subset.pick(labels)
        generator = torch.Generator().manual_seed(seed)
        if train:
            index = index[torch.randperm(len(index), generator=generator)]
        means, stds = IMAGENET if self.normalize == "imagenet" else (self.mean, self.std)
        mean = torch.tensor(means, device=device)[None, :, None, None] * 255
        scale = 1 / (torch.tensor(stds, device=device)[None, :, None, None] * 255)
        for part in index.split(batch_size):
            if train and len(part) == 1 and len(index) > 1:
                continue  # batch normalization has no statistics of one example
            chosen = images[part].to(device)
            if train and self.augmented and (self.pad or self.flip):
                chosen = augment(chosen, generator, pad=self.pad, flip=self.flip)
            yield Batch((chosen.float() - mean) * scale, labels[part].to(device))

    def example_input(self, batch_size: int = 2) -> Tensor:
        """Return noise of the right shape, always the same."""
        shape = (batch_size, self.facts.channels, self.facts.size, self.facts.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy, error, wrong answers and loss."""
        return accuracy_metrics(logits, labels)

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        return {"key": self.key, "normalize": self.normalize, "augmented": self.augmented}


class Digits(ImageTask):
    """scikit-learn's 8x8 digits: 1,297 to train, 500 to test, fixed and stratified. Embedded.

    :param size: images are enlarged to this size, bilinearly.
    """

    key = "digits"
    default_model = "resnet8"
    mean, std = (0.3052,), (0.3758,)
    base: ClassVar[Mapping[str, Any]] = {
        "epochs": 8,
        "batch_size": 64,
        "optimizer": {"lr": 0.1, "weight_decay": 5e-4, "options": {"momentum": 0.9, "nesterov": True}},
        "schedule": {"name": "cosine", "warmup": 0.1},
    }

    def __init__(self, size: int = 8, normalize: str = "own", augmented: bool = True) -> None:
        if not isinstance(size, int) or not 8 <= size <= 64:
            raise UsageError(f"task 'digits': size must be a whole number from 8 to 64, got {size!r}")
        self.facts = TaskFacts("image", outputs=10, channels=1, size=size)
        super().__init__(normalize, augmented)

    def load(self) -> Arrays:
        """Take the embedded set."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        bunch = load_digits()
        images, labels = bunch.images, bunch.target
        split = train_test_split(images, labels, test_size=500, random_state=0, stratify=labels)
        out: Arrays = {}
        for name, x, y in (("train", split[0], split[2]), ("test", split[1], split[3])):
            pixels = torch.from_numpy(x).float()[:, None] * (255 / 16)
            if self.facts.size != 8:
                shape = (self.facts.size, self.facts.size)
                pixels = torch.nn.functional.interpolate(pixels, shape, mode="bilinear", align_corners=False)
            out[name] = (pixels.round().to(torch.uint8), torch.from_numpy(y).long())
        return out

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        return super().describe() | {"size": self.facts.size}


IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of bytes.

    :raises UsageError: if it is damaged.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\0\0\x08":
            raise ValueError("not an IDX file of bytes")
        shape = np.frombuffer(raw, ">i4", raw[3], 4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"{path}: damaged: {error}") from None


class Mnist(ImageTask):
    """MNIST: 60,000 digits to train, 10,000 to test, 28x28. Not augmented unless asked: ``augmented: true`` shifts."""

    key = "mnist"
    default_model = "lenet-5"
    hub: ClassVar[str] = "ylecun/mnist"
    mean, std = (0.1307,), (0.3081,)
    pad = 2
    facts = TaskFacts("image", outputs=10, channels=1, size=28)
    base: ClassVar[Mapping[str, Any]] = {
        "epochs": 10,
        "batch_size": 128,
        "optimizer": {"lr": 0.05, "weight_decay": 5e-4, "options": {"momentum": 0.9, "nesterov": True}},
        "schedule": {"name": "cosine"},
    }

    def __init__(self, normalize: str = "own", augmented: bool = False) -> None:
        super().__init__(normalize, augmented)

    def load(self) -> Arrays:
        """Read the IDX files, or the hub's copy."""
        folder = find_data(self.key, IDX)
        if folder is None:
            return from_hub(self.key, self.hub, IDX, "image", "label")
        out = {}
        for name, images, labels in (("train", *IDX[:2]), ("test", *IDX[2:])):
            x, y = read_idx(folder / images), read_idx(folder / labels)
            out[name] = (torch.from_numpy(x.copy())[:, None], torch.from_numpy(y.copy()).long())
        return out


class FashionMnist(Mnist):
    """Fashion-MNIST: clothes, in MNIST's format."""

    key = "fashion-mnist"
    hub = "zalando-datasets/fashion_mnist"
    mean, std = (0.2860,), (0.3530,)


class Cifar10(ImageTask):
    """CIFAR-10: 50,000 to train, 10,000 to test, 32x32 RGB. Training images are shifted by up to 4 and mirrored."""

    key = "cifar10"
    default_model = "resnet20"
    hub: ClassVar[str] = "uoft-cs/cifar10"
    column: ClassVar[str] = "label"
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pad, flip = 4, True
    facts = TaskFacts("image", outputs=10, channels=3, size=32)
    digests: ClassVar[Mapping[str, str]] = {
        "labels.npz": "76b0ae705fb8cbc2614044ecc1a54a77efb2a5d543b929774f6eee55c126b8ce",
        "test.zip": "73a99dc814237937684a4251c0f5eada6dbb1f9a2c55635bcf3415c127f19113",
        "train_0.zip": "594a2eb625435cd2dfb3f3dad4a49eb0311ab2d4ebd4dc504187f9f25838afa9",
        "train_1.zip": "3b2d1b987a73fd7671ab5d7d0d07745e00b5d54350be6eab878d9a0aae4b4779",
    }
    base: ClassVar[Mapping[str, Any]] = {
        "epochs": 60,
        "batch_size": 128,
        "autocast": "bf16",
        "channels_last": True,
        "optimizer": {"lr": 0.1, "weight_decay": 5e-4, "options": {"momentum": 0.9, "nesterov": True}},
        "schedule": {"name": "cosine", "warmup": 0.02},
    }

    def load(self) -> Arrays:
        """Read the decoded set from the cache; decode it first where it isn't there."""
        decoded = cache_dir() / "decoded" / self.key
        names = ("train.npy", "train_labels.npy", "test.npy", "test_labels.npy")
        if not all((decoded / n).is_file() for n in names):
            files = tuple(self.digests) or ("labels.npz", "test.zip", "train_0.zip", "train_1.zip")
            folder = find_data(self.key, files)
            if folder is None:
                return from_hub(self.key, self.hub, files, "img", self.column)
            decode_strips(folder, decoded, self.digests)
        arrays = [np.load(decoded / n) for n in names]
        tensors = [torch.from_numpy(a) for a in arrays]
        return {"train": (tensors[0], tensors[1].long()), "test": (tensors[2], tensors[3].long())}


class Cifar100(Cifar10):
    """CIFAR-100: as CIFAR-10, with 100 classes."""

    key = "cifar100"
    hub = "uoft-cs/cifar100"
    column = "fine_label"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    facts = TaskFacts("image", outputs=100, channels=3, size=32)
    digests = {}


def decode_strips(folder: Path, target: Path, digests: Mapping[str, str]) -> None:
    """Decode zips of lossless WebP strips (images stacked top to bottom) to ``.npy`` files."""
    from PIL import Image

    for name in digests:
        check_sha256(folder / name, digests)
    with np.load(folder / "labels.npz", allow_pickle=False) as labels:
        known = {"train": labels["train"], "test": labels["test"]}
    for split, archives in (("train", ("train_0.zip", "train_1.zip")), ("test", ("test.zip",))):
        parts = []
        for archive in archives:
            try:
                with zipfile.ZipFile(folder / archive) as handle:
                    for member in sorted(handle.namelist()):
                        strip = np.asarray(Image.open(io.BytesIO(handle.read(member))).convert("RGB"))
                        parts.append(strip.reshape(-1, 32, 32, 3))
            except (OSError, zipfile.BadZipFile) as error:
                raise UsageError(f"{folder / archive}: damaged: {error}") from None
        images = np.ascontiguousarray(np.concatenate(parts).transpose(0, 3, 1, 2))
        write_atomic(target / f"{split}.npy", lambda path, images=images: np.save(path, images))  # type: ignore[misc]
        write_atomic(target / f"{split}_labels.npy", lambda path, y=known[split]: np.save(path, y))  # type: ignore[misc]


def from_hub(name: str, hub: str, files: tuple[str, ...], image: str, label: str) -> Arrays:
    """Read a set from the Hugging Face Hub (``pip install condensery[hub]``). The revision is not pinned.

    :raises UsageError: naming every place that was looked at.
    """
    try:
        import datasets
    except ImportError:
        raise missing_data(name, files, hub, "needs pip install condensery[hub]") from None
    out = {}
    for split in ("train", "test"):
        try:
            rows = datasets.load_dataset(hub, split=split)
        except Exception as error:  # the hub's client raises many kinds; the user gets one line
            raise missing_data(name, files, hub, f"{type(error).__name__}") from None
        pixels = np.stack([np.asarray(i) for i in rows[image]])
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        out[split] = (torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(rows[label]))
    return out
