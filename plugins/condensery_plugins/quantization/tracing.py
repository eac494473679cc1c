"""What happens to the outputs of a net's layers: found by following tensors through one forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from condensery.nets import sites

LAYERS: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.Linear)
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d)
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
    """Follows tensors; an origin is a layer's path, with ``|norm`` and ``|act`` for what came after it."""

    def __init__(self) -> None:
        super().__init__()
        self.origins: dict[int, str] = {}
        self.uses: dict[str, list[str]] = {}
        self.held: list[Tensor] = []  # else another tensor could get the identity of a followed one

    def mark(self, tensor: Any, origin: str) -> None:
        if isinstance(tensor, Tensor):
            self.origins[id(tensor)] = origin
            self.held.append(tensor)

    def origin(self, tensor: Any) -> str | None:
        return self.origins.get(id(tensor))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        taken = [t for t in _tensors([args, kwargs]) if id(t) in self.origins]
        versions = [t._version for t in taken]
        out = func(*args, **kwargs)
        made = list(_tensors([out]))
        self.held += made
        written = [t for t, v in zip(taken, versions, strict=True) if t._version != v]
        if not made or (not written and any(t is m for t in taken for m in made)):
            return out  # a shape or a type was asked for, or a dropout did nothing
        name = getattr(func, "__name__", "")
        if name == "hardtanh" and _is_relu6(*args[1:], **kwargs):
            name = "relu6"
        before = self.origin(args[0]) if args else None
        if before is not None and name in KEEPING:
            self.mark(out, before)
            return out
        for tensor in taken:
            self.uses.setdefault(self.origins[id(tensor)], []).append(name)
        for tensor in written:
            self.origins.pop(id(tensor), None)
        if before is not None and name in RELU:
            self.mark(out, f"{before}|{RELU[name]}")
        return out


def _is_relu6(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False, **kwargs: Any) -> bool:
    return (min_val, max_val) == (0, 6)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)


def trace(net: nn.Module, play: Callable[[], object]) -> dict[str, Site]:
    """Return what stands around each plain convolution and linear layer, in the order of their first calls.

    Layers of other classes than ``nn.Conv2d`` and ``nn.Linear`` themselves, and those not called, are left out: only of
    these two is known what they compute.

    :param play: runs the net once; in eval mode.
    """
    watch = _Watch()
    calls: dict[str, list[str | None]] = {}
    norms: dict[str, list[str]] = {}
    norm_calls: list[str] = []

    def enter(path: str, args: tuple[Any, ...]) -> None:
        calls.setdefault(path, []).append(watch.origin(args[0]) if args else None)

    def normed(path: str, args: tuple[Any, ...], out: Any) -> None:
        norm_calls.append(path)
        origin = watch.origin(args[0]) if args else None
        if origin is not None and "|" not in origin:
            norms.setdefault(origin, []).append(path)
            watch.mark(out, f"{origin}|norm")

    handles = []
    for path, module in net.named_modules():
        if _plain(module) in LAYERS:
            handles.append(module.register_forward_pre_hook(lambda m, a, p=path: enter(p, a)))
            handles.append(module.register_forward_hook(lambda m, a, o, p=path: watch.mark(o, p)))
        elif _plain(module) in NORMS:
            handles.append(module.register_forward_hook(lambda m, a, o, p=path: normed(p, a, o)))
    try:
        with torch.no_grad(), watch:
            play()
    finally:
        for handle in handles:
            handle.remove()

    found, ends = {}, {}
    for path, inputs in calls.items():
        if not _foldable_padding(net.get_submodule(path)):
            continue
        end, norm = path, None
        if (
            len(inputs) == 1
            and len(norms.get(path, [])) == 1
            and watch.uses[path] == ["batch_norm"]
            and norm_calls.count(norms[path][0]) == 1
            and _foldable(net, path, norms[path][0])
        ):
            end, norm = f"{path}|norm", norms[path][0]
        uses = watch.uses.get(end, [])
        kinds = {RELU.get(use) for use in uses}
        activation = kinds.pop() if len(kinds) == 1 and len(uses) == len(inputs) else None
        ends[end if activation is None else f"{end}|{activation}"] = path
        found[path] = Site(norm, activation, activation is None and not SHAPING.isdisjoint(uses))
    for path, site in found.items():
        origins = set(calls[path])
        origin = origins.pop() if len(origins) == 1 else None
        source = ends.get(origin) if origin is not None else None
        if source is not None and not found[source].shaped:
            found[path] = dataclasses.replace(site, source=source)
    return found


def _plain(module: nn.Module) -> type[nn.Module]:
    """Return the class under the one that weights with transforms get."""
    return nn.utils.parametrize.type_before_parametrizations(module)


def _foldable_padding(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d) or module.padding_mode == "zeros"


def _foldable(net: nn.Module, path: str, norm: str) -> bool:
    """Tell whether a batch normalization keeps averages and nothing else acts between it and its layer."""
    module, layer = net.get_submodule(norm), net.get_submodule(path)
    assert isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    matches = isinstance(layer, nn.Linear) == isinstance(module, nn.BatchNorm1d)
    kept = module.affine and module.track_running_stats and module.momentum is not None
    between = any(site == "output" for site, _ in sites(layer)) or any(True for _ in sites(module))
    return matches and kept and not between
