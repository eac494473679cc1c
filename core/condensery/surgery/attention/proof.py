"""The proof of a cut: the net with everything removed at zero gives what the cut net gives, in every attention mode.

Each mode is compared in float64, which tells a wrong cut from rounding, and in float32, which the net will run in. One
mode alone hides mistakes: the fused kernel divides by the head size that it sees, the plain one by an attribute.

What is compared: for heads, head dimensions and neurons, the net with their weights at zero. For a layer, the net with
what the layer writes at zero; where a norm follows the sum, no zeros make a layer do nothing, so that the net steps
around it. For width under a norm with a mean, zeros would count in the statistics, so that these are taken over the
channels that stay: this proves that the slicing is right, not that zeroing the channels gives the same.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from condensery.errors import MethodError
from condensery.surgery import Cut, apply, casted, gap, masked, verify
from condensery.surgery.attention.blocks import BLOCKS, first, stream
from condensery.surgery.attention.draft import RMS_NORMS, class_of, join

Forward = Callable[[nn.Module, Any], Tensor]
ROUGH = 1e-3
"""Largest difference in float32, over the largest output: rounding in a deep net, but no wrong cut."""
IN_FLOAT32 = ("transformers.models.deberta_v2.modeling_deberta_v2.DisentangledSelfAttention", *RMS_NORMS)
"""Classes that compute something in float32 whatever they are given."""
EAGER, SDPA = "eager", "sdpa"


def modes(net: nn.Module) -> list[str]:
    """Return the attention modes of a net: ``eager`` alone, or ``sdpa`` too where it can use the fused kernel."""
    fused = any(hasattr(m, "fused_attn") for m in net.modules())
    return [EAGER, SDPA] if fused or any(_can_sdpa(m) for m in net.modules()) else [EAGER]


def set_mode(net: nn.Module, mode: str) -> None:
    """Put a net into an attention mode; only for copies."""
    for module in net.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = mode == SDPA  # type: ignore[assignment]
        if _can_sdpa(module):
            module.config._attn_implementation = mode  # type: ignore[union-attr]


def _can_sdpa(module: nn.Module) -> bool:
    return getattr(module, "_supports_sdpa", False) is True and hasattr(module.config, "_attn_implementation")


def prove(cut: Cut, net: nn.Module, example: Any, forward: Forward) -> Cut:
    """Compare the cut net with the masked one in every mode and write what was found into the cut.

    :param net: in eval mode, on the CPU, without transforms on weights; not changed.
    :raises MethodError: if they differ by more than rounding.
    """
    rounds = any(class_of(m) in IN_FLOAT32 for m in net.modules())
    exact = torch.float32 if rounds else torch.float64
    for dtype in (torch.float64, torch.float32):
        for mode, found in _differences(cut, net, example, forward, dtype):
            cut.proofs[f"{mode} {str(dtype).removeprefix('torch.')}"] = found
            if dtype == torch.float64:
                verify(cut, found, exact)
            elif not found <= ROUGH:
                raise MethodError(f"in float32, mode {mode}, the cut net differs by {found:.1e} from the masked one")
    cut.difference = max(cut.proofs.values())
    around = [p for p in removed_layers(cut, net) if not BLOCKS[class_of(net.get_submodule(p))].writers]
    if around:
        cut.unproven = f"a norm follows the sum in {around[0]}: the cut net equals the one that steps around it"
    return cut


def _differences(
    cut: Cut, net: nn.Module, example: Any, forward: Forward, dtype: torch.dtype
) -> Iterator[tuple[str, float]]:
    whole, inputs = copy.deepcopy(net).to(dtype), casted(example, dtype)
    after = copy.deepcopy(whole)
    apply(cut, after)
    before = reference(cut, whole, after)
    for mode in modes(net):
        set_mode(before, mode)
        set_mode(after, mode)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = gap(before, after, inputs, forward)
        yield mode, found


def reference(cut: Cut, net: nn.Module, after: nn.Module) -> nn.Module:
    """Return a copy of the uncut net in which everything that the cut removes does nothing."""
    twin = masked(cut, net, after)
    with torch.no_grad():
        for path in removed_layers(cut, net):
            layer = twin.get_submodule(path)
            writers = BLOCKS[class_of(layer)].writers
            for writer in writers:
                for parameter in layer.get_submodule(writer).parameters():
                    parameter.zero_()
            if not writers:
                twin.set_submodule(path, _Around(layer))
    return twin


def removed_layers(cut: Cut, net: nn.Module) -> list[str]:
    """Return the paths of the layers that a cut removes."""
    return [
        join(path, name)
        for path, left in cut.children.items()
        for name, _ in net.get_submodule(path).named_children()
        if name not in left
    ]


class _Around(nn.Module):
    """A layer that hands on what it was given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's outputs, the stream as it came in."""
        out = self.layer(*args, **kwargs)
        assert first(out).shape == stream(args, kwargs).shape
        return (stream(args, kwargs), *out[1:]) if isinstance(out, tuple) else stream(args, kwargs)
