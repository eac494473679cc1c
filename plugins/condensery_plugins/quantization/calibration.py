"""What the quantizers share: which layers get how many bits, and on what data their ranges are set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from condensery.errors import NotApplicable
from condensery.nets import QUANTIZE, Transform, Weight
from condensery.run import Stage

SAMPLES = 128
"""Examples whose activations set the start of activation quantizers."""


def plan_bits(stage: Stage, inner: int, edge: int) -> dict[str, int]:
    """Return bits by layer path: ``edge`` for the first and last layer of a forward pass, ``inner`` for the rest."""
    first, last = stage.edges()
    return {w.path: edge if w.path in (first, last) else inner for w in stage.weights()}


def refuse_quantized(method: str, weight: Weight) -> None:
    """Refuse a second quantizer on one weight.

    :raises NotApplicable: naming the layer.
    """
    if weight.stack is not None and any(getattr(t, "rank", None) == QUANTIZE for t in weight.stack.transforms.values()):
        raise NotApplicable(method, f"layer {weight.path!r} is quantized already")


def quantize_layers(
    stage: Stage,
    method: str,
    weight_bits: int,
    activation_bits: int | None,
    edge_bits: int,
    for_weight: Callable[[Tensor, int], Transform],
    for_input: Callable[[Tensor, int], Transform],
) -> None:
    """Put a quantizer on every layer's weight, and on its input unless ``activation_bits`` is ``None``.

    :param for_weight: makes a quantizer from the latent weight and its bits.
    :param for_input: makes one from sampled inputs of the layer, flat, and its bits.
    """
    weights = stage.weights()
    inputs = stage.record_inputs([w.path for w in weights], SAMPLES) if activation_bits is not None else {}
    bits = plan_bits(stage, weight_bits, edge_bits)
    input_bits = plan_bits(stage, activation_bits or edge_bits, edge_bits)
    for weight in weights:
        refuse_quantized(method, weight)
        stage.attach(weight.name, method, for_weight(weight.latent.detach(), bits[weight.path]))
        if weight.path in inputs:
            seen = torch.cat([t.flatten() for t in inputs[weight.path]])
            stage.attach(f"{weight.path}:input", method, for_input(seen, input_bits[weight.path]))


def too_many_levels(final: Tensor, bits: int) -> str | None:
    """Return what is wrong if a tensor has more than 2^bits values besides zero."""
    values = torch.unique(final)
    levels = int((values != 0).sum())
    return f"{levels} levels besides zero, more than 2^{bits}" if levels > 2**bits else None
