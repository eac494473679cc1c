"""What the quantizers share: which layers get how many bits, and on what data their ranges are set."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from condensery import NotApplicable, Stage, Transform, Weight
from condensery.nets import QUANTIZE

SAMPLES = 128
"""Examples whose activations set the start of activation quantizers."""


def plan_bits(stage: Stage, inner: int, edge: int) -> dict[str, int]:
    """Return bits by layer path: ``edge`` for the first and last layer of a forward pass, ``inner`` for the rest."""
    edges = stage.edges()
    return {path: edge if path in edges else inner for path in stage.weights().paths}


def refuse_quantized(method: str, weight: Weight) -> None:
    """Refuse a second quantizer on one weight, and weights of half precision, in which levels are rounded once more.

    :raises NotApplicable: naming the layer.
    """
    transforms = () if weight.stack is None else weight.stack.transforms.values()
    if any(isinstance(t, Transform) and t.rank == QUANTIZE for t in transforms):
        raise NotApplicable(method, f"layer {weight.path!r} is quantized already")
    if weight.latent.dtype.itemsize < torch.float32.itemsize:
        dtype = str(weight.latent.dtype).removeprefix("torch.")
        raise NotApplicable(method, f"layer {weight.path!r} is {dtype}; build the net in float32, as by net.float()")


def quantize_layers(
    stage: Stage,
    method: str,
    *,
    weight_bits: int,
    activation_bits: int | None,
    edge_bits: int,
    for_weight: Callable[[Tensor, int], Transform],
    for_input: Callable[[Tensor, int], Transform],
) -> None:
    """Put a quantizer on every layer's weights, and one on its input unless ``activation_bits`` is ``None``.

    An input that can't be quantized stays float, and the run's report names it (``left_out``).

    :param edge_bits: of the first and the last layer, weights and inputs.
    :param for_weight: makes a quantizer from the latent weight, of its shape, and its bits.
    :param for_input: makes one from sampled inputs of the layer, flat, and its bits.
    :raises NotApplicable: naming a layer that is quantized already.
    """
    weights = stage.weights()
    bits = plan_bits(stage, weight_bits, edge_bits)
    input_bits = plan_bits(stage, activation_bits or edge_bits, edge_bits)
    several = stage.weights(kinds=(nn.MultiheadAttention, nn.Bilinear)).paths
    read = [] if activation_bits is None else [path for path in bits if path not in several]
    inputs = stage.record_inputs(read, SAMPLES)  # of the net in floats

    if activation_bits is not None:
        unseen = f"no float reaches it on {SAMPLES} examples"
        whys = {path: "it has several inputs" if path in several else unseen for path in bits if path not in inputs}
        stage.left_out |= {f"{path}:input": f"stays float: {why}" for path, why in whys.items()}

    for weight in weights:
        refuse_quantized(method, weight)
        stage.attach(weight.name, method, for_weight(weight.latent.detach(), bits[weight.path]))
    for path, calls in inputs.items():
        seen = torch.cat([call.flatten() for call in calls])
        stage.attach(f"{path}:input", method, for_input(seen, input_bits[path]))


def too_many_levels(final: Tensor, bits: int) -> str | None:
    """Return what is wrong if a tensor, of any shape, has more than 2^bits values besides zero."""
    levels = int((torch.unique(final) != 0).sum())
    return f"{levels} levels besides zero, more than 2^{bits}" if levels > 2**bits else None
