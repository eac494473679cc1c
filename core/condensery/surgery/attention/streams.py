"""Width: the residual stream of a stack of layers, and everything that writes to it and reads it.

Shapes don't tell what belongs to a stream: BERT's pooler and classifier are as wide by accident. So each net's class
has a row that names its parts; the layers' own parts come from :mod:`condensery.surgery.attention.blocks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.blocks import BLOCKS
from condensery.surgery.attention.draft import (
    BERTS,
    HF,
    LLAMAS,
    Draft,
    class_of,
    find,
    inputs,
    join,
    kept,
    known_classes,
    outputs,
)
from condensery.surgery.attention.heads import checked
from condensery.surgery.attention.neurons import mlp_of
from condensery.surgery.attention.views import view_of


@dataclasses.dataclass(frozen=True)
class Stream:
    """What hangs on one residual stream, by path.

    :param layers: path of the list of layers.
    :param rows: projections that write it.
    :param columns: projections that read it, and how many copies of it side by side.
    :param norms: norms and embeddings of its channels, and how many copies of it.
    :param tensors: parameters of its width, on their last axis.
    :param counts: attributes that count its channels.
    :param reason: why it can't be narrowed, or ``None``.
    """

    layers: str
    rows: tuple[str, ...] = ()
    columns: tuple[tuple[str, int], ...] = ()
    norms: tuple[tuple[str, int], ...] = ()
    tensors: tuple[str, ...] = ()
    counts: tuple[tuple[str, str], ...] = ()
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Width:
    """The width of one stack of layers.

    :param layers: path of the list of layers.
    :param channels: of its residual stream.
    :param reason: why none can be removed, or ``None``.
    """

    layers: str
    channels: int
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Head:
    """What a net puts behind a model that it holds, by names inside it.

    :param model: the model's name.
    :param both: projections from the stream to something of the same width that isn't it, but is tied to it.
    """

    model: str
    columns: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


def _timm_vit(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
    pool = None if getattr(m, "attn_pool", None) is None else "its pooling is an attention of another class"
    return [
        _present(
            net,
            path,
            layers="blocks",
            rows=("patch_embed.proj",),
            columns=("head", "head_dist"),
            norms=("patch_embed.norm", "norm_pre", "norm", "fc_norm"),
            tensors=("cls_token", "reg_token", "dist_token", "pos_embed"),
            counts=("embed_dim", "num_features", "head_hidden_size"),
            reason=pool,
        )
    ]


def _swin(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
    found = []
    stages = [n for n, _ in m.layers.named_children()]  # type: ignore[union-attr]
    for place, stage in enumerate(stages):
        after = stages[place + 1] if place + 1 < len(stages) else None
        merge = f"layers.{after}.downsample"
        found.append(
            _present(
                net,
                path,
                layers=f"layers.{stage}.blocks",
                rows=(f"layers.{stage}.downsample.reduction",) if place else ("patch_embed.proj",),
                columns=("head.fc",) if after is None else (f"{merge}.reduction",),
                norms=(*(() if place else ("patch_embed.norm",)), "norm" if after is None else f"{merge}.norm"),
                copies={f"{merge}.reduction": 4, f"{merge}.norm": 4},  # four neighbours are merged into one
            )
        )
    return found


def _mobilevit(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
    return [_present(net, path, layers="transformer", rows=("conv_1x1",), columns=("conv_proj.conv",), norms=("norm",))]


def _hf(
    layers: str,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    norms: Sequence[str] = (),
    tensors: Sequence[str] = (),
    counts: Sequence[str] = (),
) -> Adapter:
    def adapt(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
        parent = find(net, path.rpartition(".")[0]) if path else None
        head = None if parent is None else HEADS.get(class_of(parent))
        reason = None
        if parent is None:
            reason = "its channels are the net's outputs"
        elif head is None or join(path, f"../{head.model}") != path:
            reason = f"it is read by a {class_of(parent)}; {known_classes(HEADS, 'head')}"
        head = head or Head("")
        up = [f"../{n}" for n in (*head.columns, *head.both)]
        return [
            _present(
                net,
                path,
                layers=layers,
                rows=(*rows, *[f"../{n}" for n in head.both]),
                columns=(*columns, *up),
                norms=(*norms, *[f"../{n}" for n in head.norms]),
                tensors=tensors,
                counts=counts,
                reason=reason,
            )
        ]

    return adapt


def _deberta(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
    narrow = find(net, join(path, "embeddings.embed_proj")) is not None
    tables = () if narrow else tuple(f"embeddings.{n}_embeddings" for n in ("word", "position", "token_type"))
    inner = ("embeddings.LayerNorm", "encoder.rel_embeddings", "encoder.LayerNorm")
    adapt = _hf("encoder.layer", rows=("embeddings.embed_proj",), norms=(*tables, *inner))
    blocked = "its convolution reads it" if find(net, join(path, "encoder.conv")) is not None else None
    return [dataclasses.replace(s, reason=s.reason or blocked) for s in adapt(net, path, m)]


def _electra(net: nn.Module, path: str, m: nn.Module) -> list[Stream]:
    if find(net, join(path, "embeddings_project")) is None:
        return _LIKE_BERT(net, path, m)
    return _hf("encoder.layer", rows=("embeddings_project",))(net, path, m)


def _present(
    net: nn.Module,
    path: str,
    *,
    layers: str,
    rows: Iterable[str] = (),
    columns: Iterable[str] = (),
    norms: Iterable[str] = (),
    tensors: Iterable[str] = (),
    counts: Iterable[str] = (),
    copies: Mapping[str, int] | None = None,
    reason: str | None = None,
) -> Stream:
    """Return a stream with the parts that a net has; many are optional."""

    def there(names: Iterable[str]) -> list[str]:
        found = [(n, find(net, join(path, n))) for n in names]
        return [n for n, m in found if m is not None and type(m) is not nn.Identity]

    many = copies or {}
    owner = net.get_submodule(path)
    return Stream(
        join(path, layers),
        tuple(join(path, n) for n in there(rows)),
        tuple((join(path, n), many.get(n, 1)) for n in there(columns)),
        tuple((join(path, n), many.get(n, 1)) for n in there(norms)),
        tuple(join(path, n) for n in tensors if _tensor(owner, n) is not None),
        tuple((path, n) for n in counts),
        reason,
    )


def _tensor(owner: nn.Module, name: str) -> Tensor | None:
    at, _, tensor = name.rpartition(".")
    found = getattr(owner.get_submodule(at), tensor, None)
    return found if isinstance(found, Tensor) else None


Adapter = Callable[[nn.Module, str, nn.Module], list[Stream]]
_BERT, _ELECTRA, _ROBERTA = BERTS
_DISTIL = f"{HF}distilbert.modeling_distilbert."
_EMBEDDINGS = ("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings")
_LIKE_BERT = _hf("encoder.layer", columns=("pooler.dense",), norms=(*_EMBEDDINGS, "embeddings.LayerNorm"))
_VIT_TENSORS = tuple(
    f"embeddings.{n}" for n in ("cls_token", "mask_token", "distillation_token", "position_embeddings")
)
_VIT = _hf(
    "layers",
    rows=("embeddings.patch_embeddings.projection",),
    columns=("pooler.dense",),
    norms=("layernorm",),
    tensors=_VIT_TENSORS,
)
STREAMS: dict[str, Adapter] = {
    "timm.models.vision_transformer.VisionTransformer": _timm_vit,
    "timm.models.deit.VisionTransformerDistilled": _timm_vit,
    "timm.models.swin_transformer.SwinTransformer": _swin,
    "timm.models.mobilevit.MobileVitBlock": _mobilevit,
    f"{_BERT}Model": _LIKE_BERT,
    f"{_ROBERTA}Model": _LIKE_BERT,
    f"{_ELECTRA}Model": _electra,
    f"{_DISTIL}DistilBertModel": _hf("transformer.layer", norms=(*_EMBEDDINGS, "embeddings.LayerNorm")),
    f"{HF}deberta_v2.modeling_deberta_v2.DebertaV2Model": _deberta,
    f"{HF}deit.modeling_deit.DeiTModel": _VIT,
    f"{HF}gpt2.modeling_gpt2.GPT2Model": _hf("h", norms=("wte", "wpe", "ln_f"), counts=("embed_dim",)),
    **{f"{name}Model": _hf("layers", norms=("embed_tokens", "norm")) for name in LLAMAS},
    f"{HF}vit.modeling_vit.ViTModel": _VIT,
}
HEADS = {
    f"{_BERT}ForSequenceClassification": Head("bert"),
    f"{_ROBERTA}ForSequenceClassification": Head("roberta", ("classifier.dense",)),
    f"{_ELECTRA}ForSequenceClassification": Head("electra", ("classifier.dense",)),
    f"{_BERT}ForMaskedLM": Head(
        "bert",
        ("cls.predictions.decoder",),
        ("cls.predictions.transform.dense",),
        ("cls.predictions.transform.LayerNorm",),
    ),
    f"{_DISTIL}DistilBertForSequenceClassification": Head("distilbert", ("pre_classifier",)),
    f"{_DISTIL}DistilBertForMaskedLM": Head(
        "distilbert", ("vocab_projector",), ("vocab_transform",), ("vocab_layer_norm",)
    ),
    f"{HF}deberta_v2.modeling_deberta_v2.DebertaV2ForSequenceClassification": Head("deberta", ("pooler.dense",)),
    f"{HF}deit.modeling_deit.DeiTForImageClassification": Head("deit", ("classifier",)),
    f"{HF}deit.modeling_deit.DeiTForImageClassificationWithTeacher": Head(
        "deit", ("cls_classifier", "distillation_classifier")
    ),
    f"{HF}gpt2.modeling_gpt2.GPT2LMHeadModel": Head("transformer", ("lm_head",)),
    f"{HF}gpt2.modeling_gpt2.GPT2ForSequenceClassification": Head("transformer", ("score",)),
    **{f"{name}ForCausalLM": Head("model", ("lm_head",)) for name in LLAMAS},
    **{f"{name}ForSequenceClassification": Head("model", ("score",)) for name in LLAMAS},
    f"{HF}vit.modeling_vit.ViTForImageClassification": Head("vit", ("classifier",)),
}


def streams_of(net: nn.Module) -> dict[str, Stream]:
    """Return the streams of a net by the path of their layers."""
    found = [s for path, m in net.named_modules() if class_of(m) in STREAMS for s in STREAMS[class_of(m)](net, path, m)]
    return {s.layers: s for s in found}


def widths_of(net: nn.Module) -> list[Width]:
    """Return the stacks of layers whose width is known; ``reason`` tells which can't be narrowed."""
    found = []
    for stream in streams_of(net).values():
        try:
            found.append(Width(stream.layers, _whole(net, stream), stream.reason))
        except UsageError as error:
            found.append(Width(stream.layers, 0, str(error)))
    return found


def _whole(net: nn.Module, stream: Stream) -> int:
    """Return how many channels a stream has.

    :raises UsageError: naming a part with another number, or a layer of an unknown class.
    """
    rows, columns = _with_layers(net, stream)[:2]
    counts = {p: outputs(net, p) for p in rows} | {f"{p} (inputs)": inputs(net, p) // n for p, n in columns}
    width = next(iter(counts.values()))
    for part, count in counts.items():
        if count != width:
            raise UsageError(f"{part} has {count} channels, not the {width} of {stream.layers!r}")
    return width


def _with_layers(net: nn.Module, stream: Stream) -> tuple[list[str], list[tuple[str, int]], list[tuple[str, int]]]:
    """Return rows, columns and norms of a stream, the layers' own included."""
    rows, columns, norms = list(stream.rows), list(stream.columns), list(stream.norms)
    for name, layer in net.get_submodule(stream.layers).named_children():
        path = join(stream.layers, name)
        block = BLOCKS.get(class_of(layer))
        if block is None:
            raise UsageError(f"layer {path!r} is a {class_of(layer)}; {known_classes(BLOCKS, 'layer')}")
        if find(layer, "crossattention") is not None:
            raise UsageError(f"layer {path!r} attends to another sequence too, by what isn't known")
        if block.attention is not None:
            view = view_of(net, join(path, block.attention))
            columns += [(p, 1) for p in dict.fromkeys(part.module for part in (*view.q, *view.k, *view.v))]
            rows.append(view.out.module)
        mlp = mlp_of(net, join(path, block.mlp))
        columns += [(p, 1) for p in mlp.up]
        rows.append(mlp.down)
        inner = [(n, find(net, join(path, n))) for n in block.norms]
        norms += [(join(path, n), 1) for n, m in inner if m is not None and type(m) is not nn.Identity]
    return rows, columns, norms


def draft_width(draft: Draft, removed: Mapping[str, Sequence[int]]) -> int:
    """Draft the removal of channels of residual streams; returns how many go.

    :param removed: numbers of channels, by path of the list of layers.
    :raises UsageError: if a stream isn't known or can't be narrowed, with the reason.
    """
    net = draft.net
    streams = streams_of(net)
    count = 0
    for path, indices in removed.items():
        if path not in streams:
            raise UsageError(f"no stack of layers {path!r} whose width is known; {known_classes(STREAMS, 'model')}")
        stream = streams[path]
        if stream.reason is not None:
            raise UsageError(f"{path!r} can't lose width: {stream.reason}")
        width = _whole(net, stream)
        keep = kept(width, checked(path, "channels", indices, width))
        rows, columns, norms = _with_layers(net, stream)
        for module in rows:
            draft.rows(module, keep)
        for module, copies in columns:
            draft.columns(module, _repeated(keep, width, copies))
        for module, copies in norms:
            draft.norm(module, _repeated(keep, width, copies))
        for name in stream.tensors:
            draft.entries(name, -1, keep)
        for owner, name in stream.counts:
            draft.attribute(owner, name, len(keep))
        count += width - len(keep)
    return count


def _repeated(keep: Tensor, width: int, copies: int) -> Tensor:
    return torch.cat([keep + i * width for i in range(copies)])
