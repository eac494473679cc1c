"""What a cut leaves of a net: one record that slices weights, buffers, transforms and optimizer state alike."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.errors import CondenseryError, MethodError, UsageError
from condensery.nets import MASK, attached, lent, owner_of, plain, plain_name, put_stand_ins, stack_of, with_gradients
from condensery.surgery.left import Channels, Left
from condensery.tasks import generators_kept, map_tensors, seed_generators, tensors_in

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Largest difference of a cut net from the masked one, over the largest output where that is above 1."""


Forward = Callable[[nn.Module, Any], Any]
"""Calls a net on an example and returns its outputs, a tree."""


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model and return its outputs, a tree; of an object with logits, these."""
    out = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    return getattr(out, "logits", out)


@dataclasses.dataclass(eq=False)
class Cut:
    """What a cut changes in a net, and nothing else: classes and names stay.

    :param tensors: by plain name: parameters and buffers whose shape changes.
    :param attributes: by module path: changed plain attributes, ``{"out_channels": (16, 8)}``.
    :param sites: by target ``conv1:input``: the channels left there, for transforms on activations.
    :param difference: the largest difference between the net with all removed entries at zero and the cut net, over
        the largest output where that is above 1; see :func:`difference`.
    :param unproven: why that doesn't prove that removing equals zeroing, if so.
    :param factors: by plain name: what a parameter is multiplied with once it is sliced.
    :param children: by path of a container from which some go: the names of the children that stay.
    :param proofs: the difference by attention mode and precision, where several were compared.
    """

    tensors: dict[str, Left]
    attributes: dict[str, dict[str, tuple[Any, Any]]]
    sites: dict[str, Channels] = dataclasses.field(default_factory=dict)
    difference: float | None = None
    unproven: str | None = None
    factors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    children: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    proofs: dict[str, float] = dataclasses.field(default_factory=dict)

    def take(self, name: str, value: Tensor) -> Tensor:
        """Slice what belongs to one tensor of the net: itself, a mask, a per-channel scale, a moment.

        :param name: plain name: ``conv1.weight``; a tensor that the cut doesn't touch gives the value back.
        """
        return self._named(name, self.tensors[name].take, value) if name in self.tensors else value

    def take_site(self, target: str, value: Tensor) -> Tensor:
        """Slice a tensor that broadcasts against the activation at ``conv1:input`` or ``conv1:output``.

        :raises MethodError: if its channel axis has another length than the activation's.
        """
        site = self.sites.get(target)
        if site is None or value.numel() == 1 or (value.dim() >= -site.axis and value.shape[site.axis] == 1):
            return value
        if value.dim() < -site.axis or value.shape[site.axis] != site.old:
            raise MethodError(f"{target}: a tensor of shape {tuple(value.shape)} doesn't fit {site.old} channels")
        return value.index_select(site.axis, site.kept.to(value.device))

    def take_state(self, name: str, value: Tensor) -> Tensor:
        """Slice a tensor of the optimizer's state.

        :param name: plain name of the parameter, which may belong to a transform.
        """
        path, found, rest = f".{name}".partition(".parametrizations.")
        if found:
            return self.take(f"{path}.{rest.partition('.')[0]}".strip("."), value)
        path, found, rest = f".{name}".partition(".condensery_")
        if found:
            return self.take_site(f"{path.lstrip('.')}:{rest.partition('.')[0]}", value)
        return self.take(name, value)

    @staticmethod
    def _named(name: str, take: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        try:
            return take(value)
        except MethodError as error:
            raise MethodError(f"{name}: {error}") from None

    def renamed(self, names: Mapping[str, Sequence[str]]) -> Cut:
        """Return the same cut with other tensors in the places of some.

        :param names: by tensor, those that lose the same entries in its place.
        """
        tensors = {new: left for name, left in self.tensors.items() for new in names.get(name, (name,))}
        return dataclasses.replace(self, tensors=tensors)

    def config(self) -> dict[str, Any]:
        """Return a JSON summary: shapes before and after, attributes, and how far it was verified."""
        return {
            "tensors": {n: {"old": list(x.old), "new": list(x.new)} for n, x in self.tensors.items()},
            "attributes": {p: {n: list(v) for n, v in a.items()} for p, a in self.attributes.items()},
            "children": self.children,
            "difference": self.difference,
            "unproven": self.unproven,
        }


def apply(cut: Cut, model: nn.Module, optimizer_state: dict[str, Any] | None = None) -> None:
    """Cut a net: its parameters, also latent ones, buffers, attributes, transforms, and an optimizer's state.

    :param optimizer_state: by plain parameter name, as ``Player.optimizer_state`` gives it; changed in place.
    :raises MethodError: naming a tensor that doesn't fit the cut, or tied tensors that it would cut apart.
    """
    _refuse_untying(cut, model)
    _refuse_factors(cut, model)
    gone = _shorten(cut, model)
    _cut_tensors(cut, model)
    for path, changes in cut.attributes.items():
        for attribute, (_, after) in changes.items():
            setattr(model.get_submodule(path), attribute, copy.copy(after))
    for item in attached(model):
        take = cut.take_site if owner_of(model, item.target)[1].startswith(":") else cut.take
        item.transform.resize(partial(take, item.target))

    states = optimizer_state if optimizer_state is not None else {}
    for name in [n for n in states if f"{n}.".startswith(gone)]:
        del states[name]
    # A transform may leave a parameter of its own as it is, such as the codebook of a whole layer: so stays its state.
    shapes = {plain_name(name): parameter.shape for name, parameter in model.named_parameters()}
    for name, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape != shapes.get(name):
                state[key] = cut.take_state(name, value)


def _cut_tensors(cut: Cut, model: nn.Module) -> None:
    """Slice parameters, latent ones too, and buffers; layers that share one share the new one."""
    made: dict[int, nn.Parameter] = {}
    for name in cut.tensors:
        path, _, tensor = name.rpartition(".")
        owner = model.get_submodule(path)
        held = owner._buffers.get(tensor)
        if held is not None:
            owner._buffers[tensor] = cut.take(name, held)
            continue

        if parametrize.is_parametrized(owner, tensor):
            stacks = owner.get_submodule("parametrizations")
            owner, tensor = stacks.get_submodule(tensor), "original"
        old = owner._parameters[tensor]
        assert old is not None

        if id(old) not in made:
            value = cut.take(name, old.detach())
            if name in cut.factors:
                value = (value.double() * cut.factors[name].to(value.device)).to(value.dtype)
            made[id(old)] = nn.Parameter(_like(value, old), requires_grad=old.requires_grad)
        owner._parameters[tensor] = made[id(old)]


def _shorten(cut: Cut, model: nn.Module) -> tuple[str, ...]:
    """Take children out of containers; return what the names of all that was in them begin with."""
    gone = []
    for path, left in cut.children.items():
        children = model.get_submodule(path)._modules
        for name in [n for n in children if n not in left]:
            del children[name]
            gone.append(f"{path}.{name}." if path else f"{name}.")
    return tuple(gone)


def _refuse_factors(cut: Cut, model: nn.Module) -> None:
    """Refuse factors under a transform other than a mask, which would see other numbers than before.

    :raises MethodError: naming the tensor and the transform.
    """
    for name in cut.factors:
        path, _, tensor = name.rpartition(".")
        stack = stack_of(model.get_submodule(path), tensor)
        for transform in [] if stack is None else stack.transforms.values():
            if transform.rank != MASK:
                raise MethodError(f"{name} needs a factor, and {type(transform).__name__} stands in between")


def _refuse_untying(cut: Cut, model: nn.Module) -> None:
    """Refuse a cut after which two layers that share a tensor would need different ones."""
    names: dict[int, list[str]] = {}
    for path, module in model.named_modules():  # each once: by another name it is cut as well
        for name, parameter in module.named_parameters(path, recurse=False):
            names.setdefault(id(parameter), []).append(plain_name(name))
    for shared in names.values():
        kept = [cut.tensors[n].kept if n in cut.tensors else None for n in shared]
        for name, other in zip(shared, kept, strict=True):
            first = kept[0]
            same = other is first or (other is not None and first is not None and torch.equal(other, first))
            if not same:
                raise MethodError(f"{name} is shared with {shared[0]}, of which the cut leaves something else")


def _like(value: Tensor, old: Tensor) -> Tensor:
    """Keep the memory format of a 4-D tensor."""
    last = old.dim() == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last)
    return value.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def masked(cut: Cut, net: nn.Module, cut_net: nn.Module) -> nn.Module:
    """Return a copy of the uncut net in which everything that the cut removes is zero.

    A norm over channels counts zeros as well, so that zeroing isn't removing: in the copy it takes its statistics over
    the channels that are left.

    :param net: without transforms on weights.
    """
    twin = lent(net)
    made: dict[int, nn.Parameter] = {}
    for name, left in cut.tensors.items():
        path, _, tensor = name.rpartition(".")
        owner = twin.get_submodule(path)
        old = owner._parameters.get(tensor)
        if old is None:
            continue
        if id(old) not in made:
            made[id(old)] = nn.Parameter(left.zeroed(old.detach()), requires_grad=False)
        owner._parameters[tensor] = made[id(old)]

    for path in norms_over_channels(cut):
        twin.set_submodule(path, _OverLeft(copy.deepcopy(cut_net.get_submodule(path)), cut.sites[f"{path}:input"]))
    return twin


def norms_over_channels(cut: Cut) -> list[str]:
    """Return the paths of norms whose statistics run over channels of which the cut removes some."""
    return [p for p, a in cut.attributes.items() if "normalized_shape" in a or "num_channels" in a]


class _OverLeft(nn.Module):
    """A norm whose statistics leave out the channels that a cut removes; these come out as zero."""

    def __init__(self, norm: nn.Module, site: Channels) -> None:
        super().__init__()
        self.norm, self.site = norm, site

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the input's shape."""
        seen = self.norm(x.index_select(self.site.axis, self.site.kept))
        return torch.zeros_like(x).index_copy(x.dim() + self.site.axis, self.site.kept, seen)


def difference(cut: Cut, net: nn.Module, example: Any, forward: Forward) -> float:
    """Return how far the cut net's outputs are from the masked one's, see :func:`gap`.

    :param net: without transforms on weights, in eval mode; not changed.
    """
    after = lent(net)
    apply(cut, after)
    return gap(masked(cut, net, after), after, example, forward)


def gap(before: nn.Module, after: nn.Module, example: Any, forward: Forward) -> float:
    """Return the largest difference between two nets' outputs, over the largest of that output where it is above 1.

    :param forward: returns a tree, whose floats are all compared.
    :raises MethodError: if the outputs have different shapes.
    """
    want, got = (_floats(_drawn_alike(net, example, forward)) for net in (before, after))
    shapes, left = ([tuple(t.shape) for t in outputs] for outputs in (want, got))
    if shapes != left:
        raise MethodError(f"the outputs have shapes {left} after the cut, {shapes} before")

    # Not the builtin max, which would pass over what is no number.
    gaps = [(w - g).abs().max() / w.abs().max().clamp_min(1.0) for w, g in zip(want, got, strict=True)]
    return float(torch.stack(gaps).max())


def _drawn_alike(net: nn.Module, example: Any, forward: Forward) -> Any:
    """Return a net's outputs; one that draws in eval mode too draws the same each time."""
    with torch.no_grad(), generators_kept():
        seed_generators(0)
        return forward(net, example)


def _floats(tree: Any) -> list[Tensor]:
    """Return the floats of a tree, without those that have no entry."""
    return [t for t in tensors_in(tree) if t.is_floating_point() and t.numel()]


def verify(cut: Cut, found: float, dtype: torch.dtype) -> Cut:
    """Write a found difference into a cut.

    :raises MethodError: if it is too large, or not a number.
    """
    if not found <= TOLERANCE[dtype]:
        changed = ", ".join(list(cut.attributes)[:4])
        raise MethodError(f"the cut net differs by {found:.1e} from the masked one; changed: {changed}...")
    over = norms_over_channels(cut)
    if over:
        cut.unproven = (
            f"{over[0]} takes its statistics over channels: the cut net equals the masked one "
            "if these leave out the removed channels, as it does here"
        )
    cut.difference = found
    return cut


def casted(value: Any, dtype: torch.dtype) -> Any:
    """Return example inputs on the CPU, floats in another precision."""
    return map_tensors(lambda t: t.to("cpu", dtype) if t.is_floating_point() else t.cpu(), value)


class Precise(NamedTuple):
    """A plain copy of a net, and inputs for it.

    :param renamed: by tensor of a layer's stand-in, those of the net that lose the same entries.
    """

    net: nn.Module
    example: Any
    renamed: dict[str, list[str]]


def precise(model: nn.Module, example: Any, forward: Forward) -> Precise:
    """Return a plain copy in eval mode and inputs for it, in float64 where the net can run so.

    :raises UsageError: if it runs in float32 neither: a cut is proven in one of the two.
    """
    for dtype in (torch.float64, torch.float32):
        net, inputs = plain(model).cpu().to(dtype).eval(), casted(example, dtype)
        renamed = put_stand_ins(net)
        with_gradients(net, wanted=True)

        # Some nets cast inside their forward and fail in float64, those that compute in half precision in float32 too.
        try:
            with torch.no_grad():
                forward(net, inputs)
        except CondenseryError:
            raise
        except RuntimeError as error:
            if dtype == torch.float32:
                why = str(error).partition("\n")[0]
                raise UsageError(
                    f"a cut is proven in float64 or float32, and the net runs in neither: {why}"
                ) from error
        else:
            break
    return Precise(net, inputs, renamed)
