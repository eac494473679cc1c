from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from condensery import Method, NotApplicable, Stage, Transform, hookimpl
from condensery.nets import MASK, QUANTIZE, STORE, Coding, Dense, Stack, latent_of, sites, stack_of
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.codecs.binary_basis import BinaryBasis
from condensery_plugins.quantization.bases_layer import BasesLayer
from condensery_plugins.quantization.folded_layers import geometry_of
from condensery_plugins.quantization.packed_layers import (
    Codes,
    CodesLayer,
    Packed,
    SelectLayer,
    ShiftLayer,
    XnorLayer,
)
from condensery_plugins.quantization.signs import SumOfSigns

Prefer = Literal["speed", "bits"]
SIGNS = Codes(1.0, -1, 1, 1)
"""The grid of an input of signs."""
FASTER = 2**17
"""Weights of a layer from which on products of int8 take less time than those of floats, windows included."""
MOST = 7
"""Numbers of a sum of signs, so that codes are int8."""
NEAR = 1e-4
"""Of a step: how far from its grid an input may be."""


class PackedBits(Transform):
    """Leaves the values alone; when the recipe ends, a layer that computes with their codes takes the place of its own.

    :param prefer: see :class:`PackedArithmetic`.
    """

    key = "packed-bits"
    rank = STORE

    def __init__(self, prefer: Prefer) -> None:
        super().__init__()
        self.prefer = prefer

    def forward(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def config(self) -> dict[str, Any]:
        """Return what is preferred."""
        return {"prefer": self.prefer}

    def bake(self, owner: nn.Module) -> nn.Module | None:
        """Return a layer on codes, or ``None`` where there is none for these weights and inputs."""
        return packed_layer(owner, self.prefer)


@torch.no_grad()
def packed_layer(owner: nn.Module, prefer: Prefer) -> Packed | None:
    """Return a layer on codes that computes what a linear layer or a convolution does, or ``None``.

    With ``bits`` signs times signs, and sums of them, go by counting bits, powers of two by shifts, signs or ternary
    values times any floats by additions, and other whole numbers times whole numbers by products of int8. With
    ``speed`` there are only these, for signs too, in layers of at least :data:`FASTER` weights.
    """
    stack = stack_of(owner, "weight")
    if stack is None or not isinstance(owner, (nn.Linear, nn.Conv2d)) or not _walks_plainly(owner):
        return None

    final = getattr(owner, "weight").detach()  # noqa: B009  Under transforms, which are read here on purpose.
    inputs, bits = _grid_of_input(owner), stack.width() or 32
    settings: dict[str, Any] = {
        "bias": owner.bias,
        "marks": [t for t in stack.transforms.values() if isinstance(t, Transform) and t.rank in (MASK, STORE)],
        "inputs": None if inputs is None else inputs._asdict(),
        "weight_bits": bits,
        "geometry": None,
    }
    if isinstance(owner, nn.Conv2d):
        geometry = geometry_of(owner)
        settings["geometry"] = {name: geometry[name] for name in ("stride", "padding", "dilation", "groups")}

    signs = _signs(final)
    whole = _whole(stack, final)
    if prefer == "bits":
        if signs is not None and inputs == SIGNS and bool(signs[0].all()) and torch.equal(*signs[1]):
            return XnorLayer.filled(*signs, **settings)
        if (sums := _sums_of_signs(owner, stack, final)) is not None:
            return BasesLayer.of(*sums, settings)
        if (powers := _powers(final, scaled=whole is None)) is not None:
            return ShiftLayer.filled(*powers, **settings)
        if signs is not None and inputs is None:
            return SelectLayer.filled(*signs, **settings)
    elif final.numel() < FASTER:
        return None
    if whole is not None and inputs is not None and inputs.bits <= 8 and final[0].numel() < 2**16:
        return CodesLayer.filled(*whole, **settings)
    return None


def _walks_plainly(owner: nn.Linear | nn.Conv2d) -> bool:
    """Tell whether a layer is torch's own, not a subclass, and pads with zeros by numbers, if at all."""
    if type_before_parametrizations(owner) not in (nn.Linear, nn.Conv2d):
        return False
    return isinstance(owner, nn.Linear) or (owner.padding_mode == "zeros" and not isinstance(owner.padding, str))


def _affine(transform: Transform, value: Tensor) -> Affine | None:
    """Return the grid on which a transform says that a tensor is stored, or ``None``."""
    try:
        codec = transform.code(Coding(Dense.of(value)), value).codec
    except ValueError:
        return None
    return codec if isinstance(codec, Affine) and codec.scale is not None and codec.group is None else None


def _quantizer(stack: Stack | None) -> Transform | None:
    """Return the one quantizer of a stack, or ``None``."""
    if stack is None:
        return None
    found = [t for t in stack.transforms.values() if isinstance(t, Transform) and t.rank == QUANTIZE]
    return found[0] if len(found) == 1 else None


def _grid_of_input(owner: nn.Module) -> Codes | None:
    """Return the grid that a layer's input is on, or ``None`` if it has none that holds for every input.

    The quantizer is tried: what it makes of some numbers must lie on the grid by which it would store them.
    """
    stack = dict(sites(owner)).get("input")
    quantizer = _quantizer(stack)
    if stack is None or quantizer is None or len(stack.transforms) != 1:
        return None

    codec = _affine(quantizer, torch.ones(2, 2))
    if codec is None or codec.scale is None or codec.scale.dim() or torch.as_tensor(codec.zero).dim():
        return None
    scale, zero = float(codec.scale), int(codec.zero)
    grid = Codes(scale, -zero, 2**codec.bits - 1 - zero, codec.bits)
    tried = torch.linspace(grid.low - 9.0, grid.high + 9.0, 999, device=next(owner.parameters()).device) * scale
    steps = quantizer(tried).cpu() / scale
    # One bit is two signs only where it makes both of them; another grid of one bit has the levels 0 and 1.
    if quantizer.bits == 1 and scale == 1.0 and bool((steps.abs() == 1).all()):
        grid = SIGNS
    on_it = (steps - steps.round()).abs().max() < NEAR and grid.low <= steps.round().min()
    return grid if bool(on_it and steps.round().max() <= grid.high) else None


def _whole(stack: Stack, final: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a weight's codes and scales where they are int8 with one scale for each output, or ``None``."""
    quantizer = _quantizer(stack)
    codec = None if quantizer is None else _affine(quantizer, final)
    if codec is None or codec.scale is None:
        return None
    scale = codec.scale
    if scale.dim() and (scale.dim() != final.dim() or scale[0].numel() != 1):
        return None

    codes = codec.encode(final)["codes"]
    if not codes.numel() or int(codes.min()) < -128 or int(codes.max()) > 127:
        return None
    return codes.to(final.device), scale.flatten().expand(len(final)).expand(2, -1).to(final.device)


def _signs(final: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return signs and scales where each output has one positive and one negative value at most, or ``None``."""
    rows = final.flatten(1)
    scales = torch.stack([rows.amax(1), -rows.amin(1)]).clamp_min(0)
    expected = torch.where(rows > 0, scales[0, :, None], -scales[1, :, None])
    if not bool(((rows == expected) | (rows == 0)).all()):
        return None

    # A side that does not occur has the other one's scale, so that both are equal where only one value is.
    scales = torch.where(scales == 0, scales.flip(0), scales)
    return final.sign(), scales


def _sums_of_signs(owner: nn.Module, stack: Stack, final: Tensor) -> tuple[Tensor, Tensor, Tensor, bool] | None:
    """Return a weight's codes and numbers, and its input's numbers and whether they have signs, if both are such sums.

    A weight with values that are none, such as a mask's zeros, has no codes.
    """
    held, seen = _quantizer(stack), _quantizer(dict(sites(owner)).get("input"))
    if not (isinstance(held, SumOfSigns) and isinstance(seen, SumOfSigns) and held.signed):
        return None
    numbers, units = held.numbers(latent_of(owner, "weight").detach()), seen.numbers(torch.zeros(1)).flatten()
    if max(len(numbers), len(units)) > MOST or len(units) != seen.bits:
        return None

    try:
        codes = BinaryBasis(numbers).encode(final)["codes"].to(final.device)
    except ValueError:
        return None
    each = numbers.reshape(len(numbers), -1)
    return (codes, each.expand(-1, len(final)), units, seen.signed) if each.shape[1] in (1, len(final)) else None


def _powers(final: Tensor, scaled: bool) -> tuple[Tensor, Tensor] | None:
    """Return signs times places of powers of two, and the smallest one, or ``None`` for any other weight.

    :param scaled: all may have a factor in common, such as a scale of the layer.
    """
    mantissas, exponents = torch.frexp(final.double().abs())
    factor = float(mantissas.max()) if scaled and mantissas.numel() else 0.5
    used = final != 0
    if not bool(used.any()) or not bool((mantissas[used] == factor).all()):
        return None

    least = int(exponents[used].min())
    places = torch.where(used, exponents - least + 1, 0)
    levels = int(places.max())
    if levels > 127 or levels == 1:
        return None
    return final.sign() * places, final.new_full((2, len(final)), factor * 2.0**least)


@dataclass(eq=False, kw_only=True)
class PackedArithmetic(Method):
    """Compute with the codes that quantizers left, in place of the floats that they stand for; no value changes.

    Rastegari et al.: "XNOR-Net", ECCV 2016 [26], section 3.2, for signs times signs: the bits that are equal are
    counted, and so for sums of signs on both sides. Beside it additions alone where weights are signs or ternary,
    shifts where they are powers of two, and products of int8. ``prefer: bits`` takes every way without products of
    floats that there is, some slower than floats here; ``speed`` takes products of int8 alone, in layers that are large
    enough for them to be faster.

    When: weights are marked as the stage starts. There is nothing to train: ``epochs: 0``.

    End: the artifact holds layers on codes, stored at their width, masks and Huffman's code included. What has no such
    layer stays as it is, simulated in floats.

    Raises NotApplicable where no weight is quantized, or one isn't of float32.
    """

    key = "packed-bits"

    prefer: Prefer = "bits"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Mark the weights of linear layers and convolutions."""
        marked = 0
        for weight in stage.weights(kinds=(nn.Linear, nn.Conv2d)):
            stack = weight.stack
            if stack is None or _quantizer(stack) is None:
                continue
            if weight.latent.dtype != torch.float32:
                why = f"it computes in float32, and {weight.path!r} is {weight.latent.dtype}; build the net in float32"
                raise NotApplicable(self.key, why)
            marked += 1
            if not any(isinstance(t, PackedBits) for t in stack.transforms.values()):
                stage.attach(weight.name, self.key, PackedBits(self.prefer))
        if not marked:
            raise NotApplicable(self.key, "no linear layer or convolution has a quantized weight")

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many layers will compute on codes, by kind, and how many stay simulated in floats."""
        counts = {"simulated": 0, "xnor": 0, "bases": 0, "codes": 0, "select": 0, "shift": 0}
        for weight in stage.weights():
            made = packed_layer(weight.module, self.prefer) if weight.tensor == "weight" else None
            counts["simulated" if made is None else made.key.removesuffix("-layer")] += 1
        return {f"{kind}_layers_count": float(count) for kind, count in counts.items()}
