"""The classes of transformers' attention nets: BERT and its relatives, DeBERTa, ViT and DeiT, GPT-2, Llama's kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from condensery.errors import UsageError
from condensery.surgery.attention import Attention, Block, Mlp, Part, Place, Sizes, View, class_of

ROTARY = (
    "transformers.models.llama.modeling_llama.LlamaRotaryEmbedding",
    "transformers.models.mistral.modeling_mistral.MistralRotaryEmbedding",
    "transformers.models.qwen2.modeling_qwen2.Qwen2RotaryEmbedding",
)
MADE_ANEW = ("dynamic", "longrope")
"""Types of rotary tables that a net computes again as it runs."""


def _separate(
    q: str, k: str, v: str, out: str, dims: str, counts: Callable[[Sizes], dict[str, Any]]
) -> Callable[[Place], View]:
    """Return the view of a class with three projections, which cuts their outputs into heads by the head size alone.

    :param dims: attribute with the head size. Where it is stale, the net runs with other heads than before, and gives
        no error.
    :param counts: the other attributes, given the sizes.
    """

    def view(place: Place) -> View:
        size = getattr(place.module, dims)
        parts = [place.part(name, place.outputs(name) // size, size) for name in (q, k, v)]
        return View(
            q=(parts[0],),
            k=(parts[1],),
            v=(parts[2],),
            out=Part(place.at(out), parts[0].table),
            attributes=lambda s: {dims: s.dims, **counts(s)},
        )

    return view


def _deberta_attention(place: Place) -> View:
    """View three projections, and those of queries and keys of places where they have their own."""
    heads = place.module.num_attention_heads

    def parts(*names: str) -> tuple[Part, ...]:
        return tuple(place.part(n, heads, place.outputs(n) // heads) for n in names if place.has(n))

    v = parts("value_proj")
    return View(
        q=parts("query_proj", "pos_query_proj"),
        k=parts("key_proj", "pos_key_proj"),
        v=v,
        out=Part(place.at("../output.dense"), v[0].table),
        attributes=lambda s: {
            "num_attention_heads": s.heads,
            "attention_head_size": s.dims,
            "all_head_size": s.heads * s.dims,
        },
        scale="tensor",
        tied=False,
    )


def _gpt2_attention(place: Place) -> View:
    """View one projection, ``(3, heads, dims)``.

    :raises UsageError: for one that attends to another sequence.
    """
    module = place.module
    if module.is_cross_attention:
        raise UsageError(f"{place.path!r} attends to another sequence")

    q, k, v = place.fused("c_attn", module.split_size // module.head_dim)
    return View(
        q=(q,),
        k=(k,),
        v=(v,),
        out=Part(place.at("c_proj"), q.table),
        attributes=lambda s: {"head_dim": s.dims, "split_size": s.heads * s.dims, "num_heads": s.heads},
    )


_grouped = _separate(
    "q_proj", "k_proj", "v_proj", "o_proj", "head_dim", lambda s: {"num_key_value_groups": s.heads // s.kv_heads}
)


def _llama_attention(place: Place) -> View:
    """View three projections; queries may share keys and values in groups, one table turns all heads of all layers."""
    view = _grouped(place)

    # The table belongs to the nearest module above that has one.
    owner = place
    while owner.path and not owner.has("rotary_emb"):
        owner = Place(place.net, owner.path.rpartition(".")[0])
    table = Place(place.net, owner.at("rotary_emb"))
    if not owner.has("rotary_emb") or class_of(table.module) not in ROTARY:
        return dataclasses.replace(view, dims_blocked="its rotary table was not found")

    kind = str(table.module.rope_type)
    return dataclasses.replace(
        view,
        rope=(table.at("inv_freq"), table.at("original_inv_freq")),
        dims_blocked=f"rotary tables of type {kind!r} are computed anew as it runs" if kind in MADE_ANEW else None,
    )


BERT_ATTENTION = Attention(
    _separate(
        "query",
        "key",
        "value",
        "../output.dense",
        "attention_head_size",
        lambda s: {"num_attention_heads": s.heads, "all_head_size": s.heads * s.dims},
    )
)
DEBERTA_ATTENTION = Attention(_deberta_attention, in_float32=True)
DISTILBERT_ATTENTION = Attention(
    _separate("q_lin", "k_lin", "v_lin", "out_lin", "attention_head_size", lambda s: {"n_heads": s.heads})
)
GPT2_ATTENTION = Attention(_gpt2_attention)
LLAMA_ATTENTION = Attention(_llama_attention, in_float32=True)
VIT_ATTENTION = Attention(
    _separate("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", lambda s: {"num_attention_heads": s.heads})
)

BERT_MLP = Mlp(("dense",), "../output.dense")
DISTILBERT_MLP = Mlp(("lin1",), "lin2")
GPT2_MLP = Mlp(("c_fc",), "c_proj")
LLAMA_MLP = Mlp(("gate_proj", "up_proj"), "down_proj", size="intermediate_size")
VIT_MLP = Mlp(("fc1",), "fc2")

POST_NORM_BLOCK = Block(())
GPT2_BLOCK = Block(("attn.c_proj", "mlp.c_proj"))
LLAMA_BLOCK = Block(("self_attn.o_proj", "mlp.down_proj"))
VIT_BLOCK = Block(("attention.o_proj", "mlp.fc2"))
