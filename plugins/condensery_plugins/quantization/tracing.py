"""What happens to the outputs of a net's layers: found by following tensors through one forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from condensery.nets import sites
from condensery_plugins.quantization.folded_layers import lies_across

RELU = {"relu": "relu", "relu_": "relu", "relu6": "relu6"}
SHAPING = frozenset(
    {
        "batch_norm", "celu", "elu", "gelu", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "hardtanh_",
        "instance_norm", "layer_norm", "leaky_relu", "log_softmax", "logsigmoid", "mish", "prelu", "relu", "relu6",
        "relu_", "rms_norm", "selu", "sigmoid", "silu", "softmax", "softplus", "tanh",
    }
)  # fmt: skip
"""Functions that a layer's output is quantized behind, not before."""
KEEPING = frozenset(
    {"_max_pool2d", "contiguous", "flatten", "max_pool1d", "max_pool2d", "permute", "reshape", "transpose", "view"}
)
"""Functions that move or drop numbers: what comes out is on the grid that went in, and they commute with a ReLU."""


@dataclasses.dataclass(frozen=True)
class Site:
    """What stands around one layer.

    :param norm: path of the batch normalization that takes exactly this layer's output, and nothing else does.
    :param activation: ``relu`` or ``relu6``, where it takes exactly the output (of the norm) and nothing else does.
    :param shaped: another activation or norm takes the output, so that it isn't quantized.
    :param source: path of the layer whose output, activation included, is this one's input at each call.
    """

    norm: str | None = None
    activation: str | None = None
    shaped: bool = False
    source: str | None = None


class _Watch(TorchFunctionMode):
    """Follows tensors through one forward pass and writes down who takes what.

    Each followed tensor has an *origin*: the path of the layer that made it, and behind that ``|norm`` after a batch
    normalization, ``|relu`` or ``|relu6`` after an activation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[str | None]] = {}  # by layer, the origin of its input at each call
        self.norms: dict[str, list[str]] = {}  # by layer, the batch normalizations that took its output
        self.norm_calls: list[str] = []
        self.uses: dict[str, list[str]] = {}  # by origin, the functions that took it
        self._origins: dict[int, str] = {}  # by identity of a tensor
        self._held: list[Tensor] = []  # else another tensor could get the identity of a followed one

    def layer_starts(self, path: str, args: tuple[Any, ...]) -> None:
        """Write down where a layer's input comes from."""
        self.calls.setdefault(path, []).append(self._origin(args))

    def norm_ends(self, path: str, args: tuple[Any, ...], out: Any) -> None:
        """Write down whose output a batch normalization took, and follow its own."""
        self.norm_calls.append(path)
        origin = self._origin(args)
        if origin is not None and "|" not in origin:
            self.norms.setdefault(origin, []).append(path)
            self.mark(out, f"{origin}|norm")

    def mark(self, tensor: Any, origin: str) -> None:
        """Follow a tensor from here on."""
        if isinstance(tensor, Tensor):
            self._origins[id(tensor)] = origin
            self._held.append(tensor)

    def _origin(self, args: tuple[Any, ...]) -> str | None:
        """Return the origin of the first argument."""
        return self._origins.get(id(args[0])) if args else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # The version of a tensor counts what has been written into it in place.
        taken = [t for t in _tensors([args, kwargs]) if id(t) in self._origins]
        versions = [t._version for t in taken]
        out = func(*args, **kwargs)
        made = list(_tensors(out))
        self._held += made

        written = [t for t, version in zip(taken, versions, strict=True) if t._version != version]
        if not made or (not written and any(t is m for t in taken for m in made)):
            return out  # a shape or a type was asked for, or a dropout did nothing

        name = getattr(func, "__name__", "")
        if name == "hardtanh" and _is_relu6(*args[1:], **kwargs):
            name = "relu6"

        before = self._origin(args)
        if before is not None and name in KEEPING:
            self.mark(out, before)
            return out

        for tensor in taken:
            self.uses.setdefault(self._origins[id(tensor)], []).append(name)
        for tensor in written:  # it holds something else now
            self._origins.pop(id(tensor), None)
        if before is not None and name in RELU:
            self.mark(out, f"{before}|{RELU[name]}")
        return out


def _is_relu6(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, **kwargs: Any) -> bool:
    """Tell whether a hardtanh with these arguments is the ReLU6 that torch makes of it."""
    return (min_val, max_val) == (0, 6)


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)


def trace(net: nn.Module, play: Callable[[], object]) -> dict[str, Site]:
    """Return what stands around each plain convolution and linear layer, in the order of their first calls.

    Layers of other classes than ``nn.Conv2d``, ``nn.Linear`` and transformers' ``Conv1D`` themselves, and those not
    called, are left out: only of these is known what they compute.

    :param play: runs the net once; in eval mode.
    """
    watch = _watched(net, play)
    found: dict[str, Site] = {}
    ends: dict[str | None, str] = {}  # the layer whose output, norm and activation included, has this origin
    for path, inputs in watch.calls.items():
        norm = _norm_of(net, watch, path)
        end = path if norm is None else f"{path}|norm"
        uses = watch.uses.get(end, [])

        # One activation may take the output of each call, and then nothing else does.
        kinds = {RELU.get(use) for use in uses}
        activation = kinds.pop() if len(kinds) == 1 and len(uses) == len(inputs) else None
        ends[end if activation is None else f"{end}|{activation}"] = path
        found[path] = Site(norm, activation, activation is None and not SHAPING.isdisjoint(uses))

    for path, site in found.items():
        origins = set(watch.calls[path])
        source = ends.get(origins.pop()) if len(origins) == 1 else None
        if source is not None and not found[source].shaped:
            found[path] = dataclasses.replace(site, source=source)
    return found


def _watched(net: nn.Module, play: Callable[[], object]) -> _Watch:
    """Run a net and return what was seen of it."""
    watch = _Watch()
    handles = []
    for path, module in net.named_modules():
        kind = nn.utils.parametrize.type_before_parametrizations(module)
        if kind is nn.Linear or lies_across(module) or (kind is nn.Conv2d and module.padding_mode == "zeros"):
            handles.append(module.register_forward_pre_hook(lambda m, args, p=path: watch.layer_starts(p, args)))
            handles.append(module.register_forward_hook(lambda m, args, out, p=path: watch.mark(out, p)))
        elif kind in (nn.BatchNorm1d, nn.BatchNorm2d):
            handles.append(module.register_forward_hook(lambda m, args, out, p=path: watch.norm_ends(p, args, out)))

    try:
        with torch.no_grad(), watch:
            play()
    finally:
        for handle in handles:
            handle.remove()
    return watch


def _norm_of(net: nn.Module, watch: _Watch, path: str) -> str | None:
    """Return the path of the batch normalization that a layer can be folded with, or ``None``.

    It takes the layer's output and nothing else does, each is called once, it keeps averages, and nothing that is
    attached to an activation acts between the two.
    """
    norms = watch.norms.get(path, [])
    if not (len(watch.calls[path]) == len(norms) == 1 and watch.uses[path] == ["batch_norm"]):
        return None
    norm, layer = net.get_submodule(norms[0]), net.get_submodule(path)
    assert isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))

    once = watch.norm_calls.count(norms[0]) == 1
    matches = isinstance(layer, nn.Conv2d) == isinstance(norm, nn.BatchNorm2d)
    keeps = norm.affine and norm.track_running_stats and norm.momentum is not None
    between = any(site == "output" for site, _ in sites(layer)) or any(sites(norm))
    return norms[0] if once and matches and keeps and not between else None
