"""What a net may bring that isn't plain layers: wrappers, which are taken off, and what no method can treat."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from condensery.errors import UsageError, short
from condensery.nets.transforms import stack_of

WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}
"""By class, where a wrapper keeps the net that it calls. By name, because importing torch's compiler takes seconds."""
QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
"""Where torch has the layers that hold packed numbers in place of parameters."""
OLD_NORMS = {"WeightNorm": "remove_weight_norm", "SpectralNorm": "remove_spectral_norm"}
"""By class of hooks of torch's older kind, what takes it away."""


def inside(net: nn.Module) -> nn.Module:
    """Return what the wrappers around a net hold; the net itself where there are none."""
    while (wrapper := _name_of(net)) in WRAPPERS:
        net = getattr(net, WRAPPERS[wrapper])
    return net


def wrappers_in(net: nn.Module) -> dict[str, str]:
    """Return the class of each wrapper in a net, by its path: of one around all of it ``""``."""
    return {path: type(module).__name__ for path, module in net.named_modules() if _name_of(module) in WRAPPERS}


def unwrap_layers(net: nn.Module) -> None:
    """Take the wrappers off that a net has inside."""
    for module in list(net.modules()):
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = inside(child)


def _name_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def refuse_foreign(net: object) -> None:
    """Refuse what is no net of plain layers, before it is copied.

    What others than Condensery make a weight of would be lost where a transform is put on it; TorchScript and packed
    numbers can't be changed at all.

    :raises UsageError: naming the layer, and what to do or to call before.
    """
    if isinstance(net, type) and issubclass(net, nn.Module):
        raise UsageError(f"net: {net.__name__} is a class; give a net that was made of it, {net.__name__}(...)")
    if not isinstance(net, nn.Module):
        raise UsageError(f"net: give a net, a torch.nn.Module, not {short(net)}")

    for path, module in net.named_modules():
        where = f"layer {path!r}" if path else "the net"
        if isinstance(module, ScriptModule):
            raise UsageError(f"{where} is TorchScript, which can't be changed; give the net that it was made of")
        if type(module).__module__.startswith(QUANTIZED):
            raise UsageError(
                f"{where}: {type(module).__name__} is quantized by torch already; give the net as it was before"
            )
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise UsageError(
                f"{where}: {type(module).__name__} has no shape before it is called; call the net on a batch before"
            )
        _refuse_made(path, module)


def _refuse_made(path: str, module: nn.Module) -> None:
    """Refuse a module with a tensor that torch makes of others, at each call or each access."""
    owner = f"net.get_submodule({path!r})" if path else "net"
    where = f"layer {path!r}" if path else "the net"
    made: list[tuple[str, str, str]] = []
    stacks: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    for name in stacks:
        if stack_of(module, name) is None:
            kind = type(stacks[name][0]).__name__.lstrip("_")
            made.append((name, kind, "parametrize.remove_parametrizations"))

    for hook in module._forward_pre_hooks.values():
        kind = type(hook).__name__
        if isinstance(hook, BasePruningMethod):
            made.append((hook._tensor_name, kind, "prune.remove"))
        elif isinstance(hook, (WeightNorm, SpectralNorm)):
            made.append((hook.name, kind, OLD_NORMS[kind]))

    for name, kind, call in made:
        raise UsageError(f"{where}: its {name} is made by {kind}; call torch.nn.utils.{call}({owner}, {name!r}) before")
