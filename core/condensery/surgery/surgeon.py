"""The surgeon of a stage: it removes channels from a player's net, and everything that belongs to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.nets import Transform, attach, attached, plain
from condensery.surgery.attention import AttentionSurgeon
from condensery.surgery.channels import axis, is_writer
from condensery.surgery.cuts import Cut, apply, gap, precise, verify
from condensery.surgery.graph import ChannelGraph, Group, Removed
from condensery.surgery.left import Channels, Left

if TYPE_CHECKING:
    from condensery.run import Stage


@dataclasses.dataclass(frozen=True, eq=False)
class Removal:
    """What was removed.

    :param cut: the record; ``None`` where nothing had to go.
    :param removed: the channels by path of the group's first layer.
    :param ratio: share of the ranked channels that went; coupled channels count once.
    :param left_out: layers that had scores but can't be cut, with the reason.
    """

    cut: Cut | None
    removed: dict[str, list[int]]
    ratio: float
    left_out: dict[str, str]


class _Unit(NamedTuple):
    """Channels that go together: one, or one of each block of a group."""

    score: float
    group: Group
    channels: list[int]


class Surgeon(AttentionSurgeon):
    """Cuts one player's net; in ``prepare`` or ``end_stage`` only, because no optimizer steps in between.

    :param player: whose net it cuts.
    """

    def __init__(self, stage: Stage, player: str = "student") -> None:
        self.stage, self.player = stage, player
        self._graph: ChannelGraph | None = None
        self._shapes: list[tuple[str, tuple[int, ...]]] = []

    # ---------------------------------------------------------------- looking

    @property
    def net(self) -> nn.Module:
        """The net that it cuts."""
        return self.stage.players[self.player].module

    @property
    def graph(self) -> ChannelGraph:
        """How the net's channels hang together; worked out again when a shape has changed.

        What another stage of the run, or its dry run, found of a net that is built in the same way is taken up again.
        """
        shapes = [(n, tuple(t.shape)) for n, t in [*self.net.named_parameters(), *self.net.named_buffers()]]
        if self._graph is None or shapes != self._shapes:
            example, known = self.stage.task.example(2), self.stage.graphs
            self._graph = next((graph for graph in known if graph.fits(self.net, example)), None)
            if self._graph is None:
                self._graph = ChannelGraph(self.net, example, self.stage.task.answers)
                # The last one only, because it holds a copy of the net.
                for old in known:
                    old.close()
                known[:] = [self._graph]
            self._shapes = shapes
        return self._graph

    def groups(self) -> list[Group]:
        """Return the groups of coupled channels, in the net's order; ``reason`` tells which can't be removed."""
        return list(self.graph.groups)

    def prunable(self) -> list[Group]:
        """Return the groups whose channels can be removed: half of each was removed on a copy and proven right."""
        return [g for g in self.groups() if g.reason is None]

    def group(self, path: str) -> Group | None:
        """Return the group to which a layer's or norm's channels belong as a whole, if there is one."""
        return self.graph.by_path.get(path)

    def inputs_gone(self, removed: Removed) -> dict[str, list[int]]:
        """Return which input channels layers would lose by a cut, by path; nothing is cut."""
        return {n: sorted(ins) for n, (ins, _) in self.graph.removed_by(removed).items() if ins}

    def readers(self, norm: str) -> list[str]:
        """Return the layers that read a norm's channels, at most through a ReLU or the like; empty if others do too."""
        return self.graph.readers(norm)

    def goes_through(self, layer: str, norm: str) -> bool:
        """Tell whether everything that a layer writes reaches a norm before anything else."""
        return self.graph.goes_through(layer, norm)

    # ---------------------------------------------------------------- cutting

    def remove_channels(
        self,
        what: Mapping[str, Tensor] | Removed,
        *,
        ratio: float | None = None,
        scope: Literal["global", "local"] = "global",
    ) -> Removal:
        """Remove channels: given ones, or those with the lowest scores.

        :param what: by path of a convolution, linear layer or norm. Without ``ratio`` the indices to remove; what is
            coupled goes along. With ``ratio`` one score for each channel; the scores of coupled layers are added up.
        :param ratio: share of the ranked channels to remove, 0 to 1; each group keeps at least one channel of a block.
        :param scope: rank all channels together (``global``) or each group by itself (``local``).
        :raises UsageError: naming a layer that can't be cut and why (given indices only).
        :raises MethodError: if the cut net doesn't give the masked net's outputs.
        """
        self.stage.refuse_late("a net is cut")  # before its channels are followed, which takes seconds
        graph = self.graph
        left_out: dict[str, str] = {}
        if ratio is None:
            removed = {p: [int(i) for i in indices] for p, indices in what.items()}
            total = sum(g.channels for g in {graph.by_path[p] for p in removed if p in graph.by_path})
        else:
            scores, left_out = self._scores({p: torch.as_tensor(s) for p, s in what.items()})
            removed = choose(scores, ratio, scope)
            total = sum(g.channels for g in scores)

        removed = {p: indices for p, indices in removed.items() if indices}
        cut = graph.cut(removed) if removed else None
        if cut is not None:
            self._apply(cut)

        gone: dict[str, set[int]] = {}
        for path, indices in removed.items():
            gone.setdefault(graph.by_path[path].layers[0], set()).update(indices)
        reached = sum(map(len, gone.values())) / total if total else 0.0
        return Removal(cut, {p: sorted(g) for p, g in gone.items()}, reached, left_out)

    def narrow_inputs(self, keep: Mapping[str, Tensor], selection: Callable[[Tensor, int], Transform]) -> Cut | None:
        """Let layers read only some of their input channels; whatever makes these keeps its width.

        :param keep: by path of the layer, bool of shape ``(channels,)``: which of the channels that arrive stay. The
            others must be zero already.
        :param selection: makes the transform that picks channels in front of a layer, from their indices (int64) and
            their negative axis; a layer that has one gets a narrower one.
        :raises MethodError: if the outputs change, because a channel wasn't zero.
        """
        forward = self.stage.task.answers
        net, example, renamed = precise(self.net, self.stage.task.example(2), forward)
        cut = Cut({}, {})
        new = []
        for path, wanted in keep.items():
            seen, before = wanted.cpu(), _selection(net, path)
            if before is not None:
                seen = before(seen.view(-1, *[1] * (-axis(net.get_submodule(path)) - 1))).flatten()
            if not bool(seen.all()):
                new += [path] if before is None else []
                _narrow(net, path, seen, cut)
        if not cut.tensors:
            return None

        # The selections go on a copy first: only a cut that is proven there is applied to the net itself.
        def select(model: nn.Module) -> None:
            device = next(model.parameters()).device
            for path in new:
                site = cut.sites[f"{path}:input"]
                attach(model, f"{path}:input", "channel-selection", selection(site.kept, site.axis).to(device))

        narrow = plain(net)
        apply(cut, narrow)
        select(narrow)
        dtype = next(p.dtype for p in net.parameters() if p.is_floating_point())
        verify(cut, gap(net, narrow, example, forward), dtype)
        cut = cut.renamed(renamed)
        self._apply(cut)
        select(self.net)
        return cut

    def _apply(self, cut: Cut) -> None:
        """Cut the net, and the state of its optimizer; before an optimizer exists, the state that it will carry on."""
        self.stage.refuse_late("a net is cut")
        player = self.stage.players[self.player]
        optimizer = player.optimizer
        old = player.parameters()
        states = player.optimizer_state() if optimizer is not None else player.carried
        states = {name: dict(state) for name, state in states.items()}

        apply(cut, self.net, states)

        if optimizer is None:
            player.carried = states
        else:
            left = player.parameters()
            # None for the parameters of layers that are gone.
            new = {id(p): left.get(n) for n, p in old.items()}
            for group in optimizer.param_groups:
                group["params"] = [q for p in group["params"] if (q := new.get(id(p), p)) is not None]
            optimizer.state.clear()
            player.load_optimizer_state(states)

        self._graph = None
        self.stage.changed(self.player)

    def _scores(self, scores: Mapping[str, Tensor]) -> tuple[dict[Group, Tensor], dict[str, str]]:
        """Add up the scores of coupled layers; return what can't be cut with the reasons."""
        found: dict[Group, Tensor] = {}
        left_out: dict[str, str] = {}
        for path, score in scores.items():
            try:
                group = self.graph.group(path)
            except UsageError as error:
                left_out[path] = str(error)
                continue

            if score.shape != (group.channels,):
                raise UsageError(f"layer {path!r} has {group.channels} channels, got scores of {tuple(score.shape)}")
            values = score.detach().to("cpu", torch.float64)
            found[group] = found[group] + values if group in found else values
        return found, left_out


def _selection(net: nn.Module, path: str) -> Transform | None:
    """Return what picks channels in front of a layer, if something does."""
    found = [a.transform for a in attached(net) if a.target == f"{path}:input" and a.transform.reshapes]
    return found[0] if found else None


def _narrow(net: nn.Module, path: str, keep: Tensor, cut: Cut) -> None:
    """Add to a cut that a layer loses input channels."""
    module = net.get_submodule(path)
    if not is_writer(module) or getattr(module, "groups", 1) > 1 or getattr(module, "transposed", False):
        raise UsageError(f"layer {path!r} can't read fewer channels: it is no plain convolution or linear layer")
    shape = net.get_parameter(f"{path}.weight").shape
    kept = keep.nonzero().flatten()
    entries = torch.arange(shape.numel()).view(shape)[:, kept]
    cut.tensors[f"{path}.weight"] = Left(tuple(shape), tuple(entries.shape), entries.flatten())
    attribute = "in_features" if isinstance(module, nn.Linear) else "in_channels"
    cut.attributes[path] = {attribute: (shape[1], len(kept))}
    cut.sites[f"{path}:input"] = Channels(shape[1], kept, axis(module))


def choose(scores: Mapping[Group, Tensor], ratio: float, scope: str) -> dict[str, list[int]]:
    """Return the channels with the lowest scores, by path of a group's first layer.

    Where blocks of a group must lose as many, the lowest channels of each block go together, ranked by their mean.

    :param scores: ``(channels,)`` for each group.
    """
    if scope == "local":
        parts = [choose({g: s}, ratio, "global") for g, s in scores.items()]
        return {p: c for part in parts for p, c in part.items()}

    units: list[_Unit] = []
    for group, score in scores.items():
        size = group.channels // group.blocks
        order = score.view(group.blocks, size).argsort(dim=1, stable=True)
        # The best one of each block stays, so that no layer is emptied.
        for rank in order.T[:-1]:
            channels = [b * size + int(i) for b, i in enumerate(rank)]
            units.append(_Unit(float(score[channels].mean()), group, channels))

    budget = round(ratio * sum(g.channels for g in scores))
    removed: dict[str, list[int]] = {}
    for unit in sorted(units, key=lambda u: u.score):
        if len(unit.channels) <= budget:
            budget -= len(unit.channels)
            removed.setdefault(unit.group.layers[0], []).extend(unit.channels)
    return removed
