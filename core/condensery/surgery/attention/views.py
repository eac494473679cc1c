"""How each known attention class lays out its heads: a view for each module, by its exact class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.draft import BERTS, HF, LLAMAS, class_of, find, inputs, join, outputs, row_of


class Part(NamedTuple):
    """Where a projection keeps its heads.

    :param module: path.
    :param table: int64 ``(heads, dims)``: numbers of its outputs (of its inputs, for what follows the attention).
    """

    module: str
    table: Tensor


class Sizes(NamedTuple):
    """How many heads, heads of keys and values, and dimensions an attention has."""

    heads: int
    kv_heads: int
    dims: int
    value_dims: int


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One attention module.

    :param q: projections whose outputs are laid out like the queries, and so on; ``out`` reads the heads.
    :param attributes: new attributes of the module, given the sizes after the cut.
    :param scale: what divides the scores: ``given`` by an attribute that stays, read from the ``tensor`` when it runs,
        or ``both``, by an attribute in one mode and from the tensor in the other. All but the first need a factor on
        the queries when head dimensions go.
    :param per_head: tensors with an entry for each head, and their axes.
    :param rope: path of the rotary table, which turns dimension i together with i + dims / 2.
    :param tied: values must keep as many dimensions as queries and keys.
    :param blocked: why no head can go, if so; ``dims_blocked`` why no head dimension can.
    :param forgets: attributes that a pass fills and that a cut makes wrong.
    """

    path: str
    q: tuple[Part, ...]
    k: tuple[Part, ...]
    v: tuple[Part, ...]
    out: Part
    attributes: Callable[[Sizes], dict[str, Any]]
    scale: Literal["given", "tensor", "both"] = "given"
    per_head: tuple[tuple[str, int], ...] = ()
    rope: str | None = None
    tied: bool = True
    blocked: str | None = None
    dims_blocked: str | None = None
    forgets: tuple[str, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """Heads and dimensions, read off the tables."""
        heads, dims = self.q[0].table.shape
        kv_heads, value_dims = self.v[0].table.shape
        return Sizes(heads, kv_heads, dims, value_dims)


Adapter = Callable[[nn.Module, str, nn.Module], View]


def grid(heads: int, dims: int, start: int = 0, step: int | None = None) -> Tensor:
    """Return numbers ``(heads, dims)`` from ``start``, the heads ``step`` apart, by default side by side."""
    return start + torch.arange(heads)[:, None] * (step or dims) + torch.arange(dims)


def _identity(module: nn.Module, name: str) -> bool:
    return type(getattr(module, name, nn.Identity())) is nn.Identity


def _fused(net: nn.Module, path: str, name: str, heads: int) -> tuple[Part, Part, Part]:
    """Return q, k, v of one projection that is laid out ``(3, heads, dims)``."""
    module = join(path, name)
    rows = outputs(net, module) // 3
    q, k, v = (Part(module, grid(heads, rows // heads, i * rows)) for i in range(3))
    return q, k, v


def _timm(net: nn.Module, path: str, m: nn.Module) -> View:
    heads = int(m.num_heads)  # type: ignore[arg-type]
    q, k, v = _fused(net, path, "qkv", heads)
    gate = () if m.gate is None else (Part(join(path, "gate"), q.table),)
    whole = None if _identity(m, "norm") else "a norm takes its statistics over all heads"
    own = None if _identity(m, "q_norm") else "q_norm and k_norm take their statistics over the dimensions of a head"
    return View(
        path,
        (q,),
        (k,),
        (v, *gate),
        Part(join(path, "proj"), q.table),
        lambda s: {
            "num_heads": s.heads,
            "head_dim": s.dims,
            "attn_dim": s.heads * s.dims,
            **_rescaled(q.table.shape[1], s.dims),
        },
        scale="both",
        blocked=whole,
        dims_blocked=whole or own,
    )


def _rescaled(old: int, new: int) -> dict[str, float]:
    """Return the scale that fits a new head size; the fused kernel takes it from the tensor."""
    return {} if old == new else {"scale": new**-0.5}


def _timm_rope(net: nn.Module, path: str, m: nn.Module) -> View:
    heads, kv_heads = int(m.num_heads), int(m.num_kv_heads)  # type: ignore[arg-type]
    if m.qkv is not None:
        q, k, v = _fused(net, path, "qkv", heads)
    else:
        q, k, v = (
            _separate(net, path, n, h) for n, h in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads))
        )
    grouped = None if m.gate is None or heads == kv_heads else "a gate for each query head over grouped values"
    gate = () if m.gate is None else (Part(join(path, "gate"), grid(*q.table.shape)),)
    return View(
        path,
        (q,),
        (k,),
        (v, *gate),
        Part(join(path, "proj"), grid(*q.table.shape)),
        lambda s: {
            "num_heads": s.heads,
            "num_kv_heads": s.kv_heads,
            "num_kv_groups": s.heads // s.kv_heads,
            "attn_dim": s.heads * s.dims,
            "kv_dim": s.kv_heads * s.dims,
        },
        scale="both",
        blocked=grouped if _identity(m, "norm") else "a norm takes its statistics over all heads",
        dims_blocked="its rotary table belongs to the whole net",
    )


def _swin(net: nn.Module, path: str, m: nn.Module) -> View:
    q, k, v = _fused(net, path, "qkv", int(m.num_heads))  # type: ignore[arg-type]
    return View(
        path,
        (q,),
        (k,),
        (v,),
        Part(join(path, "proj"), q.table),
        lambda s: {"num_heads": s.heads, **_rescaled(q.table.shape[1], s.dims)},
        scale="both",
        per_head=((join(path, "relative_position_bias_table"), 1),),
    )


def _efficientformer(net: nn.Module, path: str, m: nn.Module) -> View:
    heads, keys, values = int(m.num_heads), int(m.key_dim), int(m.val_dim)  # type: ignore[arg-type]
    step = 2 * keys + values  # head by head: its queries, keys and values side by side
    qkv = join(path, "qkv")
    return View(
        path,
        (Part(qkv, grid(heads, keys, 0, step)),),
        (Part(qkv, grid(heads, keys, keys, step)),),
        (Part(qkv, grid(heads, values, 2 * keys, step)),),
        Part(join(path, "proj"), grid(heads, values)),
        lambda s: {
            "num_heads": s.heads,
            "key_dim": s.dims,
            "val_dim": s.value_dims,
            "val_attn_dim": s.heads * s.value_dims,
            "key_attn_dim": s.heads * s.dims,
            "attn_ratio": s.value_dims / s.dims,
        },
        per_head=((join(path, "attention_biases"), 0),),
        tied=False,
        forgets=("attention_bias_cache",),
    )


def _separate(net: nn.Module, path: str, name: str, heads: int) -> Part:
    module = join(path, name)
    return Part(module, grid(heads, outputs(net, module) // heads))


def _hf(q: str, k: str, v: str, out: str, dims: str, counts: Callable[[Sizes], dict[str, Any]]) -> Adapter:
    """Return the adapter of a class with separate projections, which views them by its head size alone.

    :param dims: attribute with the head size. Where it is stale, the net runs with other heads than before.
    """

    def adapt(net: nn.Module, path: str, m: nn.Module) -> View:
        size = int(getattr(m, dims))
        parts = [Part(join(path, n), grid(outputs(net, join(path, n)) // size, size)) for n in (q, k, v)]
        return View(
            path,
            (parts[0],),
            (parts[1],),
            (parts[2],),
            Part(join(path, out), grid(*parts[0].table.shape)),
            lambda s: {dims: s.dims, **counts(s)},
        )

    return adapt


def _vit_counts(s: Sizes) -> dict[str, Any]:
    return {"num_attention_heads": s.heads}


def _bert_counts(s: Sizes) -> dict[str, Any]:
    return {"num_attention_heads": s.heads, "all_head_size": s.heads * s.dims}


def _llama_counts(s: Sizes) -> dict[str, Any]:
    return {"num_key_value_groups": s.heads // s.kv_heads}


_LLAMA = _hf("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", _llama_counts)
_ROTARY = tuple(f"{name}RotaryEmbedding" for name in LLAMAS)


def _llama(net: nn.Module, path: str, m: nn.Module) -> View:
    above = path
    while above and find(net, join(above, "rotary_emb")) is None:
        above = above.rpartition(".")[0]
    rope = join(above, "rotary_emb")
    module = find(net, rope)
    reason = None
    if module is None or class_of(module) not in _ROTARY:
        reason = "its rotary table was not found"
    elif str(module.rope_type) in ("dynamic", "longrope"):
        reason = f"rotary tables of type {module.rope_type!r} are computed anew as it runs"
    return dataclasses.replace(_LLAMA(net, path, m), rope=rope, dims_blocked=reason)


def _gpt2(net: nn.Module, path: str, m: nn.Module) -> View:
    if m.is_cross_attention:
        raise UsageError(f"{path!r} attends to another sequence")
    size, width = int(m.head_dim), int(m.split_size)  # type: ignore[arg-type]
    q, k, v = _fused(net, path, "c_attn", width // size)
    return View(
        path,
        (q,),
        (k,),
        (v,),
        Part(join(path, "c_proj"), q.table),
        lambda s: {"head_dim": s.dims, "split_size": s.heads * s.dims, "num_heads": s.heads},
    )


def _deberta(net: nn.Module, path: str, m: nn.Module) -> View:
    heads = int(m.num_attention_heads)  # type: ignore[arg-type]

    def parts(*names: str) -> tuple[Part, ...]:
        return tuple(_separate(net, path, n, heads) for n in names if find(net, join(path, n)) is not None)

    v = parts("value_proj")
    return View(
        path,
        parts("query_proj", "pos_query_proj"),
        parts("key_proj", "pos_key_proj"),
        v,
        Part(join(path, "../output.dense"), grid(*v[0].table.shape)),
        lambda s: {"num_attention_heads": s.heads, "attention_head_size": s.dims, "all_head_size": s.heads * s.dims},
        scale="tensor",
        tied=False,
    )


_BERT = _hf("query", "key", "value", "../output.dense", "attention_head_size", _bert_counts)
_PROJ = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", _vit_counts)
ADAPTERS: dict[str, Adapter] = {
    "timm.layers.attention.Attention": _timm,
    "timm.layers.attention.AttentionRope": _timm_rope,
    "timm.models.efficientformer.Attention": _efficientformer,
    "timm.models.swin_transformer.WindowAttention": _swin,
    **{f"{name}SelfAttention": _BERT for name in BERTS},
    f"{HF}deberta_v2.modeling_deberta_v2.DisentangledSelfAttention": _deberta,
    f"{HF}deit.modeling_deit.DeiTAttention": _hf(*_PROJ),
    f"{HF}distilbert.modeling_distilbert.DistilBertSelfAttention": _hf(
        "q_lin", "k_lin", "v_lin", "out_lin", "attention_head_size", lambda s: {"n_heads": s.heads}
    ),
    f"{HF}gpt2.modeling_gpt2.GPT2Attention": _gpt2,
    **{f"{name}Attention": _llama for name in LLAMAS},
    f"{HF}vit.modeling_vit.ViTAttention": _hf(*_PROJ),
}


def view_of(net: nn.Module, path: str) -> View:
    """Return the view of one attention module.

    :raises UsageError: if there is none, its class isn't known, or its projections have other sizes than its
        attributes say.
    """
    module, adapter = row_of(net, path, ADAPTERS, "attention")
    view = adapter(net, path, module)
    _check(net, view)
    return view


def _check(net: nn.Module, view: View) -> None:
    """Hold the tables to the projections: each output belongs to one head."""
    tables: dict[str, list[Tensor]] = {}
    for part in (*view.q, *view.k, *view.v):
        tables.setdefault(part.module, []).append(part.table.flatten())
    sizes = view.sizes
    for module, found in tables.items():
        rows = outputs(net, module)
        if sorted(torch.cat(found).tolist()) != list(range(rows)):
            raise UsageError(
                f"{module!r} has {rows} outputs, which {sizes.heads} heads of {sizes.dims} don't share as they should"
            )
    columns = inputs(net, view.out.module)
    if view.out.table.numel() != columns or sizes.heads % sizes.kv_heads:
        raise UsageError(f"{view.out.module!r} has {columns} inputs, not {sizes.heads} heads of {sizes.value_dims}")
    for name, axis in view.per_head:
        path, _, tensor = name.rpartition(".")
        size = getattr(net.get_submodule(path), tensor).shape[axis]
        if size != sizes.heads:
            raise UsageError(f"{name!r} has {size} entries, not one for each of {sizes.heads} heads")
