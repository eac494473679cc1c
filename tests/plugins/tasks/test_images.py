from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condensery.tasks import Split, TaskFacts
from condensery_plugins.tasks.images import ImageTask, augment, upscale
from condensery_plugins.tasks.tensors import Stored


class Counted(ImageTask):
    """Twelve 2x2 images with two channels: image i holds i in the first and 100 + i in the second."""

    key = "counted"

    def __init__(self, pad: int = 0, flip: bool = False) -> None:
        super().__init__(TaskFacts("image", outputs=2, channels=2, size=2), (0.2, 0.4), (0.5, 0.25), pad=pad, flip=flip)

    def load(self, split: Split) -> Stored:
        first = torch.arange(12, dtype=torch.uint8)
        images = torch.stack([first, first + 100], 1)[:, :, None, None].expand(12, 2, 2, 2).contiguous()
        return {"images": images}, torch.arange(12) % 2


def one_by_one(images: Tensor, pad: int, crop: Tensor | None, flip: Tensor | None) -> Tensor:
    """The same as ``augment``, written plainly: shift with zeros, then mirror."""
    out = torch.zeros_like(images)
    _, _, height, width = images.shape
    for n in range(len(images)):
        down, right = (0, 0) if crop is None else (int(crop[n, 0]) - pad, int(crop[n, 1]) - pad)
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    out[n, :, row, column] = images[n, :, row + down, column + right]
        if flip is not None and flip[n]:
            out[n] = torch.stack([out[n, :, :, width - 1 - column] for column in range(width)], 2)
    return out


def test_crop_and_flip_of_a_hand_made_image() -> None:
    image = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    images = image.expand(4, 1, 2, 3)
    crop = torch.tensor([[1, 1], [0, 1], [1, 2], [2, 0]])
    flip = torch.tensor([False, False, True, False])
    made = augment(images, 1, crop, flip)[:, 0].tolist()
    assert made == [
        [[1, 2, 3], [4, 5, 6]],  # the middle: as it was
        [[0, 0, 0], [1, 2, 3]],  # one row of border above
        [[0, 3, 2], [0, 6, 5]],  # one column to the right, then mirrored
        [[0, 4, 5], [0, 0, 0]],  # one row down, one column of border on the left
    ]


@pytest.mark.parametrize(("pad", "flips"), [(0, True), (2, False), (3, True)])
def test_augmenting_a_batch_equals_augmenting_each_image(pad: int, flips: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(1, 255, (40, 3, 7, 7), generator=generator).to(torch.uint8)
    crop = torch.randint(0, 2 * pad + 1, (40, 2), generator=generator) if pad else None
    flip = torch.rand(40, generator=generator) < 0.5 if flips else None
    before = images.clone()
    assert torch.equal(augment(images, pad, crop, flip), one_by_one(images, pad, crop, flip))
    assert torch.equal(images, before)


def test_inputs_are_normalized_by_channel() -> None:
    (batch,) = Counted().batches("test", batch_size=20)
    assert batch.inputs.dtype == torch.float32
    assert batch.inputs.shape == (12, 2, 2, 2)
    torch.testing.assert_close(batch.inputs[3, 0, 0, 0].item(), (3 / 255 - 0.2) / 0.5)
    torch.testing.assert_close(batch.inputs[3, 1, 1, 0].item(), (103 / 255 - 0.4) / 0.25)


def test_training_batches_are_augmented_and_others_are_not() -> None:
    task = Counted(pad=1, flip=True)
    plain = torch.cat([b.inputs for b in task.batches("train", batch_size=5)])
    assert torch.equal(plain, torch.cat([b.inputs for b in Counted().batches("train", batch_size=5)]))
    augmented = torch.cat([b.inputs for b in task.batches("train", batch_size=5, train=True)])
    black = torch.tensor([(0 - 0.2) / 0.5, (0 - 0.4) / 0.25])
    assert bool((augmented[:, 1] == black[1]).any()), "no border has come in"


def test_a_task_as_stored_has_the_same_order_and_no_noise() -> None:
    task = Counted(pad=1, flip=True)

    def shown(task: Counted) -> Tensor:
        return torch.cat([b.inputs for b in task.batches("train", batch_size=5, seed=3, train=True)])

    assert torch.equal(shown(task.as_stored()), shown(Counted()))
    assert not torch.equal(shown(task), shown(Counted()))
    assert task.as_stored()._splits is task._splits


def test_crops_and_flips_are_drawn_evenly() -> None:
    drawn = Counted(pad=1, flip=True).noise(9000, torch.Generator().manual_seed(0))
    offsets = drawn["crop"] @ torch.tensor([3, 1])
    assert offsets.bincount().tolist() == pytest.approx([1000] * 9, rel=0.15)
    assert int(drawn["flip"].sum()) == pytest.approx(4500, rel=0.05)


def test_example_reads_nothing_and_has_the_inputs_shape() -> None:
    task = Counted()
    example = task.example(3)
    assert example.shape == (3, 2, 2, 2)
    assert torch.equal(example, task.example(3))
    assert not task._splits


def test_upscale_keeps_flat_images_and_interpolates_between() -> None:
    images = torch.tensor([[[[0, 200], [0, 200]]]], dtype=torch.uint8)
    assert upscale(images, 4)[0, 0].tolist() == [[0, 50, 150, 200]] * 4
    assert upscale(images, 2) is images
