"""Which classes of attention nets are known, by what the plugins offer."""

from __future__ import annotations

import contextlib
from typing import TypeVar

from torch import nn

from condensery.contract import Registry
from condensery.errors import PluginError, UsageError
from condensery.surgery.attention.projections import class_of, find
from condensery.surgery.attention.rows import Row

KIND = "attention"
R = TypeVar("R", bound=Row)


class KnownClasses:
    """The rows that the plugins offer; a row is loaded when a net has its class."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def row(self, module: nn.Module, kind: type[R]) -> R | None:
        """Return what is known of a module's class, or ``None`` if it isn't known to be of this kind.

        :raises PluginError: naming the plugin whose row can't be loaded, or is none.
        """
        return self._row(class_of(module), kind)

    def required(self, net: nn.Module, path: str, kind: type[R]) -> R:
        """Return what is known of the class of one module.

        :raises UsageError: if there is no such module, or its class isn't known to be of this kind.
        """
        module = find(net, path)
        if module is None:
            raise UsageError(f"the net has no module {path!r}")

        row = self.row(module, kind)
        if row is None:
            raise UsageError(f"module {path!r} is a {class_of(module)}; {self.named(kind)}")
        return row

    def named(self, kind: type[Row]) -> str:
        """Return in words which classes of one kind are known."""
        names = []
        for name in self._registry.keys(KIND):
            # A row that can't be loaded stops nobody but the nets that have its class.
            with contextlib.suppress(PluginError):
                if self._row(name, kind) is not None:
                    names.append(".".join(name.split(".")[-2:]))
        return f"known {kind.what} classes: {', '.join(names) or 'none'}"

    def _row(self, name: str, kind: type[R]) -> R | None:
        if name not in self._registry.entries[KIND]:
            return None

        found = self._registry.load(KIND, name)
        if not isinstance(found, Row):
            entry = self._registry.find(KIND, name)
            raise PluginError(
                f"plugin {entry.plugin!r}: {KIND} {name!r}: {entry.target} must be an Attention, an Mlp or a Block, "
                f"not {type(found).__name__}"
            )
        return found if isinstance(found, kind) else None
