from __future__ import annotations

from typing import Any

import pytest
import torch

from condensery.errors import UnknownKey, UsageError
from condensery.nets import resolve
from condensery.tasks import TaskFacts
from condensery_plugins.models.timm_images import build, build_vit

CIFAR = TaskFacts("image", outputs=10, channels=3, size=32)

NOTHING = [({name: 0}, f"{name} must be at least 1, got 0") for name in ("patch_size", "dim", "depth")]


def image(size: int) -> TaskFacts:
    return TaskFacts("image", outputs=6, channels=1, size=size)


@pytest.mark.parametrize(
    ("size", "patch", "dim", "depth"), [(8, 2, 48, 2), (16, 4, 48, 2), (28, 4, 192, 6), (32, 4, 192, 6)]
)
def test_vit_suits_the_image(size: int, patch: int, dim: int, depth: int) -> None:
    net = build_vit(image(size), "vit")
    assert net.get_parameter("patch_embed.proj.weight").shape == (dim, 1, patch, patch)
    assert resolve(net, "stages") == [f"blocks.{i}" for i in range(depth)]
    assert resolve(net, "logits") == ["head"]
    assert net(torch.randn(2, 1, size, size)).shape == (2, 6)


def test_vit_from_128_pixels_on_is_deit_tiny() -> None:
    net = build_vit(TaskFacts("image", outputs=1000, channels=3, size=224), "vit")
    assert sum(p.numel() for p in net.parameters()) == 5_717_416  # timm's vit_tiny_patch16_224


def test_vit_settings() -> None:
    net = build_vit(image(8), "vit", dim=30, depth=3, heads=5, patch_size=4, mlp_ratio=2.0, width=0.5)
    assert net.get_parameter("blocks.2.mlp.fc1.weight").shape == (30, 15)
    assert sum(m.num_heads == 5 for m in net.modules() if hasattr(m, "num_heads")) == 3
    for config, says in (
        ({"patch_size": 3}, "patch_size 3 doesn't divide the image size 8"),
        ({"dim": 31}, "dim 31"),
        *NOTHING,
    ):
        with pytest.raises(UsageError, match=says):
            build_vit(image(8), "vit", **config)


def test_timm_nets_of_one_size_get_the_tasks() -> None:
    net = build(image(32), "vit_tiny_patch16_224", patch_size=8, depth=1)
    assert net.get_parameter("pos_embed").shape == (1, 17, 192)
    assert net.training
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "config", "error", "says"),
    [
        ("resnet_18", {}, UnknownKey, "unknown timm model 'resnet_18'; did you mean 'resnet18'"),
        ("vit_tiny_patch16_224", {"emb_dim": 3}, UnknownKey, "unknown setting 'emb_dim'; did you mean 'embed_dim'"),
        ("vit_tiny_patch16_224", {"embed_dim": 100}, UsageError, "vit_tiny_patch16_224'"),
        ("vit_tiny_patch16_224", {"patch_size": 64}, UsageError, "can't take images of 32x32 pixels"),
        ("resnet18", {"img_size": 32}, UsageError, "images of any size; leave img_size out"),
        ("resnet18", {"width": 2.0}, UnknownKey, "unknown setting 'width'"),
    ],
)
def test_what_timm_can_not_build_is_one_line(
    name: str, config: dict[str, Any], error: type[UsageError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        build(CIFAR, name, **config)
    assert "\n" not in str(caught.value)


def test_published_weights_need_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="Hugging Face Hub, which can't be reached"):
        build(CIFAR, "resnet18", pretrained=True)


@pytest.mark.parametrize(("build_it", "name"), [(build_vit, "vit"), (build, "deit_tiny_patch16_224")])
def test_images_may_be_wider_than_high(build_it: Any, name: str) -> None:
    facts = TaskFacts("image", outputs=4, channels=3, height=32, width=64)
    assert build_it(facts, name).eval()(torch.randn(2, 3, 32, 64)).shape == (2, 4)
