from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from condensery import Registry, Run, UsageError
from condensery.recipe import parse_recipe
from condensery.run import Progress
from condensery.tasks import Subset
from condensery_plugins.tasks.digits import Digits


def test_the_split_holds_scikit_learns_images_once_each() -> None:
    task = Digits()
    found: Counter[tuple[bytes, int]] = Counter()
    for split in ("train", "test"):
        inputs, labels = task.split(split)
        images = inputs["images"]
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (1, 8, 8)
        found.update((i.numpy().tobytes(), int(y)) for i, y in zip(images // 15, labels, strict=True))
    bunch = load_digits()
    wanted = Counter((i.astype("uint8").tobytes(), int(y)) for i, y in zip(bunch.images, bunch.target, strict=True))
    assert found == wanted


def test_the_split_is_stratified_and_counted_without_reading() -> None:
    task = Digits()
    assert (task.count("train"), task.count("test")) == (1297, 500)
    assert not task._splits
    train, test = task.split("train")[1].bincount(), task.split("test")[1].bincount()
    assert (int(train.sum()), int(test.sum())) == (1297, 500)
    assert torch.allclose(test / (train + test), torch.tensor(500 / 1797), atol=0.01)
    assert task.count("train", Subset(per_class=3)) == 30


def test_training_images_have_zero_mean_and_unit_deviation() -> None:
    (batch,) = Digits().batches("train", batch_size=2000)
    assert batch.inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert batch.inputs.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("size", [16, 32])
def test_larger_images(size: int) -> None:
    task = Digits(size=size)
    assert task.facts.size == size
    batch = next(task.batches("test", batch_size=4))
    assert batch.inputs.shape == task.example(4).shape == (4, 1, size, size)
    small = next(Digits().batches("test", batch_size=4)).inputs
    shrunk = torch.nn.functional.avg_pool2d(batch.inputs, size // 8)
    assert torch.corrcoef(torch.stack([small.flatten(), shrunk.flatten()]))[0, 1] > 0.95


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="size must be 8 to 256, got 4"):
        Digits(size=4)


def test_settings_tell_tasks_apart() -> None:
    assert Digits().describe() == Digits(size=8).describe() != Digits(size=16).describe()


@pytest.mark.slow
def test_the_base_recipe_teaches_the_default_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    recipe = parse_recipe({"model": Digits.default_model, "task": "digits"})
    report = Run(recipe, Registry.open(), out=tmp_path / "run", show=Progress(quiet=True)).execute()
    assert report["before"]["quality"]["accuracy"] > 95
