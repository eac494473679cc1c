"""What a net takes up: bytes as a plain file, bytes of activations while it plays."""

from __future__ import annotations

import json
import weakref
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condensery.errors import UsageError
from condensery.measure.work import no_fast_path
from condensery.nets import attached, detach, lent
from condensery.tasks import Batch, Task

# The order of tensors in a safetensors file: by element type in this order, then by name.
DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def without_transforms(model: nn.Module, *, activations: bool = False) -> nn.Module:
    """Return a copy whose weights are what the layers use, as plain parameters; where they are the net's, it is lent.

    :param activations: keep the transforms on inputs and outputs of layers; they act on what isn't known yet.
    """
    net = lent(model)
    for module in list(net.modules()):
        for name in list(module.parametrizations) if parametrize.is_parametrized(module) else ():  # type: ignore[arg-type]
            value = getattr(module, name).detach().clone()
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            setattr(module, name, nn.Parameter(value, requires_grad=False))
    if not activations:
        for item in attached(net):
            # Without a transform that changes an activation's shape the net wouldn't run.
            if not item.transform.reshapes:
                detach(net, item.target, item.name)
    return net


def dense_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and persistent buffers by name, transforms baked away; one that is shared has one name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in without_transforms(model).state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value.detach()
    return found


def dense_bytes(model: nn.Module) -> int:
    """Return the size of the safetensors file that holds :func:`dense_tensors`, header included.

    :raises UsageError: for an element type that safetensors can't store.
    """
    tensors, order, at = dense_tensors(model), list(DTYPES), 0
    for name, value in tensors.items():
        if value.dtype not in DTYPES:
            raise UsageError(f"tensor {name!r}: safetensors has no element type {value.dtype}")
    header: dict[str, Any] = {}
    for name, value in sorted(tensors.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        stop = at + value.numel() * value.element_size()
        header[name] = {"dtype": DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [at, stop]}
        at = stop
    written = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + written + -written % 8 + at


def peak_memory(task: Task, model: nn.Module) -> int:
    """Return the most bytes of activations that are alive at once while one example plays, its input included.

    Counted on the CPU, without transforms, from the tensors that ops make: the same on every machine. Weights are left
    out, and so is what an op needs for itself.
    """
    net = without_transforms(model).cpu().eval()
    batch = Batch(task.example(1))
    with no_fast_path(), torch.no_grad(), _Alive(net) as alive:
        alive.take(batch.inputs)
        task.outputs(net, batch)
    return int(alive.peak)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that ops make, from their first use to the end of their last tensor."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._own = {int(t.untyped_storage()._cdata) for t in [*net.parameters(), *net.buffers()]}
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def take(self, tree: Any) -> None:
        """Follow the tensors of a tree."""
        for tensor in tree_leaves(tree):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = int(storage._cdata)
                if key not in self._own and key not in self._alive:
                    self._alive[key] = weakref.ref(storage, partial(self._gone, key, storage.nbytes()))
                    self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int, reference: Any) -> None:
        del self._alive[key]
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.take(out)
        return out
