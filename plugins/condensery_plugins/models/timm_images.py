"""Image nets of timm, by name with overrides, and a small ViT that fits the task."""

from __future__ import annotations

import inspect
import re
from typing import Any

import timm
import torch
from torch import nn

from condensery import UnknownKey, UsageError
from condensery.tasks import TaskFacts, hub_reachable
from condensery_plugins.hub import one_line
from condensery_plugins.models.facts import builder, scaled, shared

LOADING = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir")
"""What timm takes beside a net's settings: files and places that weights come from."""


@builder("image", family="timm/")
def build(facts: TaskFacts, name: str, *, pretrained: bool = False, **config: Any) -> nn.Module:
    """Build ``timm/<name>``; settings such as ``img_size``, ``patch_size`` and ``depth`` go to timm.

    Nets that are made for one image size are made for the task's, unless ``img_size`` says otherwise.

    :param pretrained: take the published weights (``weights: hub`` in a recipe); their revision is not pinned.
    :raises UnknownKey: for a name that timm doesn't have, or a setting that the net doesn't have.
    :raises UsageError: if timm can't build it so, or the weights can't be had.
    """
    for given in config:
        if given in LOADING:
            raise UsageError(f"model 'timm/{name}' takes no {given!r}; give 'weights' a safetensors file")

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UnknownKey("timm model", name, known)
    if pretrained and not hub_reachable():
        raise UsageError(f"model 'timm/{name}': its weights are on the Hugging Face Hub, which can't be reached")

    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size:
        square = facts.height == facts.width
        config.setdefault("img_size", facts.height if square else (facts.height, facts.width))
    elif "img_size" in config:
        raise UsageError(f"model 'timm/{name}' takes images of any size; leave img_size out")

    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=facts.outputs, in_chans=facts.channels, **config
        )
    except TypeError as error:
        setting = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if setting is None:
            raise
        raise UnknownKey("setting", setting[1], _settings(name), where=f"model 'timm/{name}'") from None
    except (AssertionError, ValueError, RuntimeError, ZeroDivisionError, OSError) as error:
        raise UsageError(f"model 'timm/{name}': {one_line(error) or type(error).__name__}") from None
    _try(name, facts, model)
    return model


def _try(name: str, facts: TaskFacts, model: nn.Module) -> None:
    """Play one blank image, because timm notices what doesn't fit only then."""
    was = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, facts.channels, facts.height, facts.width))
    except (AssertionError, ValueError, RuntimeError) as error:
        what = f"can't take images of {facts.height}x{facts.width} pixels"
        raise UsageError(f"model 'timm/{name}' {what}: {one_line(error, 150)}") from None
    model.train(was)


def _settings(name: str) -> list[str]:
    """Return what the class of a timm net takes."""
    with torch.device("meta"):
        return list(inspect.signature(type(timm.create_model(name)).__init__).parameters)[1:]


@builder("image", least=8)
def build_vit(
    facts: TaskFacts,
    name: str,
    *,
    patch_size: int | None = None,
    dim: int | None = None,
    depth: int | None = None,
    heads: int = 3,
    mlp_ratio: float = 4.0,
    dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Module:
    """Build a small ViT with a class token.

    By default 28x28 pixels and more get patches of 4, ``dim`` 192 and ``depth`` 6; from 128x128 on patches of 16 and
    ``depth`` 12, which is DeiT-Ti; smaller images get patches of a quarter of their side, ``dim`` 48 and ``depth`` 2.

    Dosovitskiy et al.: "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929.

    :param dim: width of the tokens, before ``width``.
    """
    from timm.models.vision_transformer import VisionTransformer

    side = min(facts.height, facts.width)
    small, huge = side < 28, side >= 128
    for setting, given in (("patch_size", patch_size), ("dim", dim), ("depth", depth)):
        if given is not None and given < 1:
            raise UsageError(f"model {name!r}: {setting} must be at least 1, got {given}")
    patch = patch_size or (max(2, side // 4) if small else 16 if huge else 4)
    for size in (facts.height, facts.width):
        if size % patch:
            raise UsageError(f"model {name!r}: patch_size {patch} doesn't divide the image size {size}")

    dim = shared(name, "dim", dim or (48 if small else 192), heads)
    model: nn.Module = VisionTransformer(
        img_size=(facts.height, facts.width),
        patch_size=patch,
        in_chans=facts.channels,
        num_classes=facts.outputs,
        embed_dim=scaled(width, dim, multiple=heads),
        depth=depth or (2 if small else 12 if huge else 6),
        num_heads=heads,
        mlp_ratio=mlp_ratio,
        proj_drop_rate=dropout,
    )
    return model
