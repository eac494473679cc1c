"""What the quantizers share: which layers get how many bits, and on what data their ranges are set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from condensery import Batch, NotApplicable, Stage, Transform, Weight
from condensery.nets import QUANTIZE

SAMPLES = 128
"""Examples whose activations set the start of activation quantizers."""
Seen = list[Tensor]
"""What reached one layer on sampled examples: a tensor for each of its calls, ``(batch, ...)``."""


class Plan(NamedTuple):
    """Which tensors of a net get how many bits.

    :param weights: bits of the weights of inner layers.
    :param inputs: bits of what inner layers read; ``None``: all inputs stay float, those of the edges too.
    :param edges: bits of the first and the last layer that a forward pass calls, weights and inputs; ``None``: float.
    :param embeddings: tables of embeddings are quantized too, with the bits of weights.
    :param layer_weights: bits of the weights of some layers, as a user names them, in place of those above.
    :param layer_inputs: of their inputs, where inputs have bits at all.
    """

    weights: int
    inputs: int | None
    edges: int | None
    embeddings: bool = False
    layer_weights: Mapping[str, int] = {}
    layer_inputs: Mapping[str, int] = {}


def flat(seen: Seen) -> Tensor:
    """Return all numbers that reached a layer, ``(numbers,)``."""
    return torch.cat([call.flatten() for call in seen])


def plan_bits(stage: Stage, inner: int, edge: int | None) -> dict[str, int]:
    """Return bits by layer path: ``edge`` for the first and last layer of a forward pass, ``inner`` for the rest.

    :param edge: ``None``: those two stay float and are left out.
    """
    edges = stage.edges()
    plan = {path: edge if path in edges else inner for path in stage.weights().paths}
    return {path: bits for path, bits in plan.items() if bits is not None}


def refuse_quantized(method: str, weight: Weight) -> None:
    """Refuse a second quantizer on one weight, what isn't finite, and half precision, which rounds levels once more.

    :raises NotApplicable: naming the layer.
    """
    transforms = () if weight.stack is None else weight.stack.transforms.values()
    if any(isinstance(t, Transform) and t.rank == QUANTIZE for t in transforms):
        raise NotApplicable(method, f"layer {weight.path!r} is quantized already")
    if weight.latent.dtype.itemsize < torch.float32.itemsize:
        dtype = str(weight.latent.dtype).removeprefix("torch.")
        raise NotApplicable(method, f"layer {weight.path!r} is {dtype}; build the net in float32, as by net.float()")
    if not bool(weight.latent.isfinite().all()):
        raise NotApplicable(method, f"layer {weight.path!r} has weights that are not finite")


def refuse_scattered_filters(method: str, weight: Weight) -> None:
    """Refuse a transposed convolution in groups, for what treats each filter by itself.

    Its groups lie side by side along the inputs, so that an index of its outputs' dimension holds a filter of each.

    :raises NotApplicable: naming the layer.
    """
    if weight.axes == (1, 0) and getattr(weight.module, "groups", 1) > 1:
        why = "is a transposed convolution in groups, whose filters don't lie along one dimension"
        raise NotApplicable(method, f"layer {weight.path!r} {why}")


def quantize_layers(
    stage: Stage,
    method: str,
    plan: Plan,
    weight_quantizer: Callable[[Weight, int], Transform],
    input_quantizer: Callable[[Seen, int], Transform],
    examples: Sequence[Batch] | None = None,
    attach: Callable[[str, str, Transform], None] | None = None,
) -> None:
    """Put a quantizer on every layer's weights, and one on its input if the plan has bits for inputs.

    What a layer with several inputs reads stays float, and a layer that no sampled example reaches does so as a whole:
    the run's report names both (``left_out``).

    :param weight_quantizer: makes a quantizer from a weight and its bits.
    :param input_quantizer: makes one from what reached a layer, and its bits.
    :param examples: whose activations ``input_quantizer`` sees; by default :data:`SAMPLES` sampled ones.
    :param attach: is given each quantizer with its target and the method's key, in place of ``stage.attach``.
    :raises NotApplicable: naming a layer that is quantized already; if no layer is left between two float ones; or
        where no example is there to calibrate on.
    """
    attach = attach or stage.attach
    bits = plan_bits(stage, plan.weights, plan.edges) | stage.layers(plan.layer_weights, f"{method}.layer_bits")
    if not bits:
        raise NotApplicable(method, "the net has no layers between the first and the last, which stay float")
    input_bits, inputs = {}, {}
    if plan.inputs is not None:
        examples = stage.sample(SAMPLES) if examples is None else examples
        chosen = stage.layers(plan.layer_inputs, f"{method}.layer_activation_bits")
        input_bits = plan_bits(stage, plan.inputs, plan.edges) | chosen
        inputs = recorded(stage, method, bits, examples)  # of the net in floats
        count = sum(batch.size for batch in examples)
        for path in [path for path in bits if path not in inputs]:
            if path in _several(stage):
                stage.left_out[f"{path}:input"] = "stays float: it has several inputs"
            else:
                stage.left_out[path] = f"stays float: no float reaches it on {count} examples"
                del bits[path]

    for weight in stage.weights():
        if weight.path in bits:
            refuse_quantized(method, weight)
            attach(weight.name, method, weight_quantizer(weight, bits[weight.path]))
    for table in stage.weights(kinds=(nn.Embedding,)) if plan.embeddings else ():
        refuse_quantized(method, table)
        attach(table.name, method, weight_quantizer(table, plan.weights))
    for path, calls in inputs.items():
        if path in input_bits:  # an edge whose weights alone were given bits has none
            attach(f"{path}:input", method, input_quantizer(calls, input_bits[path]))


def recorded(stage: Stage, method: str, paths: Iterable[str], examples: Sequence[Batch]) -> dict[str, Seen]:
    """Return what reaches each module on some examples; several inputs of one layer aren't looked at.

    :raises NotApplicable: if there are no examples.
    """
    several = _several(stage)
    read = list(dict.fromkeys(path for path in paths if path not in several))
    inputs = stage.record_inputs(read, examples)
    if read and not inputs:
        raise NotApplicable(method, "the calibration set is empty: no layer is called on any example of it")
    return inputs


def _several(stage: Stage) -> set[str]:
    """Return the layers with several inputs; attention reads what its own projection is given, without a call of it."""
    attention = stage.weights(kinds=(nn.MultiheadAttention,)).paths
    return {*attention, *(f"{path}.out_proj" for path in attention), *stage.weights(kinds=(nn.Bilinear,)).paths}


def levels_beyond(final: Tensor, most: int) -> str | None:
    """Return what is wrong if a tensor, of any shape, has more values besides zero than it may have."""
    levels = int((torch.unique(final) != 0).sum())
    return f"{levels} levels besides zero, more than {most}" if levels > most else None
