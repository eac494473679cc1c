"""The tensors of a net's layers, as methods see them."""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch
from torch import Tensor, nn

from condensery.nets.reach import Axes, Reach, parameters_of
from condensery.nets.transforms import Stack, Transform, latent_of, stack_of

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEARS: tuple[type[nn.Module], ...] = (nn.Linear,)
BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One tensor of a layer, as methods see it.

    :param path: of the module, ``layer1.0.conv1``. A recurrent or attention layer has several weights under one path.
    :param tensor: ``weight``, ``bias``, ``weight_ih_l0``...
    :param axes: of a weight: the axis of the layer's outputs, and that of its inputs.
    """

    path: str
    module: nn.Module
    tensor: str
    axes: Axes = (0, 1)

    @property
    def name(self) -> str:
        """Path and tensor: the target of a transform."""
        return f"{self.path}.{self.tensor}" if self.path else self.tensor

    @property
    def latent(self) -> nn.Parameter:
        """The trained Parameter, as it is now: criteria by size, writes, gradients."""
        return latent_of(self.module, self.tensor)

    @property
    def value(self) -> Tensor:
        """What the layer uses, through all transforms; read-only."""
        return getattr(self.module, self.tensor).detach()  # type: ignore[no-any-return]

    def rows(self, values: Tensor) -> Tensor:
        """Return one row for each output of the layer: ``(outputs, inputs of a group, ...)``, whatever its class.

        :param values: of the weight's shape: its latent, its gradient, a mask.
        """
        rows = values.movedim(self.axes, (0, 1))
        # A transposed convolution has its groups side by side along the inputs, and the outputs of one group only.
        groups, (outputs, inputs, *rest) = self._beside, rows.shape
        return rows.reshape(outputs, groups, inputs // groups, *rest).movedim(1, 0).flatten(0, 1)

    def from_rows(self, rows: Tensor) -> Tensor:
        """Undo :meth:`rows`: return numbers of shape ``(outputs, inputs of a group, ...)`` in the weight's shape."""
        groups, (outputs, *rest) = self._beside, rows.shape
        beside = rows.reshape(groups, outputs // groups, *rest).movedim(0, 1).flatten(1, 2)
        return beside.movedim((0, 1), self.axes)

    @property
    def _beside(self) -> int:
        return int(getattr(self.module, "groups", 1)) if self.axes == (1, 0) else 1

    @property
    def stack(self) -> Stack | None:
        """The transforms on it, if any."""
        return stack_of(self.module, self.tensor)

    @property
    def alive(self) -> Tensor:
        """True where no transform holds the value at zero; of the latent's shape."""
        alive = torch.ones_like(self.latent, dtype=torch.bool)
        for transform in self.stack.transforms.values() if self.stack is not None else ():
            held = transform.alive(self.latent) if isinstance(transform, Transform) else None
            if held is not None:
                alive &= held
        return alive


class Weights(list[Weight]):
    """Some weights of a net, in its order."""

    @property
    def by_path(self) -> dict[str, Weight]:
        """Those that are the only one of their layer here, each under its path: recurrent layers are left out."""
        times = Counter(self.paths)
        return {weight.path: weight for weight in self if times[weight.path] == 1}

    @property
    def paths(self) -> list[str]:
        """The path of each one's layer, in order."""
        return [weight.path for weight in self]


def weights_of(
    net: nn.Module,
    kinds: tuple[type[nn.Module], ...] | None = None,
    tensor: str = "weight",
    reach: Reach | None = None,
) -> Weights:
    """Return the weights of a net's layers, in the net's order; a tied one is listed where it comes first.

    :param kinds: classes of modules; by default all that are known to have weights, but for embeddings.
    :param tensor: ``weight`` or ``bias``; of another kind of layer than the known ones the name of its tensor.
    :param reach: what is known of classes; by default torch's own.
    """
    known = reach or Reach()
    found, seen = Weights(), set()
    for path, module in net.named_modules():
        if kinds is not None and not isinstance(module, kinds):
            continue
        names = known.tensors(module, tensor, asked=kinds is not None)
        if not names and kinds is not None and tensor in parameters_of(module):
            names = {tensor: (0, 1)}

        for name, axes in names.items():
            weight = Weight(path, module, name, axes)
            if id(weight.latent) not in seen:
                seen.add(id(weight.latent))
                found.append(weight)
    return found
