"""Neurons of MLPs: a row for each known class, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import nn

from condensery.errors import UsageError
from condensery.surgery.attention.draft import BERTS, HF, LLAMAS, Draft, class_of, inputs, join, kept, outputs, row_of
from condensery.surgery.attention.heads import checked


class Mlp(NamedTuple):
    """Where an MLP keeps its neurons.

    :param up: names of the projections that make them (two where one gates the other).
    :param down: name of the one that reads them; ``../`` goes up from the module.
    :param norm: name of a batch normalization between, if any.
    :param plain: name of a module that must do nothing: a norm over the neurons would count removed ones.
    :param size: name of an attribute that counts them.
    """

    up: tuple[str, ...]
    down: str
    norm: str | None = None
    plain: str | None = None
    size: str | None = None


MLPS = {
    "timm.layers.mlp.Mlp": Mlp(("fc1",), "fc2", plain="norm"),
    "timm.models.efficientformer.ConvMlpWithNorm": Mlp(("fc1",), "fc2", norm="norm1"),
    **{f"{name}Intermediate": Mlp(("dense",), "../output.dense") for name in BERTS},
    f"{HF}deberta_v2.modeling_deberta_v2.DebertaV2Intermediate": Mlp(("dense",), "../output.dense"),
    f"{HF}deit.modeling_deit.DeiTMLP": Mlp(("fc1",), "fc2"),
    f"{HF}distilbert.modeling_distilbert.FFN": Mlp(("lin1",), "lin2"),
    f"{HF}gpt2.modeling_gpt2.GPT2MLP": Mlp(("c_fc",), "c_proj"),
    **{f"{name}MLP": Mlp(("gate_proj", "up_proj"), "down_proj", size="intermediate_size") for name in LLAMAS},
    f"{HF}vit.modeling_vit.ViTMLP": Mlp(("fc1",), "fc2"),
}


@dataclasses.dataclass(frozen=True)
class Neurons:
    """The neurons of one MLP.

    :param neurons: how many there are.
    :param up: paths of the projections that make them, ``down`` of the one that reads them.
    :param reason: why none can be removed, or ``None``.
    """

    path: str
    neurons: int
    up: tuple[str, ...]
    down: str
    reason: str | None = None


def neurons_of(net: nn.Module) -> list[Neurons]:
    """Return the known MLPs of a net, in its order; ``reason`` tells which can't be cut."""
    return [mlp_of(net, path) for path, module in net.named_modules() if class_of(module) in MLPS]


def mlp_of(net: nn.Module, path: str) -> Neurons:
    """Return one MLP.

    :raises UsageError: if there is none, or its class isn't known.
    """
    module, row = row_of(net, path, MLPS, "MLP")
    up, down = tuple(join(path, n) for n in row.up), join(path, row.down)
    reason = None
    if row.plain is not None and type(getattr(module, row.plain)) is not nn.Identity:
        reason = f"{join(path, row.plain)} takes its statistics over the neurons"
    try:
        counts = {outputs(net, p) for p in up} | {inputs(net, down)}
    except UsageError as error:
        return Neurons(path, 0, up, down, str(error))
    if len(counts) > 1:
        raise UsageError(f"{path!r}: its projections have {' and '.join(map(str, sorted(counts)))} neurons")
    return Neurons(path, counts.pop(), up, down, reason)


def draft_neurons(draft: Draft, removed: Mapping[str, Sequence[int]]) -> int:
    """Draft the removal of neurons; returns how many go.

    :param removed: numbers of neurons, by path.
    :raises UsageError: if an MLP can't lose neurons, or would lose all.
    """
    count = 0
    for path, indices in removed.items():
        mlp = mlp_of(draft.net, path)
        if mlp.reason is not None:
            raise UsageError(f"{path!r} can't lose neurons: {mlp.reason}")
        keep = kept(mlp.neurons, checked(path, "neurons", indices, mlp.neurons))
        row = MLPS[class_of(draft.net.get_submodule(path))]
        for up in mlp.up:
            draft.rows(up, keep)
        if row.norm is not None and type(draft.net.get_submodule(join(path, row.norm))) is not nn.Identity:
            draft.norm(join(path, row.norm), keep)
        draft.columns(mlp.down, keep)
        if row.size is not None:
            draft.attribute(path, row.size, len(keep))
        count += mlp.neurons - len(keep)
    return count
