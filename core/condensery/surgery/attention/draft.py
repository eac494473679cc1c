"""A cut in the making: which rows, columns and entries stay, by module and tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from condensery.errors import UsageError
from condensery.surgery import Channels, Cut, Left
from condensery.surgery import axis as axis_of

T = TypeVar("T")
HF = "transformers.models."
BERTS: tuple[str, ...] = (
    f"{HF}bert.modeling_bert.Bert",
    f"{HF}electra.modeling_electra.Electra",
    f"{HF}roberta.modeling_roberta.Roberta",
)
"""How the names of classes begin that are made like BERT's; ``LLAMAS``: like Llama's."""
LLAMAS: tuple[str, ...] = (
    f"{HF}llama.modeling_llama.Llama",
    f"{HF}mistral.modeling_mistral.Mistral",
    f"{HF}qwen2.modeling_qwen2.Qwen2",
)


class Layout(NamedTuple):
    """Where a projection keeps its outputs and inputs: axes of the weight, and the attributes that count them."""

    out_axis: int
    in_axis: int
    outs: str
    ins: str


PROJECTIONS = {
    "torch.nn.modules.linear.Linear": Layout(0, 1, "out_features", "in_features"),
    "torch.nn.modules.conv.Conv2d": Layout(0, 1, "out_channels", "in_channels"),
    "transformers.pytorch_utils.Conv1D": Layout(1, 0, "nf", "nx"),
}
RMS_NORMS: dict[str, str] = {f"{name}RMSNorm": "variance_epsilon" for name in LLAMAS}
"""Norms without a mean, with the name of their epsilon."""
SCALES = ("timm.layers.layer_scale.LayerScale", "timm.layers.layer_scale.LayerScale2d")
"""A factor for each channel."""


def class_of(module: nn.Module) -> str:
    """Return the qualified name of a module's class, transforms left aside."""
    cls = parametrize.type_before_parametrizations(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def join(path: str, name: str) -> str:
    """Put a name behind a path; each ``../`` in front of the name goes up one module."""
    while name.startswith("../"):
        path, name = path.rpartition(".")[0], name[3:]
    return f"{path}.{name}" if path else name


def find(net: nn.Module, path: str) -> nn.Module | None:
    """Return a submodule, or ``None``."""
    try:
        return net.get_submodule(path)
    except AttributeError:
        return None


def known_classes(table: Iterable[str], what: str) -> str:
    """Return which classes a table knows, in words."""
    return f"known {what} classes: {', '.join(sorted(n.removeprefix(HF) for n in table))}"


def row_of(net: nn.Module, path: str, table: Mapping[str, T], what: str) -> tuple[nn.Module, T]:
    """Return a module and the row of its class in a table.

    :param what: the table is of, in words.
    :raises UsageError: if there is no such module, or its class isn't known.
    """
    module = find(net, path)
    if module is None:
        raise UsageError(f"the net has no module {path!r}")
    row = table.get(class_of(module))
    if row is None:
        raise UsageError(f"module {path!r} is a {class_of(module)}; {known_classes(table, what)}")
    return module, row


def layout(net: nn.Module, path: str) -> tuple[nn.Module, Layout]:
    """Return a projection and its layout.

    :raises UsageError: if there is none, or it isn't exactly a plain one: a wrapped or quantized layer keeps its
        numbers elsewhere.
    """
    module = find(net, path)
    if module is None:
        raise UsageError(f"the net has no layer {path!r}")
    found = PROJECTIONS.get(class_of(module))
    if found is None or getattr(module, "groups", 1) != 1:
        known = ", ".join(n.rpartition(".")[2] for n in PROJECTIONS)
        raise UsageError(f"layer {path!r} is a {class_of(module)}; only a plain {known} can be cut")
    return module, found


def outputs(net: nn.Module, path: str) -> int:
    """Return how many outputs a projection has."""
    module, where = layout(net, path)
    return int(getattr(module, where.outs))


def inputs(net: nn.Module, path: str) -> int:
    """Return how many inputs a projection has."""
    module, where = layout(net, path)
    return int(getattr(module, where.ins))


def kept(width: int, gone: Iterable[int]) -> Tensor:
    """Return the numbers below ``width`` that stay, ascending, as int64."""
    left = set(gone)
    return torch.tensor([i for i in range(width) if i not in left], dtype=torch.long)


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

        :param keep: int64, ascending.
        :param factor: for each kept output, what its weights and bias are multiplied with.
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
        """Keep inputs of a projection."""
        module, where = layout(self.net, path)
        old = int(getattr(module, where.ins))
        self._kept.setdefault(f"{path}.weight", {})[where.in_axis] = keep
        self.attribute(path, where.ins, len(keep))
        self._sites[f"{path}:input"] = Channels(old, keep, axis_of(module))

    def entries(self, name: str, axis: int, keep: Tensor) -> None:
        """Keep entries of one parameter or buffer along one axis."""
        path, _, tensor = name.rpartition(".")
        dims = getattr(self.net.get_submodule(path), tensor).dim()
        self._kept.setdefault(name, {})[axis % dims] = keep

    def norm(self, path: str, keep: Tensor) -> None:
        """Keep channels of a norm, of an embedding, or of a scale for each channel.

        :raises UsageError: for any other class.
        """
        module = self.net.get_submodule(path)
        names = [
            n for n, t in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)] if t.dim()
        ]
        if isinstance(module, nn.LayerNorm):
            self.attribute(path, "normalized_shape", (*module.normalized_shape[:-1], len(keep)))
        elif isinstance(module, _BatchNorm):
            self.attribute(path, "num_features", len(keep))
        elif isinstance(module, nn.Embedding):
            self.attribute(path, "embedding_dim", len(keep))
        elif class_of(module) in RMS_NORMS:
            width = module.weight.numel()  # type: ignore[operator]
            ratio = width / len(keep)
            epsilon = RMS_NORMS[class_of(module)]
            self.attribute(path, epsilon, getattr(module, epsilon) * ratio)
            # Zeros count in the mean square: without them it grows by the ratio.
            self._factors[f"{path}.weight"] = torch.full((len(keep),), ratio**0.5, dtype=torch.float64)
        elif class_of(module) not in SCALES:
            raise UsageError(f"{path!r} is a {class_of(module)}: its channels can't be cut")
        for name in names:
            self.entries(f"{path}.{name}", -1, keep)
        site = Channels(_channels(module), keep, axis_of(module))
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
            shape = tuple(getattr(self.net.get_submodule(path), tensor).shape)
            left = torch.arange(int(torch.tensor(shape).prod())).view(shape)
            for axis, keep in axes.items():
                left = left.index_select(axis, keep)
            if tuple(left.shape) != shape:
                tensors[name] = Left(shape, tuple(left.shape), left.flatten())
        sites = {t: s for t, s in self._sites.items() if len(s.kept) != s.old}
        factors = {n: f for n, f in self._factors.items() if n in tensors}
        return Cut(tensors, self._attributes, sites, factors=factors, children=self._children)


def _channels(module: nn.Module) -> int:
    value = next(t for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)] if t.dim())
    return int(value.shape[-1])
