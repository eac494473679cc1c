"""Which tensors of a module are its weights, and how their axes lie: as data, by the name of the module's class.

What core knows of torch's own classes stands here; plugins add others by ``register_weighted``. A subclass has its
nearest base's weights unless something is said of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.utils import parametrize

from condensery.contract import Registry

Axes = tuple[int, int]
"""The axis of a weight along which the layer's outputs lie, and the one of its inputs."""
Row = Mapping[str, Axes]
"""What is known of one class: by the name of a tensor, or a pattern of names, its axes."""

_CONV = "torch.nn.modules.conv"
_EMBEDDINGS: Mapping[str, Row] = {
    "torch.nn.modules.sparse.Embedding": {"weight": (1, 0)},
    "torch.nn.modules.sparse.EmbeddingBag": {"weight": (1, 0)},
}
BUILT_IN: Mapping[str, Row] = {
    "torch.nn.modules.linear.Linear": {"weight": (0, 1)},
    "torch.nn.modules.linear.Bilinear": {"weight": (0, 1)},
    **{f"{_CONV}.Conv{n}d": {"weight": (0, 1)} for n in (1, 2, 3)},
    **{f"{_CONV}.ConvTranspose{n}d": {"weight": (1, 0)} for n in (1, 2, 3)},
    # Of a recurrent layer the matrices of all gates stand above each other, and so do query, key and value below.
    "torch.nn.modules.rnn.RNNBase": {"weight_*": (0, 1)},
    "torch.nn.modules.rnn.RNNCellBase": {"weight_*": (0, 1)},
    "torch.nn.modules.activation.MultiheadAttention": {"in_proj_weight": (0, 1), "[qkv]_proj_weight": (0, 1)},
    **_EMBEDDINGS,
}


class Reach:
    """What is known of classes of modules.

    :param offered: by qualified name of a class, what plugins say of it; of torch's own classes core says it.
    """

    def __init__(self, offered: Mapping[str, Row] | None = None) -> None:
        self._rows = {**(offered or {}), **BUILT_IN}

    @classmethod
    def of(cls, registry: Registry) -> Reach:
        """Return what core and the plugins of a registry know."""
        return cls({key: entry.target for key, entry in registry.entries["weighted"].items()})

    def tensors(self, module: nn.Module, tensor: str = "weight", *, asked: bool = True) -> dict[str, Axes]:
        """Return the names of a module's weights, each with its axes; of its biases for ``tensor="bias"``.

        :param asked: embeddings have weights too; ``False``: only what every method compresses.
        """
        name = self._known(module)
        if name is None or (name in _EMBEDDINGS and not asked):
            return {}

        patterns = {p.replace("weight", tensor): axes for p, axes in self._rows[name].items()}
        found = {n: axes for n in parameters_of(module) for p, axes in patterns.items() if fnmatchcase(n, p)}
        return dict(sorted(found.items()))

    def _known(self, module: nn.Module) -> str | None:
        """Return the name of the nearest class of a module of which something is known."""
        classes = parametrize.type_before_parametrizations(module).__mro__
        names = (f"{cls.__module__}.{cls.__qualname__}" for cls in classes)
        return next((name for name in names if name in self._rows), None)


def parameters_of(module: nn.Module) -> list[str]:
    """Return the names of a module's own parameters, with or without transforms."""
    own = [name for name, value in module._parameters.items() if value is not None]
    return [*own, *module.parametrizations] if parametrize.is_parametrized(module) else own  # type: ignore[misc]
