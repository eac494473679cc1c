from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery.contract import Method, hookimpl
from condensery.errors import MethodError, NotApplicable, UsageError
from condensery.nets import CONVS, clone, frozen, plain, resolve
from condensery.run import Stage
from condensery.surgery import TOLERANCE
from condensery.surgery.attention import LayerUnit, first, stream
from condensery.tasks import Batch
from condensery_plugins.pruning.units import lowest

KEY = "residual-block-pruning"


@dataclass(eq=False, kw_only=True)
class ResidualBlockPruning(Method):
    """Take whole residual blocks out of a net: those around which it may step with the least change.

    The survey's granularity layer (1.2.1); no paper of its own. A block's score, on sampled data, is the change of the
    net's output when it steps around that block alone (``output``), or the change that the block makes of what it gets
    (``block``): squared, over the squared output or input. ``ratio`` of the blocks that can go do, rounded up, the
    lowest first. In a CNN a block is a module inside a stage with a shortcut and equal shapes in and out; an identity
    takes its place. In an attention net it is a layer, and each stack keeps one. Cut as the stage starts, and proven:
    the cut net gives what the net that steps around gives. A CNN whose blocks are all gone already is left as it is.
    Raises NotApplicable on a net without such blocks.
    """

    key = "residual-block-pruning"

    removes = frozenset({"dense-shape"})

    ratio: float = 0.3
    samples: int = 512
    criterion: Literal["output", "block", "random"] = "output"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Cut before the optimizer exists."""
        batches = stage.sample(self.samples)
        twin = frozen(clone(stage.student.module))
        layers = stage.surgeon.layers()
        stacks = _stacks(layers) if layers else {"": residual_blocks(twin, stage, batches[0])}
        self.blocks_ = sum(map(len, stacks.values()))
        before = sum(p.numel() for p in twin.parameters())
        scores = self._scores(stage, twin, [p for paths in stacks.values() for p in paths], batches)
        by_stack = dict(zip(stacks, torch.split(scores, [len(paths) for paths in stacks.values()]), strict=True))
        share = math.ceil(round(self.ratio * self.blocks_, 9)) / max(1, self.blocks_)
        chosen = lowest(by_stack, share, "global", least=1 if layers else 0)
        gone = [stacks[c][i] for c, numbers in chosen.items() for i in numbers]
        if layers:
            stage.surgeon.remove_layers(gone)
        else:
            _put_identities(stage, gone)
        self.gone_, self.parameters_ = len(gone), 1 - sum(p.numel() for p in stage.student.module.parameters()) / before
        whole = _logits(stage, twin, batches)
        with around(twin, gone):
            stepped = _logits(stage, twin, batches)
        self.change_ = _relative(stepped, whole)
        self.difference_ = _proof(stepped, _logits(stage, frozen(clone(stage.student.module)), batches), gone)

    def _scores(self, stage: Stage, net: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> Tensor:
        """Return how much the net would change without each block, ``(blocks,)``."""
        if self.criterion == "random":
            return torch.rand(len(paths), generator=torch.Generator().manual_seed(stage.seed))
        if self.criterion == "block":
            with measured(net, paths) as sums:
                _logits(stage, net, batches)
            return torch.tensor([changed / max(given, 1e-30) for changed, given in sums.values()], dtype=torch.float64)
        found, whole = [], _logits(stage, net, batches)
        for path in paths:
            with around(net, [path]):
                found.append(_relative(_logits(stage, net, batches), whole))
        return torch.tensor(found, dtype=torch.float64)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what went, what that changed of the output, and how far the proof was off."""
        return {
            "blocks_removed_count": self.gone_,
            "blocks_removed_percent": 100 * self.gone_ / max(1, self.blocks_),
            "parameters_removed_percent": 100 * self.parameters_,
            "output_change_percent": 100 * self.change_,
            "largest_difference_ratio": self.difference_,
        }


def _stacks(layers: Sequence[LayerUnit]) -> dict[str, list[str]]:
    """Return the layers that can go by the list that holds them.

    :raises NotApplicable: with the first reason, if there are none.
    """
    found: dict[str, list[str]] = {}
    for unit in layers:
        if unit.reason is None:
            found.setdefault(unit.container, []).append(unit.path)
    if not found:
        raise NotApplicable(KEY, f"layer {layers[0].path!r} can't go: {layers[0].reason}")
    return found


def residual_blocks(net: nn.Module, stage: Stage, batch: Batch) -> list[str]:
    """Return the outermost modules inside the net's stages that have a shortcut and equal shapes in and out.

    :raises NotApplicable: if the net has none, and none that an identity replaced.
    """
    try:
        stages = resolve(net, "stages")
    except UsageError:
        stages = []
    inside = [(f"{s}.{n}", m) for s in stages for n, m in net.get_submodule(s).named_modules() if n]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [m.register_forward_hook(partial(_keep, seen, p), with_kwargs=True) for p, m in inside]
    _logits(stage, net, [batch.part(0, 2)])
    for handle in handles:
        handle.remove()
    found: list[str] = []
    for path, module in inside:
        nested = any(path.startswith(f"{outer}.") for outer in found)
        if not nested and path in seen and _is_block(module) and _hands_on(module, *seen[path]):
            found.append(path)
    left = any(isinstance(m, nn.Identity) for s in stages for m in net.get_submodule(s).children())
    if not found and not left:
        raise NotApplicable(KEY, "the net has no residual block with equal shapes in and out inside its stages")
    return found


def _keep(
    seen: dict[str, tuple[Tensor, Tensor]], path: str, module: nn.Module, args: Any, kwargs: Any, out: Any
) -> None:
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(out, Tensor):
        seen[path] = (args[0], out)


def _is_block(module: nn.Module) -> bool:
    """Tell whether a module is more than a layer or a list of some, and has a convolution."""
    inner = any(isinstance(m, CONVS) for m in module.modules() if m is not module)
    return inner and not isinstance(module, (nn.Sequential, nn.ModuleList))


def _hands_on(module: nn.Module, given: Tensor, made: Tensor) -> bool:
    """Tell whether what a module gets reaches its output, of the same shape, with all its parameters at zero.

    Without transforms: a quantizer with a step of zero would make nan of everything.
    """
    if given.shape != made.shape:
        return False
    empty = frozen(plain(module))
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
        return not torch.equal(empty(given), empty(torch.zeros_like(given)))


def _put_identities(stage: Stage, paths: Iterable[str]) -> None:
    """Let identities stand in for blocks; what an optimizer would carry on for these goes too."""
    student = stage.student
    for path in paths:
        stage.replace(path, nn.Identity())
        student.carried = {n: s for n, s in student.carried.items() if not n.startswith(f"{path}.")}


@contextmanager
def around(net: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Let a net step around some blocks: they hand on what they got."""

    def step(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        given = stream(args, kwargs)
        return (given, *out[1:]) if isinstance(out, tuple) else given

    handles = [net.get_submodule(p).register_forward_hook(step, with_kwargs=True) for p in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def measured(net: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, tuple[float, float]]]:
    """Sum up, by block, the square of what it changes and of what it gets, while the net runs."""
    sums = dict.fromkeys(paths, (0.0, 0.0))

    def look(path: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        given = stream(args, kwargs).double()
        changed, whole = sums[path]
        sums[path] = (changed + float((first(out) - given).square().sum()), whole + float(given.square().sum()))

    handles = [net.get_submodule(p).register_forward_hook(partial(look, p), with_kwargs=True) for p in sums]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _logits(stage: Stage, net: nn.Module, batches: Sequence[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat([stage.answer(net, b.inputs) for b in batches])


def _relative(found: Tensor, whole: Tensor) -> float:
    """Return the squared change of an output over its square."""
    return float((found.double() - whole).square().sum() / whole.double().square().sum().clamp_min(1e-30))


def _proof(stepped: Tensor, cut: Tensor, gone: Sequence[str]) -> float:
    """Return how far the cut net is from the one that steps around, over the largest output where that is above 1.

    :raises MethodError: if that is more than rounding.
    """
    found = float((stepped - cut).abs().max() / stepped.abs().max().clamp_min(1.0))
    if not found <= TOLERANCE[cut.dtype]:
        raise MethodError(f"{KEY}: without {', '.join(gone)} the net differs by {found:.1e} from one that steps around")
    return found
