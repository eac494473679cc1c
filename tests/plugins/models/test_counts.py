from __future__ import annotations

from typing import Any

import pytest
import torch

from condensery import Registry, UsageError
from condensery.nets import build_net, copy_from, resolve, same_numbers
from condensery.recipe import ModelSpec, TaskSpec
from condensery.tasks import TaskFacts, build_task

REGISTRY = Registry.open()
MNIST = TaskFacts("image", outputs=10, channels=1, size=28)
CIFAR = TaskFacts("image", outputs=10, channels=3, size=32)


def build(key: str, facts: TaskFacts, **config: Any) -> torch.nn.Module:
    module = REGISTRY.load("models", key)(facts, key.partition("/")[2] or key, **config)
    assert isinstance(module, torch.nn.Module)
    return module


@pytest.mark.parametrize(
    ("key", "facts", "count"),
    [
        ("lenet-300-100", MNIST, 784 * 300 + 300 + 300 * 100 + 100 + 1010),
        ("lenet-5", MNIST, 431_080),
        ("plane2", CIFAR, 16 * 27 + 16 + 32 + 16 * 144 + 16 + 32 + 10 * 16 * 64 + 10),
        ("resnet20", CIFAR, 269_722),
        ("resnet32", CIFAR, 464_154),
        ("resnet44", CIFAR, 658_586),
        ("resnet56", CIFAR, 853_018),
    ],
)
def test_published_parameter_counts(key: str, facts: TaskFacts, count: int) -> None:
    assert sum(p.numel() for p in build(key, facts).parameters()) == count


@pytest.mark.parametrize("key", ["plane6", "resnet8", "vgg16-bn", "vit", "mlp", "lenet-300-100"])
def test_image_nets_fit_small_and_usual_images(key: str) -> None:
    for size, channels in ((8, 1), (32, 3)):
        facts = TaskFacts("image", outputs=7, channels=channels, size=size)
        net = build(key, facts)
        assert net(torch.randn(2, channels, size, size)).shape == (2, 7)
        assert resolve(net, "stages")
        assert resolve(net, "logits")


def test_plane_nets_have_as_many_convolutions_as_their_name_says_and_another_size_for_a_hundred_classes() -> None:
    hundred = TaskFacts("image", outputs=100, channels=3, size=32)
    for depth, inputs, wide in ((2, 1024, 2048), (4, 2048, 4096), (6, 1024, 8192), (8, 64, 64), (10, 128, 512)):
        for facts, expected in ((CIFAR, inputs), (hundred, wide)):
            net = build(f"plane{depth}", facts)
            assert sum(isinstance(m, torch.nn.Conv2d) for m in net.modules()) == depth
            assert net.get_submodule("classifier").in_features == expected
    with pytest.raises(UsageError, match="needs images of at least 16x16"):
        build("plane8", TaskFacts("image", outputs=10, channels=1, size=8))


@pytest.mark.parametrize("key", ["timm/resnet18", "timm/vit_tiny_patch16_224"])
def test_timm_nets_take_overrides(key: str) -> None:
    config = {"img_size": 32, "patch_size": 8, "depth": 2} if "vit" in key else {}
    assert build(key, CIFAR, **config)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_text_nets_fit_the_task() -> None:
    facts = TaskFacts("text", outputs=3, vocabulary=50, length=12)
    ids = torch.randint(1, 50, (2, 12))
    for key, config in (
        ("transformer", {}),
        ("hf/distilbert", {"dim": 12, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}),
    ):
        net = build(key, facts, **config)
        assert net(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("key", "task", "says"),
    [
        ("resnet20", "word-language", "image"),
        ("transformer", "digits", "text"),
        ("lenet-5", "digits", "16"),
        ("timm/resnet1888", "digits", "resnet"),
    ],
)
def test_a_net_that_does_not_fit_is_refused(key: str, task: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_net(ModelSpec(key=key), build_task(TaskSpec(key=task), REGISTRY).facts, REGISTRY, 0)


def test_initial_weights_depend_on_the_seeds_alone() -> None:
    task = build_task(TaskSpec(key="digits"), REGISTRY)
    one = build_net(ModelSpec(key="resnet8"), task.facts, REGISTRY, 0)
    torch.randn(5)
    assert same_numbers(one, build_net(ModelSpec(key="resnet8"), task.facts, REGISTRY, 0))
    assert not same_numbers(one, build_net(ModelSpec(key="resnet8"), task.facts, REGISTRY, 1))
    assert not same_numbers(one, build_net(ModelSpec(key="resnet8", seed=1), task.facts, REGISTRY, 0))


def test_a_student_cut_from_a_deeper_net() -> None:
    task = build_task(TaskSpec(key="digits"), REGISTRY)
    deep = build_net(ModelSpec.model_validate({"key": "vit", "depth": 4}), task.facts, REGISTRY, 0)
    shallow = build_net(ModelSpec(key="vit", layers=[0, 3]), task.facts, REGISTRY, 1)
    copy_from(shallow, deep, [0, 3])
    assert torch.equal(
        shallow.get_parameter("blocks.1.attn.qkv.weight"), deep.get_parameter("blocks.3.attn.qkv.weight")
    )
    assert torch.equal(shallow.get_parameter("head.weight"), deep.get_parameter("head.weight"))
    with pytest.raises(UsageError, match="the source has 4 layers"):
        copy_from(shallow, deep, [0, 9])
