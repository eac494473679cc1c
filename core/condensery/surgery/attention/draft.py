"""A cut in the making: which rows, columns and entries stay, by module and tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condensery.errors import UsageError
from condensery.surgery import Channels, Cut, Left
from condensery.surgery import axis as axis_of
from condensery.surgery.attention.projections import class_of, layout


def kept(count: int, gone: Iterable[int]) -> Tensor:
    """Return the numbers below ``count`` that stay, ascending, int64 of shape ``(left,)``."""
    left = set(gone)
    return torch.tensor([i for i in range(count) if i not in left], dtype=torch.long)


class Draft:
    """Collects what stays, and makes one :class:`Cut` of it.

    :param net: without transforms; not changed.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._kept: dict[str, dict[int, Tensor]] = {}
        self._factors: dict[str, Tensor] = {}
        self._attributes: dict[str, dict[str, tuple[Any, Any]]] = {}
        self._sites: dict[str, Channels] = {}
        self._children: dict[str, list[str]] = {}

    def rows(self, path: str, keep: Tensor, factor: Tensor | None = None) -> None:
        """Keep outputs of a projection.

        :param keep: int64 ``(left,)``, ascending.
        :param factor: ``(left,)``: for each kept output, what its weights and bias are multiplied with.
        """
        module, where = layout(self.net, path)
        old = int(getattr(module, where.outs))
        self._kept.setdefault(f"{path}.weight", {})[where.out_axis] = keep
        if module.bias is not None:
            self._kept.setdefault(f"{path}.bias", {})[0] = keep

        if factor is not None:
            shape = [1] * module.weight.dim()  # type: ignore[operator]
            shape[where.out_axis] = len(factor)
            self._factors[f"{path}.weight"] = factor.view(shape)
            if module.bias is not None:
                self._factors[f"{path}.bias"] = factor

        self.attribute(path, where.outs, len(keep))
        self._sites[f"{path}:output"] = Channels(old, keep, axis_of(module))

    def columns(self, path: str, keep: Tensor) -> None:
        """Keep inputs of a projection.

        :param keep: int64 ``(left,)``, ascending.
        """
        module, where = layout(self.net, path)
        old = int(getattr(module, where.ins))
        self._kept.setdefault(f"{path}.weight", {})[where.in_axis] = keep
        self.attribute(path, where.ins, len(keep))
        self._sites[f"{path}:input"] = Channels(old, keep, axis_of(module))

    def entries(self, name: str, axis: int, keep: Tensor) -> None:
        """Keep entries of one parameter or buffer along one axis.

        :param keep: int64 ``(left,)``, ascending.
        """
        path, _, tensor = name.rpartition(".")
        dims = getattr(self.net.get_submodule(path), tensor).dim()
        self._kept.setdefault(name, {})[axis % dims] = keep

    def batch_norm(self, path: str, keep: Tensor) -> None:
        """Keep channels of a batch normalization.

        :param keep: int64 ``(left,)``, ascending.
        :raises UsageError: if it is none: other norms would count the channels that go.
        """
        module = self.net.get_submodule(path)
        if not isinstance(module, _BatchNorm):
            raise UsageError(f"{path!r} is a {class_of(module)}: its channels can't be cut")

        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            # The count of batches is a plain number, which all channels share.
            if tensor.dim():
                self.entries(f"{path}.{name}", 0, keep)
        self.attribute(path, "num_features", len(keep))
        site = Channels(module.num_features, keep, axis_of(module))
        self._sites |= {f"{path}:input": site, f"{path}:output": site}

    def attribute(self, path: str, name: str, value: Any) -> None:
        """Set a plain attribute, if the module has it and it differs."""
        old = vars(self.net.get_submodule(path)).get(name)
        if old is not None and (old != value or type(old) is not type(value)):
            self._attributes.setdefault(path, {})[name] = (old, value)

    def forget(self, path: str, name: str) -> None:
        """Empty a dict that a net fills anew as it runs."""
        self._attributes.setdefault(path, {})[name] = ({}, {})

    def children(self, path: str, names: Iterable[str]) -> None:
        """Keep children of a container, under their names."""
        self._children[path] = list(names)

    def cut(self) -> Cut:
        """Return the cut; tensors that keep everything are not in it."""
        tensors = {}
        for name, axes in self._kept.items():
            path, _, tensor = name.rpartition(".")
            whole = getattr(self.net.get_submodule(path), tensor)

            # The tensor's own flat indices are cut along each axis: what is left of them says what is kept.
            left = torch.arange(whole.numel()).view(whole.shape)
            for axis, keep in axes.items():
                left = left.index_select(axis, keep)
            if left.shape != whole.shape:
                tensors[name] = Left(tuple(whole.shape), tuple(left.shape), left.flatten())

        sites = {target: site for target, site in self._sites.items() if len(site.kept) != site.old}
        factors = {name: factor for name, factor in self._factors.items() if name in tensors}
        return Cut(tensors, self._attributes, sites, factors=factors, children=self._children)
