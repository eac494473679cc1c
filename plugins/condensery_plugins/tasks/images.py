"""Image classification on ``uint8`` tensors: normalisation, random crops and flips, in batches."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from condensery import UnknownKey
from condensery.tasks import Arrays, DataSet, Split, TaskFacts
from condensery_plugins.tasks.tensors import Stored, TensorTask, local_or_hub

LOSSES = ("cross-entropy", "squared-hinge")
"""Of a classification; the second one is BinaryConnect's and BNN's."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sgd(lr: float) -> dict[str, Any]:
    """Return the optimizer that the image tasks' base recipes train with: SGD with Nesterov's momentum.

    :param lr: learning rate.
    """
    return {"name": "sgd", "lr": lr, "weight_decay": 5e-4, "options": {"momentum": 0.9, "nesterov": True}}


def unpack_png(cell: Mapping[str, bytes], mode: str) -> NDArray[np.uint8]:
    """Return the pixels of an image of the hub's.

    :param cell: as a column holds it, see :meth:`condensery.tasks.DataSet.columns`.
    :param mode: Pillow's: ``L`` gives ``(height, width)``, ``RGB`` ``(height, width, 3)``.
    """
    from PIL import Image

    with Image.open(io.BytesIO(cell["bytes"])) as image:
        return np.asarray(image.convert(mode))


class ImageTask(TensorTask):
    """Classification of images, stored as ``images`` of shape ``(examples, channels, height, width)``, uint8.

    :param facts: of the task.
    :param mean: per channel, of pixels in 0..1.
    :param std: per channel, of pixels in 0..1.
    :param pad: random crops out of the image with this many pixels of zeros around it; 0 turns crops off.
    :param flip: mirror half of the training images, left to right.
    :param loss: one of :data:`LOSSES`.
    """

    white: ClassVar[float] = 255.0
    """The stored number that stands for 1."""

    def __init__(
        self,
        facts: TaskFacts,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        pad: int = 0,
        flip: bool = False,
        loss: str = LOSSES[0],
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise UnknownKey("loss", loss, LOSSES, where=f"task {self.key!r}")
        self.squared_hinge = loss == "squared-hinge"
        self.facts, self.mean, self.std, self.pad, self.flip = facts, mean, std, pad, flip

    def noise(self, examples: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the crops' offsets, ``(examples, 2)`` in 0..2 pad, and who is mirrored, ``(examples,)``."""
        drawn = {}
        if self.pad:
            drawn["crop"] = torch.randint(0, 2 * self.pad + 1, (examples, 2), generator=generator)
        if self.flip:
            drawn["flip"] = torch.randint(0, 2, (examples,), generator=generator).bool()
        return drawn

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return normalised images, ``(batch, channels, height, width)`` of float32."""
        images = stored["images"][index]
        if noise:
            images = augment(images, self.pad, noise.get("crop"), noise.get("flip"))
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return images.float().div_(self.white).sub_(mean).div_(std)

    def example(self, batch_size: int = 2) -> Tensor:
        """Return noise with zero mean and unit variance, like normalised images."""
        shape = (batch_size, self.facts.channels, self.facts.height, self.facts.width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        found = {"key": self.key, "size": self.facts.size, "mean": self.mean, "pad": self.pad, "flip": self.flip}
        return {**found, "loss": LOSSES[self.squared_hinge]}


class StoredImages(ImageTask):
    """Images from pinned local files or the Hugging Face Hub, decoded once and then kept in the cache."""

    data_set: ClassVar[DataSet]
    """Whether the files' own bytes are pinned, or their content, is the subclass's to say."""

    @abstractmethod
    def read(self, folder: Path, split: Split) -> Arrays:
        """Decode one split: ``<split>_images``, with or without a dimension for channels, and ``<split>_labels``."""

    @abstractmethod
    def fetch(self, split: Split) -> Arrays:
        """Return the same from the hub."""

    def load(self, split: Split) -> Stored:
        """Read one split from local files, the cache or the hub."""
        keys = [f"{split}_images", f"{split}_labels"]
        arrays = local_or_hub(
            self.key,
            keys,
            self.data_set,
            read=lambda folder: self.read(folder, split),
            fetch=lambda: self.fetch(split),
        )
        images, labels = (torch.from_numpy(arrays[key]) for key in keys)
        shape = (len(images), self.facts.channels, self.facts.height, self.facts.width)
        return {"images": images.view(shape)}, labels.long()


def augment(images: Tensor, pad: int, crop: Tensor | None, flip: Tensor | None) -> Tensor:
    """Crop each image at its own offset out of its zero-padded self, and mirror some of them.

    :param images: ``(batch, channels, height, width)``.
    :param crop: rows and columns to skip, ``(batch, 2)`` in 0..2 pad; ``(pad, pad)`` leaves an image where it is.
    :param flip: whether an image is mirrored left to right, ``(batch,)``.
    :returns: a new tensor of the same shape and type.
    """
    batch, channels, height, width = images.shape
    device = images.device

    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip is not None:
        columns = torch.where(flip[:, None], width - 1 - columns, columns)

    if crop is not None:
        images = nn.functional.pad(images, (pad, pad, pad, pad))
        rows, columns = rows + crop[:, :1], columns + crop[:, 1:]

    each = torch.arange(batch, device=device)[:, None, None, None]
    plane = torch.arange(channels, device=device)[None, :, None, None]
    return images[each, plane, rows[:, None, :, None], columns[:, None, None, :]]


def upscale(images: Tensor, size: int) -> Tensor:
    """Return uint8 images enlarged by bilinear interpolation.

    :param images: ``(examples, channels, side, side)``.
    :param size: the new side, in pixels.
    """
    if images.shape[-1] == size:
        return images
    larger = nn.functional.interpolate(images.float(), (size, size), mode="bilinear", align_corners=False)
    return larger.round_().to(torch.uint8)
