"""Counting the work of a forward pass: multiply-accumulates, those with a non-zero weight, bit operations, bytes moved.

A dispatch mode sees each op. :mod:`condensery.measure.ops` has a formula for it, or calls it free, or it is unknown,
and then nothing is reported: a count that is silently too low is worse than none.

A multiplication's weight is found by following storages: a tensor made of parameters and buffers alone is a weight,
whatever module calls it and however it was reshaped, masked or decoded. What a transform does to make a value is not
work of the net: its values are made once, when the net is saved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condensery.errors import UsageError
from condensery.measure.ops import KEEPS, PRODUCTS, Product, is_free
from condensery.nets import Layer, Stack, lent
from condensery.tasks import Batch, Task


@dataclasses.dataclass(frozen=True)
class LayerWork:
    """The work of one module itself, its children's left out, for one example.

    :param kind: class of the module.
    :param effective_macs: those whose weight is not zero; all of them where activations are multiplied.
    :param bitops: multiply-accumulates times the bits of both factors.
    :param moved_bytes: that its products read and write, see :attr:`Work.moved_bytes`.
    :param bits: the pairs of weight bits and input bits that occurred.
    """

    path: str
    kind: str
    macs: int
    effective_macs: int
    bitops: int
    moved_bytes: int
    bits: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a net for one example: its modules that multiply, in the order of their calls."""

    layers: tuple[LayerWork, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates, half the FLOPs."""
        return sum(layer.macs for layer in self.layers)

    @property
    def effective_macs(self) -> int:
        """Multiply-accumulates whose weight is not zero."""
        return sum(layer.effective_macs for layer in self.layers)

    @property
    def bitops(self) -> int:
        """Multiply-accumulates times the bits of both factors."""
        return sum(layer.bitops for layer in self.layers)

    @property
    def moved_bytes(self) -> int:
        """Bytes that the products' factors and results take, each once in a call.

        Weights count at their stored width. Activations count as they lie in memory: what is quantized in floats is
        still read as floats. Biases and scales are left out, and so are ops that don't multiply.
        """
        return sum(layer.moved_bytes for layer in self.layers)


def count_work(task: Task, model: nn.Module, bits: Mapping[str, int] | None = None) -> Work:
    """Count the work of one example, in eval mode on the CPU.

    A factor is as wide as its last transform with ``bits`` left it, else as its element type. A module whose stored
    numbers are narrower than the tensors it multiplies says so by the attributes ``weight_bits`` and ``input_bits``,
    and a registered layer may say its own work (``Layer.work``).

    :param bits: width of weights that were quantized and baked since, by tensor name.
    :raises UsageError: naming the ops that have no formula and aren't free.
    """
    net = lent(model).cpu().eval()
    inputs = Batch(task.example(1))
    counter = _Counter(net, bits or {})
    with no_fast_path(), torch.no_grad(), counter:
        task.outputs(net, inputs)
    if counter.unknown:
        what = f"unknown op{'s' * (len(counter.unknown) > 1)} {', '.join(sorted(counter.unknown))}"
        raise UsageError(f"MACs of {type(model).__name__} can't be counted: {what}")
    return counter.work()


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Let torch's Transformer layers run as single ops, not as one fused one."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def _key(tensor: Tensor) -> int:
    # A sparse tensor has no storage of its own.
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else id(tensor)


def _is_muted(module: nn.Module) -> bool:
    """Tell whether what a module does isn't counted from its ops: a transform's, or a layer's that says its work."""
    says = isinstance(module, Layer) and type(module).work is not Layer.work
    return says or isinstance(module, (Stack, ParametrizationList))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while a net plays.

    :param net: its hooks stay, so it must be a copy that is thrown away.
    """

    def __init__(self, net: nn.Module, bits: Mapping[str, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unknown: set[str] = set()
        self._modules = dict(net.named_modules())
        self._calls: list[str] = [""]
        self._muted = 0

        # By storage. Tensors that don't depend on the inputs: whether a parameter or buffer is behind them; and widths.
        self._fixed: dict[int, bool] = {}
        self._bits: dict[int, int] = {}
        # Held, because another tensor could get the address of a followed one that is gone.
        self._held: list[torch.UntypedStorage | Tensor] = []

        self._sums: dict[str, tuple[int, int, int, int]] = {}  # the last one in bits
        self._pairs: dict[str, dict[tuple[int, int], None]] = {}

        for tensor in [*net.parameters(), *net.buffers()]:
            self._fixed[_key(tensor)] = True
        for name, tensor in net.named_parameters():
            if name in bits:
                self._bits[_key(tensor)] = bits[name]
        for path, module in self._modules.items():
            module.register_forward_pre_hook(lambda m, a, p=path: self._enter(p))
            module.register_forward_hook(lambda m, a, o: self._leave(m, a, o), always_call=True)

    def _enter(self, path: str) -> None:
        self._calls.append(path)
        self._muted += _is_muted(self._modules[path])

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        path = self._calls.pop()
        if not _is_muted(module):
            return
        found = module.work(*args) if isinstance(module, Layer) else None
        if found is not None:
            self._sum(path, found.macs, found.effective_macs, found.bitops, 8 * found.moved_bytes, found.bits)
        self._muted -= 1
        if not isinstance(module, Stack) or not isinstance(out, Tensor):
            return
        if ".parametrizations." in f".{path}":
            self._follow(out, True)
        bits = module.width(self._bits.get(_key(args[0])))
        if bits is not None:
            self._narrow(out, bits)

    def _follow(self, tensor: Tensor, owned: bool) -> None:
        self._fixed[_key(tensor)] = owned
        self._held.append(tensor.untyped_storage() if tensor.layout is torch.strided else tensor)

    def _narrow(self, tensor: Tensor, bits: int) -> None:
        self._bits[_key(tensor)] = bits
        self._held.append(tensor.untyped_storage() if tensor.layout is torch.strided else tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if not self._muted:
            formula = PRODUCTS.get(func.overloadpacket)
            if formula is not None and all(t.layout is torch.strided for t in before):
                products = formula(args, out)
                for product in products:
                    self._add(product)
                self._move(products, out)
            elif not is_free(func, before):
                self.unknown.add(f"{func.namespace}.{func.overloadpacket.__name__}")
        self._pass_on(func, before, [t for t in tree_leaves(out) if isinstance(t, Tensor)])
        return out

    def _pass_on(self, func: Any, before: list[Tensor], after: list[Tensor]) -> None:
        """Note which results are weights, and how wide the results are."""
        # What a literal is lifted from was made by no op.
        origins = [] if func.overloadpacket is torch.ops.aten.lift_fresh else [self._fixed.get(_key(t)) for t in before]
        widths = [self._bits.get(_key(t)) for t in before if t.is_floating_point()]
        keeps = func.overloadpacket.__name__ in KEEPS

        for tensor in after:
            key = _key(tensor)

            # A result is a weight where all that it was made of is; one input of the net's makes it none.
            if None in origins:
                self._fixed.pop(key, None)
            else:
                self._follow(tensor, any(origins))

            known = [w for w in widths if w is not None]
            if keeps and known and len(known) == len(widths):
                self._narrow(tensor, max(known))
            # A view has its storage's width already.
            elif not func.is_view:
                self._bits.pop(key, None)

    def _add(self, product: Product) -> None:
        """Count one product for the module that runs; where one factor is a weight, its zeros are told apart."""
        macs, left, right = product
        weight, other = (left, right) if self._is_weight(left) and not self._is_weight(right) else (right, left)
        widths = self._width(weight), self._width(other)
        path = self._calls[-1]

        effective = macs
        if self._is_weight(weight):
            module = self._modules[path]
            widths = getattr(module, "weight_bits", widths[0]), getattr(module, "input_bits", widths[1])
            effective = macs * int(weight.count_nonzero()) // max(1, weight.numel())

        self._sum(path, macs, effective, macs * widths[0] * widths[1], 0, (widths,))

    def _move(self, products: list[Product], out: Any) -> None:
        """Count what one op reads and writes, for the module that runs."""
        written = {id(t): t for t in tree_leaves(out) if isinstance(t, Tensor)}
        read = {id(t): t for p in products for t in (p.left, p.right) if id(t) not in written}
        module = self._modules[self._calls[-1]]

        bits = sum(8 * t.nbytes for t in written.values())
        for tensor in read.values():
            own = getattr(module, "weight_bits", self._width(tensor))
            bits += tensor.numel() * own if self._is_weight(tensor) else 8 * tensor.nbytes
        self._sum(self._calls[-1], 0, 0, 0, bits, ())

    def _sum(
        self, path: str, macs: int, effective: int, bitops: int, moved: int, bits: tuple[tuple[int, int], ...]
    ) -> None:
        """Add to the work of one module.

        :param moved: in bits.
        """
        a, b, c, d = self._sums.get(path, (0, 0, 0, 0))
        self._sums[path] = a + macs, b + effective, c + bitops, d + moved
        self._pairs.setdefault(path, {}).update(dict.fromkeys(bits))

    def _is_weight(self, tensor: Tensor) -> bool:
        return self._fixed.get(_key(tensor), False)

    def _width(self, tensor: Tensor) -> int:
        return self._bits.get(_key(tensor), 8 * tensor.element_size())

    def work(self) -> Work:
        """Return what was counted."""
        kinds = {path: type_before_parametrizations(self._modules[path]).__name__ for path in self._sums}
        return Work(
            tuple(
                LayerWork(path, kinds[path], macs, effective, bitops, -(-moved // 8), tuple(self._pairs[path]))
                for path, (macs, effective, bitops, moved) in self._sums.items()
            )
        )
