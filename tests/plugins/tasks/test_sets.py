from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from condensery import Registry, UsageError
from condensery.errors import UnknownKey
from condensery.measure import evaluate
from condensery.nets import build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage import build_with_weights
from condensery.tasks import Subset, build_task

REGISTRY = Registry.open()
COUNTS = {"digits": (1297, 500), "word-language": (10_000, 2_000)}
LOCAL = {
    "mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "sst2": (67_349, 872),
    "cola": (8_551, 1_043),
    "mrpc": (3_667, 408),
    "rte": (2_490, 277),
    "stsb": (5_749, 1_500),
}


def needs_data() -> None:
    if not os.environ.get("CONDENSERY_DATA"):
        pytest.skip("CONDENSERY_DATA is not set")


@pytest.mark.parametrize("key", COUNTS)
def test_embedded_sets(key: str) -> None:
    task = build_task(TaskSpec(key=key), REGISTRY)
    assert (task.count("train"), task.count("test")) == COUNTS[key]
    first = [b.labels for b in task.batches("train", batch_size=64, seed=1, train=True)]
    again = [b.labels for b in task.batches("train", batch_size=64, seed=1, train=True)]
    other = [b.labels for b in task.batches("train", batch_size=64, seed=2, train=True)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True) if a is not None and b is not None)
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True) if a is not None and b is not None)
    assert sum(len(x) for x in first if x is not None) == COUNTS[key][0]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("key", LOCAL)
def test_local_sets(key: str) -> None:
    needs_data()
    task = build_task(TaskSpec(key=key), REGISTRY)
    assert (task.count("train"), task.count("test")) == LOCAL[key]
    batch = next(iter(task.batches("test", batch_size=4)))
    spec = ModelSpec(key="mlp" if task.facts.kind == "image" else "transformer")
    net = build_net(spec, task.facts, REGISTRY, 0).eval()
    assert task.outputs(net, batch).shape == (4, task.facts.outputs)


@pytest.mark.data
@pytest.mark.slow
def test_trained_resnet20_scores_what_its_source_says() -> None:
    needs_data()
    task = build_task(TaskSpec.model_validate({"key": "cifar10", "normalize": "imagenet"}), REGISTRY)
    spec = ModelSpec(key="resnet20", weights="$CONDENSERY_DATA/ckpt_cifar10_resnet/resnet20.safetensors")
    net = build_with_weights(spec, task.facts, REGISTRY, 0)
    quality = evaluate(task, net, torch.device("cpu"))
    assert quality["accuracy"] == pytest.approx(91.73, abs=0.03)


def test_subsets_are_fixed_and_named_when_too_large() -> None:
    labels = torch.arange(100) % 4
    few = Subset(per_class=5, without=(3,)).pick(labels)
    assert torch.bincount(labels[few], minlength=4).tolist() == [5, 5, 5, 0]
    assert torch.equal(few, Subset(per_class=5, without=(3,)).pick(labels))
    with pytest.raises(UsageError, match="101 asked for, the split has 100"):
        Subset(size=101).pick(labels)
    with pytest.raises(UsageError, match="no example has class 7"):
        Subset(without=(7,)).pick(labels)


def test_missing_data_names_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="looked in: ") as caught:
        build_task(TaskSpec(key="mnist"), REGISTRY).count("train")
    for place in ("CONDENSERY_DATA", str(tmp_path / "cache"), "ylecun/mnist"):
        assert place in str(caught.value)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(UnknownKey, match=r"^task 'digits': unknown setting 'sise'; did you mean 'size'"):
        build_task(TaskSpec.model_validate({"key": "digits", "sise": 3}), REGISTRY)
    with pytest.raises(UsageError, match=r"^task 'digits': .*'str'"):
        build_task(TaskSpec.model_validate({"key": "digits", "size": "large"}), REGISTRY)
