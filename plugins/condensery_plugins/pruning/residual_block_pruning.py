from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import Batch, Method, NotApplicable, Stage, UsageError, hookimpl
from condensery.errors import MethodError
from condensery.nets import CONVS, clone, frozen, plain, resolve
from condensery.surgery import TOLERANCE
from condensery.surgery.attention import LayerUnit, first, stream
from condensery_plugins.pruning.units import lowest


@dataclass(eq=False, kw_only=True)
class ResidualBlockPruning(Method):
    """Take whole residual blocks out of a net: those around which it may step with the least change.

    The survey's granularity layer (1.2.1); no paper of its own. A block can go if what it gets and what it returns have
    equal shapes and a shortcut leads around it. In a CNN that is a module inside one of the stages, which the net names
    in its ``roles``, and an identity takes its place. In an attention net it is a layer, and each stack keeps one.

    A block's score, on ``samples`` training examples, is the change of the net's output when it steps around that block
    alone (``output``), or the change that the block makes of what it gets (``block``): the square of the change over
    the square of the output, or of what the block gets. The blocks with the lowest scores go, ``ratio`` of all that
    can, rounded up.

    *When*: as the stage starts. Each cut is proven: the net that is left gives what the whole net gives when it steps
    around the same blocks.

    *Raises* NotApplicable on a net that has no such block or names no stages; a CNN whose blocks have all gone already
    stays as it is.
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
        whole = frozen(clone(stage.student.module))
        layers = stage.surgeon.layers()  # none in a CNN
        stacks = self._stacks(layers) if layers else {"": self._blocks(stage, whole, batches[0])}

        gone = self._choose(stage, whole, stacks, batches, least=1 if layers else 0)
        if layers:
            stage.surgeon.remove_layers(gone)
        else:
            _put_identities(stage, gone)

        left = stage.student.module
        self.blocks_, self.gone_ = sum(map(len, stacks.values())), len(gone)
        self.parameters_ = 1 - sum(p.numel() for p in left.parameters()) / sum(p.numel() for p in whole.parameters())
        self._prove(stage, whole, gone, batches)

    def _stacks(self, layers: Sequence[LayerUnit]) -> dict[str, list[str]]:
        """Return the paths of the layers that can go, by the list that holds them.

        :raises NotApplicable: with the first reason, if there are none.
        """
        found: dict[str, list[str]] = {}
        for unit in layers:
            if unit.reason is None:
                found.setdefault(unit.container, []).append(unit.path)
        if not found:
            raise NotApplicable(self.key, f"layer {layers[0].path!r} can't go: {layers[0].reason}")
        return found

    def _blocks(self, stage: Stage, net: nn.Module, batch: Batch) -> list[str]:
        """Return the paths of a CNN's blocks.

        :raises NotApplicable: if it names no stages, or has no block in them, and none that an identity replaced.
        """
        stages = _stages(net)
        if not stages:
            how = 'it names them by module path, as in roles = {"stages": ["layer1", "layer2"]}'
            raise NotApplicable(
                self.key, f"the net doesn't say which modules its stages are, where blocks would be: {how}"
            )

        found = residual_blocks(net, stage, batch)
        replaced = any(isinstance(m, nn.Identity) for s in stages for m in net.get_submodule(s).children())
        if not found and not replaced:
            raise NotApplicable(self.key, "the net has no residual block with equal shapes in and out in its stages")
        return found

    def _choose(
        self,
        stage: Stage,
        net: nn.Module,
        stacks: Mapping[str, Sequence[str]],
        batches: Sequence[Batch],
        *,
        least: int,
    ) -> list[str]:
        """Return the paths of the blocks that go.

        :param stacks: paths of the blocks that can go.
        :param least: how many blocks each stack keeps.
        """
        paths = [path for blocks in stacks.values() for path in blocks]
        scores = torch.split(self._scores(stage, net, paths, batches), [len(blocks) for blocks in stacks.values()])

        # Rounded first: 0.14 * 50 is a little above 7 in binary floats.
        count = math.ceil(round(self.ratio * len(paths), 9))
        share = count / max(1, len(paths))
        chosen = lowest(dict(zip(stacks, scores, strict=True)), share, "global", least=least)
        return [stacks[stack][number] for stack, numbers in chosen.items() for number in numbers]

    def _scores(self, stage: Stage, net: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> Tensor:
        """Return how much the net would change without each block, ``(blocks,)``."""
        if self.criterion == "random":
            return torch.rand(len(paths), generator=torch.Generator().manual_seed(stage.seed))

        if self.criterion == "block":
            with measured(net, paths) as sums:
                _answers(stage, net, batches)
            return torch.tensor([changed / max(given, 1e-30) for changed, given in sums.values()], dtype=torch.float64)

        whole = _answers(stage, net, batches)
        found = []
        for path in paths:
            with around(net, [path]):
                found.append(_relative(_answers(stage, net, batches), whole))
        return torch.tensor(found, dtype=torch.float64)

    def _prove(self, stage: Stage, whole: nn.Module, gone: Sequence[str], batches: Sequence[Batch]) -> None:
        """Compare the cut net with the whole one that steps around the same blocks.

        :raises MethodError: if their outputs differ by more than rounding, as a share of the largest output (of 1 where
            that is smaller).
        """
        before = _answers(stage, whole, batches)
        with around(whole, gone):
            stepped = _answers(stage, whole, batches)
        self.change_ = _relative(stepped, before)

        cut = _answers(stage, frozen(clone(stage.student.module)), batches)
        self.difference_ = float((stepped - cut).abs().max() / stepped.abs().max().clamp_min(1.0))
        if not self.difference_ <= TOLERANCE[cut.dtype]:
            off = f"the net differs by {self.difference_:.1e} from one that steps around"
            raise MethodError(f"{self.key}: without {', '.join(gone)} {off}")

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


def residual_blocks(net: nn.Module, stage: Stage, batch: Batch) -> list[str]:
    """Return the outermost modules inside the net's stages that have a shortcut and equal shapes in and out.

    :param batch: of training examples, two of which are tried.
    """
    inside = [(f"{s}.{n}", m) for s in _stages(net) for n, m in net.get_submodule(s).named_modules() if n]

    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [m.register_forward_hook(partial(_keep, seen, p), with_kwargs=True) for p, m in inside]
    _answers(stage, net, [batch.part(0, 2)])
    for handle in handles:
        handle.remove()

    found: list[str] = []
    for path, module in inside:
        nested = any(path.startswith(f"{outer}.") for outer in found)
        if not nested and path in seen and _is_block(module) and _hands_on(module, *seen[path]):
            found.append(path)
    return found


def _stages(net: nn.Module) -> list[str]:
    """Return the paths of a net's stages; none where it doesn't say which these are."""
    try:
        return resolve(net, "stages")
    except UsageError:
        return []


def _keep(
    seen: dict[str, tuple[Tensor, Tensor]], path: str, module: nn.Module, args: Any, kwargs: Any, out: Any
) -> None:
    """Keep what a module gets and what it returns, if that is one tensor each; a forward hook."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(out, Tensor):
        seen[path] = (args[0], out)


def _is_block(module: nn.Module) -> bool:
    """Tell whether a module is no layer and no list of modules, and has a convolution inside."""
    inner = any(isinstance(m, CONVS) for m in module.modules() if m is not module)
    # Many write a block as a Sequential whose forward adds a shortcut; only one that keeps its forward is a list.
    return inner and type(module).forward is not nn.Sequential.forward


def _hands_on(module: nn.Module, given: Tensor, made: Tensor) -> bool:
    """Tell whether what a module gets reaches its output when all its parameters are zero, and has the output's shape.

    :param given: what the module got.
    :param made: what it returned.
    """
    if given.shape != made.shape:
        return False

    # Without transforms: a quantizer whose step is zero would make nan of everything.
    empty = frozen(plain(module))
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
        return not torch.equal(empty(given), empty(torch.zeros_like(given)))


def _put_identities(stage: Stage, paths: Iterable[str]) -> None:
    """Put identities in the places of blocks, and drop the optimizer state that would be carried on for these."""
    student = stage.student
    for path in paths:
        stage.replace(path, nn.Identity())
        student.carried = {n: s for n, s in student.carried.items() if not n.startswith(f"{path}.")}


@contextmanager
def around(net: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Let a net step around some blocks: each hands on what it got. A context."""

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
    """Sum up, by block, the square of what it changes and of what it gets, while the net runs. A context.

    :returns: by path the sums over all entries, of (output - input)^2 and of input^2.
    """
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


def _answers(stage: Stage, net: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """Return all that a net answers to some batches, flat."""
    with torch.no_grad():
        return torch.cat([t.flatten() for b in batches for t in stage.task.answers(net, b.inputs)])


def _relative(found: Tensor, whole: Tensor) -> float:
    """Return the squared change of an output over its square."""
    return float((found.double() - whole).square().sum() / whole.double().square().sum().clamp_min(1e-30))
