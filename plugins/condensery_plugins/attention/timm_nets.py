"""The classes of timm's attention nets: ViT and DeiT, Swin, MobileViT, EfficientFormer."""

from __future__ import annotations

from torch import nn

from condensery.surgery.attention import Attention, Block, Mlp, Part, Place, View

OVER_HEADS = "a norm takes its statistics over all heads"


def _norm(place: Place, name: str, reason: str) -> str | None:
    """Return the reason why a cut is wrong, if there is a norm of that name."""
    return None if type(getattr(place.module, name, nn.Identity())) is nn.Identity else reason


def _attention(place: Place) -> View:
    """View one projection, ``(3, heads, dims)``; the fused kernel scales by the tensor, the other mode by ``scale``."""
    module = place.module
    q, k, v = place.fused("qkv", module.num_heads)
    gate = () if module.gate is None else (Part(place.at("gate"), q.table),)
    return View(
        q=(q,),
        k=(k,),
        v=(v, *gate),
        out=Part(place.at("proj"), q.table),
        attributes=lambda s: {"num_heads": s.heads, "head_dim": s.dims, "attn_dim": s.heads * s.dims},
        scale="tensor",
        scale_attribute="scale",
        blocked=_norm(place, "norm", OVER_HEADS),
        dims_blocked=_norm(place, "q_norm", "q_norm and k_norm take their statistics over the dimensions of a head"),
    )


def _attention_rope(place: Place) -> View:
    """View one projection or three; queries may share keys and values in groups, one table turns all heads."""
    module = place.module
    heads, kv_heads = module.num_heads, module.num_kv_heads
    if module.qkv is not None:
        q, k, v = place.fused("qkv", heads)
    else:
        dims = place.outputs("q_proj") // heads
        q = place.part("q_proj", heads, dims)
        k, v = place.part("k_proj", kv_heads, dims), place.part("v_proj", kv_heads, dims)

    grouped = None
    if module.gate is not None and heads != kv_heads:
        grouped = "a gate for each query head over grouped values"
    gate = () if module.gate is None else (Part(place.at("gate"), q.table),)
    return View(
        q=(q,),
        k=(k,),
        v=(v, *gate),
        out=Part(place.at("proj"), q.table),
        attributes=lambda s: {
            "num_heads": s.heads,
            "num_kv_heads": s.kv_heads,
            "num_kv_groups": s.heads // s.kv_heads,
            "attn_dim": s.heads * s.dims,
            "kv_dim": s.kv_heads * s.dims,
        },
        scale="tensor",
        blocked=_norm(place, "norm", OVER_HEADS) or grouped,
        dims_blocked="its rotary table belongs to the whole net",
    )


def _swin_attention(place: Place) -> View:
    """View one projection, as in a ViT, and a table of biases that has a column for each head."""
    q, k, v = place.fused("qkv", place.module.num_heads)
    return View(
        q=(q,),
        k=(k,),
        v=(v,),
        out=Part(place.at("proj"), q.table),
        attributes=lambda s: {"num_heads": s.heads},
        scale="tensor",
        scale_attribute="scale",
        per_head=((place.at("relative_position_bias_table"), 1),),
    )


def _efficientformer_attention(place: Place) -> View:
    """View one projection, laid out head by head: a head's queries, keys and values lie side by side."""
    module = place.module
    heads, keys, values = module.num_heads, module.key_dim, module.val_dim
    step = 2 * keys + values
    return View(
        q=(place.part("qkv", heads, keys, 0, step),),
        k=(place.part("qkv", heads, keys, keys, step),),
        v=(place.part("qkv", heads, values, 2 * keys, step),),
        out=place.part("proj", heads, values),
        attributes=lambda s: {
            "num_heads": s.heads,
            "key_dim": s.dims,
            "val_dim": s.value_dims,
            "val_attn_dim": s.heads * s.value_dims,
            "key_attn_dim": s.heads * s.dims,
            "attn_ratio": s.value_dims / s.dims,
        },
        per_head=((place.at("attention_biases"), 0),),
        tied=False,
        forgets=("attention_bias_cache",),
    )


ATTENTION = Attention(_attention)
ATTENTION_ROPE = Attention(_attention_rope)
SWIN_ATTENTION = Attention(_swin_attention)
EFFICIENTFORMER_ATTENTION = Attention(_efficientformer_attention)

MLP = Mlp(("fc1",), "fc2", plain="norm")
CONV_MLP = Mlp(("fc1",), "fc2", norm="norm1")

BLOCK = Block(("attn.proj", "mlp.fc2"))
EFFICIENTFORMER_BLOCK = Block(("token_mixer.proj", "mlp.fc2"))
EFFICIENTFORMER_CONV_BLOCK = Block(("ls1", "mlp.norm2"))
