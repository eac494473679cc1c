"""Registered layers: modules that stand in for plain ones and are rebuilt from a JSON config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from condensery.errors import UsageError


class Layer(nn.Module, ABC):
    """A module that a method puts in a plain one's place (``stage.replace``), offered by ``register_layers``.

    Checkpoints and artifacts note its path, key and config, build ``Class(**config)`` again and fill in its tensors.
    """

    key: ClassVar[str] = ""
    """Set when the registry loads the class; how a manifest names it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON arguments that build this layer again; its tensors come from the state."""

    def counted(self) -> dict[str, Tensor]:
        """Return by name what counts as its parameters, zero for zero; a layer without any names its stored numbers."""
        return dict(self.named_parameters(recurse=False))

    def bake(self) -> nn.Module:
        """Return what stands in its place when the recipe ends: a registered layer, a plain module, or itself."""
        return self


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in another one's place.

    :raises UsageError: if the net has no module there, or ``path`` is the net itself.
    """
    parent, _, name = path.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError:
        raise UsageError(f"the net has no module {path!r}") from None
    if not name or name not in owner._modules:
        raise UsageError(f"the net has no module {path!r}")
    owner._modules[name] = module
