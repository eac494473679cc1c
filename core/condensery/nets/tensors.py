"""The tensors of a net's layers, as methods see them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.nets.transforms import Stack, Transform, latent_of, stack_of

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEARS: tuple[type[nn.Module], ...] = (nn.Linear,)
WEIGHTED = CONVS + LINEARS
BATCH_NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """One tensor of a layer, as methods see it.

    :param path: of the module, ``layer1.0.conv1``.
    :param tensor: ``weight`` or ``bias``.
    """

    path: str
    module: nn.Module
    tensor: str

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
        """The same, each under the path of its layer."""
        return {weight.path: weight for weight in self}


def weights_of(net: nn.Module, kinds: tuple[type[nn.Module], ...], tensor: str) -> Weights:
    """Return the weights of a net's layers, in the net's order; a tied one is listed where it comes first."""
    found, seen = Weights(), set()
    for path, module in net.named_modules():
        if not isinstance(module, kinds):
            continue
        if module._parameters.get(tensor) is None and not parametrize.is_parametrized(module, tensor):
            continue
        weight = Weight(path, module, tensor)
        if id(weight.latent) not in seen:
            seen.add(id(weight.latent))
            found.append(weight)
    return found
