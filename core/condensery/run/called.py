"""Whether what methods have put on a net takes part when the net plays: looked at at the end of a dry run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as calls
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condensery.errors import UsageError
from condensery.nets import MASK, Layer, attached, lent, owner_of, parameters_of, sites
from condensery.tasks import Batch

aten = torch.ops.aten
WEIGHT_AT = {aten.convolution: 1, aten.addmm: 2, aten.mm: 1}
"""By operation, which of its arguments is a layer's weight."""


PASSES = 6
"""How often a layer is waited for in each mode: a net may call some at random, or for some inputs only."""


def refuse_uncalled(
    model: nn.Module, play: Callable[[nn.Module, Batch], object], batches: Sequence[Batch]
) -> dict[str, str]:
    """Refuse a net on which something takes no part; returns in words when layers with it are called, if not always.

    A layer in whose place another was put, or whose inputs or outputs are transformed, must be called: a parent that
    reads its weights and calls a function with them gets round it. A weight that is masked must be used as it is.

    :param model: with its transforms; not changed.
    :param play: runs a net on a batch.
    :param batches: played in turn until each layer was met.
    :raises UsageError: naming the layer, and what takes no part.
    """
    acts = _acting(model)
    waits: dict[str, dict[str, None]] = {"train": {}, "eval": {}}
    missed: dict[str, None] = {}
    given: dict[str, None] = {}
    for mode, waiting in waits.items():
        waiting |= dict.fromkeys(acts)
        for batch in itertools.islice(itertools.cycle(batches), PASSES if acts else 1):
            called, acted = _seen(lent(model).train(mode == "train"), play, batch, acts)
            given |= called
            for path in [path for path in waiting if path in acted]:
                del waiting[path]
            if not waiting:
                break
            missed |= waiting

    for path in [path for path in acts if all(path in waiting for waiting in waits.values())]:
        what = "is given no floats" if path in given else "is never called"
        raise UsageError(f"layer {path!r} {what}, so that {acts[path]} takes no part")
    one = dict.fromkeys(waits["eval"], "in train mode only") | dict.fromkeys(waits["train"], "in eval mode only")
    return {path: one.get(path, "not in every pass") for path in missed}


def _seen(
    net: nn.Module, play: Callable[[nn.Module, Batch], object], batch: Batch, acts: Mapping[str, str]
) -> tuple[dict[str, None], dict[str, None]]:
    """Return which layers one pass called, and in which of them something took part.

    The look holds every weight as its layer uses it, as much again as the net: it ends with this call.

    :raises UsageError: for what got round something.
    """
    with torch.no_grad(), parametrize.cached(), _Look(net, list(acts)) as look, look.following():
        play(net, batch)
    _refuse(net, look, acts)
    return look.called, look.acted


def _refuse(net: nn.Module, look: _Look, acts: Mapping[str, str]) -> None:
    """Refuse what was seen to get round something in one pass.

    :param acts: what must be called to act, in words, by path.
    """
    for path in look.changed:
        kind = parametrize.type_before_parametrizations(net.get_submodule(path)).__name__
        raise UsageError(
            f"layer {path!r}: {kind} changes its weight before it uses it, so that what a mask holds at zero "
            "isn't zero there; leave it out, as by skip"
        )
    for path in look.bare:
        raise UsageError(
            f"layer {path!r}: its weights are used without a call of the layer, so that {acts[path]} takes no part"
        )


def _acting(net: nn.Module) -> dict[str, str]:
    """Return what must be called to act, in words, by path."""
    found = {p: f"{type(m).__name__} in its place" for p, m in net.named_modules() if isinstance(m, Layer)}
    for item in attached(net):
        path, site, at = item.target.partition(":")
        if site:
            found[path] = f"{item.name!r} on its {at}"
    return found


class _Look(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the weights of some layers through a pass.

    :param paths: of the layers that must be called.
    """

    def __init__(self, net: nn.Module, paths: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called: dict[str, None] = {}
        self.acted: dict[str, None] = {}
        self.bare: dict[str, None] = {}
        self.changed: dict[str, None] = {}
        self._running: list[nn.Module] = []
        self._paths = {module: path for path, module in net.named_modules()}
        self._acting = {net.get_submodule(path) for path in paths}
        # Transforms of inputs and outputs are modules too, and run only where the layer is given floats.
        self._acts: dict[nn.Module, nn.Module] = {}
        for owner in self._acting:
            stacks: list[nn.Module] = [stack for _, stack in sites(owner)]
            self._acts |= dict.fromkeys(stacks or [owner], owner)
        self._weights: dict[int, list[nn.Module]] = {}
        self._held: list[Tensor] = []
        self._zero: dict[nn.Module, Tensor] = {}

        # The values of this pass: they are cached, so that a layer gets the very tensors that are noted here.
        for module in self._acting:
            for name in parameters_of(module):
                value = getattr(module, name)
                self._weights.setdefault(_key(value), []).append(module)
                self._held.append(value)
        for item in attached(net):
            if item.transform.rank == MASK and item.target.endswith(".weight"):
                owner, name = owner_of(net, item.target)
                self._zero[owner] = item.transform(torch.ones_like(getattr(owner, name))) == 0

    @contextmanager
    def following(self) -> Iterator[None]:
        """Note which modules run. Hooks on the modules themselves would keep torch from its fast paths."""
        handles = [
            calls.register_module_forward_pre_hook(lambda module, args: self._running.append(module)),
            calls.register_module_forward_hook(lambda module, args, out: self._leave(module), always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self, module: nn.Module) -> None:
        self._running.pop()
        if module in self._acting:
            self.called[self._paths[module]] = None
        if module in self._acts:
            self.acted[self._paths[self._acts[module]]] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            owners = self._weights.get(_key(tensor), []) if isinstance(tensor, Tensor) else []
            if owners and not set(owners) & set(self._running):
                self.bare |= {self._paths[owner]: None for owner in owners}

        at = WEIGHT_AT.get(func.overloadpacket)
        if at is not None and self._running and self._running[-1] in self._zero:
            self._compare(args[at], self._zero[self._running[-1]])
        return func(*args, **(kwargs or {}))

    def _compare(self, used: Tensor, zero: Tensor) -> None:
        """Note a layer whose weight isn't zero where it is masked."""
        # A product takes some layers' weights transposed, and of a square one it can't be told which way it lies.
        ways = [way for way in (zero, zero.movedim(0, -1)) if way.shape == used.shape]
        if ways and all(bool(((used != 0) & way).any()) for way in ways):
            self.changed[self._paths[self._running[-1]]] = None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
