"""Which channels of a net hang together, and the cut that removes some; the only file that knows torch-pruning.

torch-pruning traces the net and follows channels through it. The entries that stay are read off a shadow: a copy whose
tensors hold their own flat indices, cut as torch-pruning cuts.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from condensery.errors import UsageError, nearest
from condensery.surgery.channels import (
    KEEP_ZEROS,
    MOVE_CHANNELS,
    axis,
    cut_grouped,
    cut_layer_norm,
    has_one_slope,
    is_depthwise,
    is_writer,
    parts,
    rest,
    some,
    unfollowed,
    widths,
)
from condensery.surgery.copies import built, numbered, read_off, state
from condensery.surgery.cuts import Cut, Forward, call, difference, precise, verify
from condensery.surgery.left import Channels
from condensery.surgery.trials import Trials
from condensery.surgery.uses import is_used_once, uses
from condensery.tasks import tensors_in

Removed = Mapping[str, Sequence[int]]
UNUSED = "the forward pass was not seen to use it"


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that can only be removed together: channel i of every layer in it.

    :param layers: convolutions and linear layers that write these channels.
    :param norms: norms, depthwise convolutions and the like that hand them on.
    :param channels: how many there are.
    :param blocks: equal parts of them, in turn, that must each lose as many (grouped convolutions, GroupNorm).
    :param outputs: whether they are the net's outputs, such as class scores.
    :param reason: why they can't be removed, or ``None``.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...]
    channels: int
    blocks: int = 1
    outputs: bool = False
    reason: str | None = None


def remove_channels(model: nn.Module, example: Any, removed: Removed, forward: Forward = call) -> Cut:
    """Return the verified cut that removes some channels; the net is not changed, see :func:`apply`.

    :param example: inputs of the right shape.
    :param removed: indices by path of the layer or norm; what hangs together with them goes along.
    :raises UsageError: naming a layer that can't be cut and why.
    :raises MethodError: if the cut net doesn't give the masked net's outputs.
    """
    return ChannelGraph(model, example, forward).cut(removed)


class ChannelGraph:
    """The channels of one net as they hang together.

    :param model: not changed; looked at without its transforms, stand-ins in the places of layers that have them.
    :param forward: calls the model on the example and returns its outputs, a tree.
    """

    def __init__(self, model: nn.Module, example: Any, forward: Forward = call) -> None:
        self.forward = forward
        self.net, self.example, self._renamed = precise(model, example, forward)

        # Under no_grad torch-pruning asserts, and what it warns of is looked at by _refuse_what_fails.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            import torch_pruning

            self.graph, self._unseen = torch_pruning.DependencyGraph(), UNUSED
            try:
                self.graph.build_dependency(self.net, self.example, forward_fn=self._outputs_of, verbose=False)
            except Exception as error:  # noqa: BLE001  torch-pruning may fail in any way on what it doesn't know
                self.graph.module2node, self._unseen = {}, unfollowed(error)

        self.modules = dict(self.net.named_modules())
        self.names: dict[Any, str] = {module: path for path, module in self.modules.items()}
        self.groups: list[Group] = []
        self.by_path: dict[str, Group] = {}
        self._through: dict[str, str] = {}

        self._read_groups()
        self._refuse_what_fails()
        order = list(self.modules)
        self.groups.sort(key=lambda g: min(order.index(p) for p in g.layers))

    def _outputs_of(self, net: nn.Module, example: Any) -> list[Tensor]:
        # Times one: an output's node is then never a layer's own, and torch-pruning marks it as an output.
        outputs = [tensor * 1 for tensor in tensors_in(self.forward(net, example)) if tensor.requires_grad]
        self._uses = uses(outputs)
        return outputs

    def close(self) -> None:
        """Let the copy of the net go at once: torch-pruning's nodes hold each other, and the layers."""
        for node in self.graph.module2node.values():
            node.inputs, node.outputs, node.dependencies = [], [], []

    def fits(self, model: nn.Module, example: Any) -> bool:
        """Take up the values of a net if it is built as the one that was looked at; returns whether it is.

        How channels hang together is a matter of modules, shapes and settings: values only enter a cut's proof.
        """
        other, inputs, renamed = precise(model, example, self.forward)
        if renamed != self._renamed or built(other, inputs) != built(self.net, self.example):
            return False
        for mine, its in zip(state(self.net), state(other), strict=True):
            mine.data = its.data
        self.example = inputs
        return True

    # ---------------------------------------------------------------- groups

    def _read_groups(self) -> None:
        """Find the group of each layer that writes channels."""
        for path, module in self.modules.items():
            if path in self.by_path or not is_writer(module):
                continue
            width = widths(module)[1]
            if module not in self.graph.module2node:
                self._add(Group((path,), (), width, reason=self._unseen))
                continue
            try:
                self._add(self._read_group(path, width))
            except Exception as error:  # noqa: BLE001  as above
                self._add(Group((path,), (), width, reason=unfollowed(error)))

    def _add(self, group: Group) -> None:
        """Take up a group in place of any that shares a layer with it."""
        self.groups = [g for g in self.groups if not set(g.layers) & set(group.layers)] + [group]
        self.by_path |= dict.fromkeys([*group.layers, *group.norms], group)

    def _read_group(self, root: str, width: int) -> Group:
        """Follow all channels that a layer writes, and note whatever forbids to remove some of them.

        :param width: how many channels it writes.
        """
        layers, norms, reasons = [], [], []
        through: set[str] = set()
        blocks, outputs = 1, False
        for item in self._follow(root, range(width)):
            module, name = item.dep.target.module, self.names.get(item.dep.target.module)
            if has_one_slope(module):
                continue

            # An operation between layers, such as a concatenation, has no name: only its kind can be told.
            if name is None:
                if item.dep.target.type == self.graph.ops.OPTYPE.OUTPUT:
                    outputs = True
                    reasons.append("its channels are the net's outputs")
                operation = item.dep.target.grad_fn.name()
                if operation.startswith(MOVE_CHANNELS):
                    through.add(operation.partition("Backward")[0])
                continue

            # A layer belongs to the group as a whole where its channel i is the root's channel i, for each i.
            ins, outs = widths(module)
            writes = self.graph.is_out_channel_pruning_fn(item.dep.handler)
            pairs = sorted(zip(item.idxs, item.root_idxs, strict=True))
            whole = pairs == [(i, i) for i in range(width)] and width == (outs if writes else ins)
            if writes and is_writer(module):
                layers.append(name)
                if not whole:
                    reasons.append(
                        f"its {width} channels and the {outs} of {name} hang together in no way that can be followed"
                    )
            elif writes and whole:
                norms.append(name)
            elif pairs[-1][0] >= (outs if writes else ins):
                reasons.append(f"{name} has only {ins} channels of the {width}")

            # Grouped convolutions and group norms need as many channels in each of their parts.
            count = parts(module)
            if count > 1 and not whole:
                reasons.append(f"{name}, which works in {count} groups, meets it together with other channels")
            elif count > 1:
                blocks = math.lcm(blocks, count)
                if width % blocks or width == blocks:
                    reasons.append(f"{name} has groups of one channel")
            if is_depthwise(module) and ins != outs:
                reasons.append(f"{name} makes other than one channel of each")

        self._through[root] = f" ({', '.join(sorted(through))})" if through else ""
        reason = reasons[0] + self._through[root] if reasons else None
        return Group(tuple(layers), tuple(norms), width, blocks, outputs, reason)

    def _follow(self, path: str, indices: Iterable[int]) -> Any:
        """Return what torch-pruning would cut, layer by layer, to remove output channels of one layer."""
        module = self.modules[path]
        remove = self.graph.get_pruner_of_module(module).prune_out_channels
        return self.graph.get_pruning_group(module, remove, sorted(indices))

    def _refuse_what_fails(self) -> None:
        """Try to cut every group on a net with random weights: what fails can't be followed.

        The first channel goes, then a random half: a half alone may look right by chance, as where channels are
        reversed.
        """
        trials, generator = Trials(self.net, self.example), torch.Generator().manual_seed(0)
        for share in (0.0, 0.5):
            # All groups at once; a failure is halved until the groups that cause it stand alone.
            todo = [[g for g in self.groups if g.reason is None and g.channels >= 2 * g.blocks]]
            while todo:
                groups = todo.pop()
                removed = {g.layers[0]: some(g.channels, g.blocks, share, generator) for g in groups}
                problem = self._try(trials, removed) if groups else None

                if problem and len(groups) > 1:
                    todo += [groups[: len(groups) // 2], groups[len(groups) // 2 :]]
                elif problem:
                    reason = problem + self._through[groups[0].layers[0]]
                    self._add(dataclasses.replace(groups[0], reason=reason))

    def _try(self, trials: Trials, removed: Removed) -> str | None:
        """Return why a cut can't be right, or ``None`` if the cut net gives the masked net's outputs."""
        problem = None
        for net, example, tolerance in trials:
            try:
                if difference(self._cut(removed), net, example, self.forward) <= tolerance:
                    return None
                problem = "its channels pass through an operation that can't be followed"
            except Exception as error:  # noqa: BLE001  a net's own forward may fail in any way
                problem = f"the net doesn't run without some of its channels: {' '.join(str(error).split())[:100]}"
        return problem

    def group(self, path: str) -> Group:
        """Return the group of a layer or norm.

        :raises UsageError: if the net has no such layer, or its channels can't be removed, with the reason.
        """
        if path not in self.by_path:
            near = nearest(path, self.by_path)
            if path in self.modules:
                raise UsageError(f"layer {path!r} can't be cut: it has no channels of its own")
            raise UsageError(f"no layer {path!r} to cut" + (f"; did you mean {near!r}?" if near else ""))
        group = self.by_path[path]
        if group.reason is not None:
            raise UsageError(f"layer {path!r} can't be cut: {group.reason}")
        return group

    def readers(self, path: str) -> list[str]:
        """Return the layers that read a norm's channels with nothing in between but what makes zeros of zeros.

        Empty if anything else reads them too, or one of the layers reads something else as well, by a second call or a
        weight that it shares: then its zeros are not all that they see.
        """
        found: list[str] = []
        todo = self._outputs(path)
        while todo:
            node = todo.pop()
            name, kind = self.names.get(node.module), node.grad_fn.name()

            quiet = kind.startswith(KEEP_ZEROS) or (kind.startswith("IndexSelect") and self._selects(node.outputs))
            if name is not None and not is_used_once(node.module, self.modules.values(), self._uses):
                return []
            if name is not None and is_writer(node.module) and getattr(node.module, "groups", 1) == 1:
                found.append(name)
            elif quiet and (name is None or isinstance(node.module, nn.PReLU)):
                todo += node.outputs
            else:
                return []
        return list(dict.fromkeys(found))

    def goes_through(self, layer: str, norm: str) -> bool:
        """Tell whether everything that a layer writes reaches a norm first, channel by channel."""
        todo = self._outputs(layer)
        while todo:
            node = todo.pop()
            if self.names.get(node.module) == norm:
                continue
            if node.module in self.names or len(node.inputs) != 1 or not node.outputs:
                return False
            todo += node.outputs
        return True

    def _outputs(self, path: str) -> list[Any]:
        node = self.graph.module2node.get(self.modules[path])
        return list(node.outputs) if node is not None else []

    def _selects(self, nodes: Sequence[Any]) -> bool:
        """Tell whether these are layers with a channel selection in front, the only transform that is left here."""
        return all(f"{self.names.get(n.module)}.condensery_input" in self.modules for n in nodes)

    # ---------------------------------------------------------------- cuts

    def cut(self, removed: Removed) -> Cut:
        """Return the verified cut that removes channels by path; see :func:`remove_channels`."""
        # Layers of one group may be named side by side: what goes is counted by the group's first layer.
        gone: dict[str, set[int]] = {}
        for path, indices in removed.items():
            group = self.group(path)
            wrong = [i for i in indices if not 0 <= i < group.channels]
            if wrong:
                raise UsageError(f"layer {path!r} has channels 0 to {group.channels - 1}, not {wrong[0]}")
            gone.setdefault(group.layers[0], set()).update(int(i) for i in indices)

        for path, channels in gone.items():
            group = self.by_path[path]
            if len(channels) == group.channels:
                raise UsageError(f"layer {path!r} would lose all of its {group.channels} channels")
            size = group.channels // group.blocks
            if len({sum(i // size == b for i in channels) for b in range(group.blocks)}) > 1:
                raise UsageError(f"layer {path!r}: each {size} channels in turn must lose as many (grouped layers)")

        cut = self._cut({p: sorted(c) for p, c in gone.items() if c})
        found = difference(cut, self.net, self.example, self.forward)
        dtype = next(p.dtype for p in self.net.parameters() if p.is_floating_point())
        return verify(cut, found, dtype).renamed(self._renamed)

    def removed_by(self, removed: Removed) -> dict[str, tuple[set[int], set[int]]]:
        """Return what goes where: by name of layer or parameter, the input and the output channels.

        :param removed: by path of a layer that writes the channels.
        """
        found: dict[str, tuple[set[int], set[int]]] = {}
        for path, indices in removed.items():
            for item in self._follow(path, indices) if len(indices) else ():
                module = item.dep.target.module
                if has_one_slope(module):
                    continue
                name = self.graph._param_to_name.get(module) if isinstance(module, nn.Parameter) else None
                name = self.names.get(module) if name is None else name
                if name is not None:
                    writes = self.graph.is_out_channel_pruning_fn(item.dep.handler)
                    found.setdefault(name, (set(), set()))[int(writes)].update(item.idxs)
        return found

    def _cut(self, removed: Removed) -> Cut:
        """Return what a cut leaves, read off a shadow net whose tensors hold their own flat indices."""
        shadow = numbered(self.net)
        sites: dict[str, Channels] = {}
        for name, (ins, outs) in self.removed_by(removed).items():
            if name not in self.modules:
                self._cut_parameter(shadow, name, outs | ins)
                continue
            module = shadow.get_submodule(name)
            counts = widths(module)
            # A norm hands its channels on: what it loses at its output it loses at its input.
            both = not is_writer(module)
            for site, gone, width in zip(("input", "output"), (outs if both else ins, outs), counts, strict=True):
                if gone:
                    sites[f"{name}:{site}"] = Channels(width, rest(width, gone), axis(module))
            self._cut_module(module, ins, outs)
        return Cut(read_off(self.net, shadow), self._changed(shadow), sites)

    def _cut_parameter(self, shadow: nn.Module, name: str, gone: set[int]) -> None:
        """Cut a parameter that belongs to no layer, such as a scale that the net multiplies by itself."""
        path, _, tensor = name.rpartition(".")
        old = self.net.get_parameter(name)
        dim = self.graph.module2node[old].pruning_dim
        held = shadow.get_parameter(name)
        new = nn.Parameter(held.detach().index_select(dim, rest(held.shape[dim], gone)))
        shadow.get_submodule(path)._parameters[tensor] = new

    def _cut_module(self, module: nn.Module, ins: set[int], outs: set[int]) -> None:
        """Cut one layer of the shadow, by torch-pruning's own way but where that is wrong."""
        if isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
            cut_grouped(module, ins, outs)
        elif isinstance(module, nn.LayerNorm):
            cut_layer_norm(module, outs)
        else:
            pruner = self.graph.get_pruner_of_module(module)
            if outs:
                pruner.prune_out_channels(module, sorted(outs))
            if ins:
                pruner.prune_in_channels(module, sorted(ins))

    def _changed(self, shadow: nn.Module) -> dict[str, dict[str, tuple[Any, Any]]]:
        """Return the attributes that a cut has changed, before and after, by module path."""
        attributes: dict[str, dict[str, tuple[Any, Any]]] = {}
        for path, module in self.modules.items():
            after = vars(shadow.get_submodule(path))
            for name, value in vars(module).items():
                if isinstance(value, int | tuple) and after[name] != value:
                    attributes.setdefault(path, {})[name] = (value, after[name])
        return attributes
