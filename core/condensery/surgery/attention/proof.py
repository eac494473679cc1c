"""The proof of a cut: the net with everything removed at zero gives what the cut net gives, in every attention mode.

Each mode is compared in float64, which tells a wrong cut from rounding, and in float32, which the net will run in. One
mode alone hides mistakes: the fused kernel divides by the head size that it sees, the plain one by an attribute.

What is compared: for heads, head dimensions and neurons, the net with their weights at zero. For a layer, the net with
what the layer writes at zero; where a norm follows the sum, no zeros make a layer do nothing, so that the net steps
around it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from condensery.errors import MethodError
from condensery.nets import deep_copied
from condensery.surgery import Cut, Forward, apply, casted, gap, masked, verify
from condensery.surgery.attention.blocks import first, stream
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.projections import join
from condensery.surgery.attention.rows import Attention, Block

ROUGH = 1e-3
"""Largest difference in float32, over the largest output: rounding in a deep net, but no wrong cut."""
EAGER, SDPA = "eager", "sdpa"


def modes(net: nn.Module) -> list[str]:
    """Return the attention modes of a net: ``eager`` alone, or ``sdpa`` too where it can use the fused kernel."""
    fused = any(hasattr(m, "fused_attn") or _can_sdpa(m) for m in net.modules())
    return [EAGER, SDPA] if fused else [EAGER]


def set_mode(net: nn.Module, mode: str) -> None:
    """Put a net into an attention mode; only for copies."""
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = mode == SDPA  # type: ignore[assignment]
        if _can_sdpa(module):
            module.config._attn_implementation = mode  # type: ignore[union-attr]


def _can_sdpa(module: nn.Module) -> bool:
    """Tell whether a module is a model of transformers that can be told to use the fused kernel."""
    return getattr(module, "_supports_sdpa", False) is True and hasattr(module.config, "_attn_implementation")


def prove(cut: Cut, net: nn.Module, example: Any, forward: Forward, classes: KnownClasses) -> Cut:
    """Compare the cut net with the masked one in every mode and write what was found into the cut.

    :param net: in eval mode, on the CPU, without transforms on weights; not changed.
    :raises MethodError: if they differ by more than rounding.
    """
    rows = [classes.row(m, Attention) for m in net.modules()]
    exact = torch.float32 if any(row is not None and row.in_float32 for row in rows) else torch.float64

    for dtype in (torch.float64, torch.float32):
        for mode, found in _differences(cut, net, example, forward, classes, dtype):
            cut.proofs[f"{mode} {str(dtype).removeprefix('torch.')}"] = found
            if dtype == torch.float64:
                verify(cut, found, exact)
            elif not found <= ROUGH:
                raise MethodError(f"in float32, mode {mode}, the cut net differs by {found:.1e} from the masked one")

    cut.difference = max(cut.proofs.values())
    around = [path for path, row in _removed_layers(cut, net, classes).items() if not row.writers]
    if around:
        cut.unproven = f"a norm follows the sum in {around[0]}: the cut net equals the one that steps around it"
    return cut


def _differences(
    cut: Cut, net: nn.Module, example: Any, forward: Forward, classes: KnownClasses, dtype: torch.dtype
) -> Iterator[tuple[str, float]]:
    """Yield each attention mode with the difference of the cut net from the masked one, in one precision."""
    whole, inputs = deep_copied(net, {}).to(dtype), casted(example, dtype)
    after = deep_copied(whole, {})
    apply(cut, after)
    before = reference(cut, whole, after, classes)

    for mode in modes(net):
        set_mode(before, mode)
        set_mode(after, mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gap(before, after, inputs, forward)
        yield mode, found


def reference(cut: Cut, net: nn.Module, after: nn.Module, classes: KnownClasses) -> nn.Module:
    """Return a copy of the uncut net in which everything that the cut removes does nothing.

    :param after: the cut net.
    """
    twin = masked(cut, net, after)
    with torch.no_grad():
        for path, row in _removed_layers(cut, net, classes).items():
            layer = twin.get_submodule(path)
            for writer in row.writers:
                for parameter in layer.get_submodule(writer).parameters():
                    parameter.zero_()
            if not row.writers:
                twin.set_submodule(path, _Around(layer))
    return twin


def _removed_layers(cut: Cut, net: nn.Module, classes: KnownClasses) -> dict[str, Block]:
    """Return what is known of the layers that a cut removes, by path."""
    gone = [
        join(path, name)
        for path, left in cut.children.items()
        for name, _ in net.get_submodule(path).named_children()
        if name not in left
    ]
    return {path: classes.required(net, path, Block) for path in gone}


class _Around(nn.Module):
    """A layer that hands on what it was given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's outputs, the stream as it came in."""
        out = self.layer(*args, **kwargs)
        given = stream(args, kwargs)
        assert first(out).shape == given.shape
        return (given, *out[1:]) if isinstance(out, tuple) else given
