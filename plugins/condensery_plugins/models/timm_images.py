"""Image nets of timm, by name with overrides, and a small ViT that fits the task."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from condensery.errors import UnknownKey, UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import need, scaled


def build(facts: TaskFacts, name: str, **config: Any) -> nn.Module:
    """Build ``timm/<name>``; settings such as ``img_size`` and ``patch_size`` go to timm.

    :raises UnknownKey: for a name that timm doesn't have.
    """
    need(facts, f"timm/{name}", "image")
    if name.partition(".")[0] not in timm.list_models():
        raise UnknownKey("timm model", name, timm.list_models())
    try:
        return timm.create_model(name, num_classes=facts.outputs, in_chans=facts.channels, **config)  # type: ignore[no-any-return]
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(f"model 'timm/{name}': {str(error).splitlines()[0]}") from None


def build_vit(
    facts: TaskFacts,
    name: str,
    *,
    patch_size: int | None = None,
    dim: int | None = None,
    depth: int | None = None,
    heads: int = 3,
    width: float = 1.0,
) -> nn.Module:
    """Build a small ViT: by default dim 192 and depth 6 for 28x28 and more, dim 48 and depth 2 for less."""
    need(facts, name, "image", least=8)
    large = facts.size >= 28
    patch = patch_size or (4 if large else max(2, facts.size // 4))
    if facts.size % patch:
        raise UsageError(f"model 'vit': patch_size {patch} doesn't divide the image size {facts.size}")
    dim = scaled(width, dim or (192 if large else 48)) // heads * heads
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(  # type: ignore[no-any-return]
        img_size=facts.size,
        patch_size=patch,
        in_chans=facts.channels,
        num_classes=facts.outputs,
        embed_dim=dim,
        depth=depth or (6 if large else 2),
        num_heads=heads,
    )
