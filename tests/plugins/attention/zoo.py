"""Tiny nets of every known class, each parameter and buffer of weight random, biases and norms too."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Registry
from condensery.surgery import Cut, apply, randomize
from condensery.surgery.attention import Anatomy, HeadDims, KnownClasses

torch.set_num_threads(1)

CLASSES = KnownClasses(Registry.open())
"""What the installed plugins say of the classes of attention nets."""
TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 12,
    "pad_token_id": 0,
}
GROUPED = TEXT | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = GROUPED | {"attention_bias": True}
LLAMAS = {"hf-llama": LLAMA, "hf-mistral": GROUPED | {"sliding_window": None}, "hf-qwen2": GROUPED}
"""Settings of the decoders with grouped queries and rotary tables; the last has biases without being asked."""
DISTILBERT = {k: v for k, v in TEXT.items() if k != "intermediate_size"} | {"hidden_dim": 20}
GPT2 = {k: v for k, v in TEXT.items() if k != "intermediate_size"} | {
    "n_inner": 20,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 16,
    "patch_size": 8,
}
VIT: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 1,
    "num_classes": 5,
}
DEBERTA: dict[str, Any] = TEXT | {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 2,
}


def _timm_vit(**settings: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**VIT | settings)


def _distilled() -> Any:
    from timm.models.deit import VisionTransformerDistilled

    return VisionTransformerDistilled(**VIT)


def _rope() -> Any:
    import timm

    settings = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_small_patch16_rope_224", **settings)


def _swin() -> Any:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=16,
        patch_size=2,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        mlp_ratio=1,
        num_classes=5,
    )


def _mobilevit() -> Any:
    import timm

    return timm.create_model("mobilevit_xxs", num_classes=5)


def _efficientformer() -> Any:
    from timm.models.efficientformer import EfficientFormer

    return EfficientFormer(depths=(2, 2, 2, 4), embed_dims=(8, 8, 12, 16), num_vit=2, num_classes=5)


def _hf(name: str, config: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    made: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**settings))
    return made


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "timm-vit": _timm_vit,
    "timm-vit-qknorm": lambda: _timm_vit(qk_norm=True, init_values=0.1, reg_tokens=2, global_pool="avg"),
    "timm-deit": _distilled,
    "timm-rope": _rope,
    "timm-swin": _swin,
    "timm-mobilevit": _mobilevit,
    "timm-efficientformer": _efficientformer,
    "hf-bert": lambda: _hf("BertForSequenceClassification", "BertConfig", TEXT),
    "hf-bert-mlm": lambda: _hf("BertForMaskedLM", "BertConfig", TEXT),
    "hf-distilbert": lambda: _hf("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT),
    "hf-vit": lambda: _hf("ViTForImageClassification", "ViTConfig", IMAGE),
    "hf-deit": lambda: _hf("DeiTForImageClassification", "DeiTConfig", IMAGE),
    "hf-gpt2": lambda: _hf("GPT2LMHeadModel", "GPT2Config", GPT2),
    "hf-roberta": lambda: _hf("RobertaForSequenceClassification", "RobertaConfig", TEXT),
    "hf-electra": lambda: _hf("ElectraForSequenceClassification", "ElectraConfig", TEXT | {"embedding_size": 16}),
    "hf-llama": lambda: _hf("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "hf-mistral": lambda: _hf("MistralForCausalLM", "MistralConfig", LLAMAS["hf-mistral"]),
    "hf-qwen2": lambda: _hf("Qwen2ForCausalLM", "Qwen2Config", LLAMAS["hf-qwen2"]),
    "hf-deberta": lambda: _hf(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", DEBERTA | {"share_att_key": False}
    ),
    "hf-deberta-shared": lambda: _hf(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", DEBERTA | {"share_att_key": True}
    ),
}
SIZES = {"timm-rope": 32, "timm-mobilevit": 64, "timm-efficientformer": 224}


def fresh(name: str, seed: int = 0) -> nn.Module:
    """Return a net as its builder makes it."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BUILDERS[name]().eval()


@functools.cache
def _built(name: str) -> nn.Module:
    net = fresh(name)
    randomize(net, torch.Generator().manual_seed(7))
    return net


def build(name: str) -> nn.Module:
    """Return a net with random numbers everywhere, always the same."""
    return copy.deepcopy(_built(name))


def example(name: str) -> Any:
    """Return inputs; in a text the last words of the second are padding."""
    generator = torch.Generator().manual_seed(1)
    if name.startswith("timm") or "vit" in name or "deit" in name:
        size = SIZES.get(name, 16)
        return torch.randn(2, 3, size, size, generator=generator)
    words = torch.randint(1, 40, (2, 9), generator=generator)
    there = torch.ones_like(words)
    words[1, 6:], there[1, 6:] = 0, 0
    return {"input_ids": words, "attention_mask": there}


def forward(model: nn.Module, inputs: Any) -> Tensor:
    """Return the logits of words that are there: padded ones may differ between ways to compute attention."""
    if not isinstance(inputs, dict):
        out = model(inputs)
        return out if isinstance(out, Tensor) else out.logits
    config: Any = model.config
    more = {"use_cache": False} if f"hf-{config.model_type}" in LLAMAS else {}
    logits: Tensor = model(**inputs, **more).logits
    return logits[inputs["attention_mask"].bool()] if logits.dim() == 3 else logits


def anatomy(name: str, net: nn.Module | None = None) -> Anatomy:
    return Anatomy(build(name) if net is None else net, CLASSES, example(name), forward)


def cut_copy(name: str, cut: Cut, net: nn.Module | None = None) -> nn.Module:
    twin = copy.deepcopy(build(name) if net is None else net)
    apply(cut, twin)
    return twin


def logits(name: str, net: nn.Module) -> Tensor:
    with torch.no_grad():
        return forward(net, example(name))


def every_other(count: int, start: int = 0) -> list[int]:
    return list(range(start, count, 2))


def some_heads(a: Anatomy) -> dict[str, list[int]]:
    """Return other heads in each layer; of grouped ones the second of each group, or the second group."""
    found = {}
    for place, item in enumerate(h for h in a.heads() if h.reason is None):
        size = item.heads // item.kv_heads
        whole = list(range(size, 2 * size)) if place % 2 else [g * size + 1 for g in range(item.kv_heads)]
        found[item.path] = [place % item.heads] if size == 1 else whole
    return found


def some_dims(a: Anatomy) -> dict[str, HeadDims]:
    """Return other dimensions for queries and values, and others in each head; rotary ones in pairs."""
    found = {}
    turns = any(name.endswith("rotary_emb") for name, _ in a.net.named_modules())
    for item in (h for h in a.heads() if h.dims_reason is None):
        half = item.dims // 2
        shifted = [[h % item.value_dims, (h + 3) % item.value_dims] for h in range(item.kv_heads)]
        qk: Any = [1, 1 + half] if turns else [[h % 2, half + h % 2] for h in range(item.heads)]
        found[item.path] = HeadDims(qk, shifted)
    return found


def some_neurons(a: Anatomy) -> dict[str, list[int]]:
    return {u.path: every_other(u.neurons, i % 2) for i, u in enumerate(a.neurons()) if u.reason is None}


def some_layers(a: Anatomy) -> list[str]:
    """Return the first layer that can go: in a net with a cache, a stale number shows there only."""
    return [u.path for u in a.layers() if u.reason is None][:1]


KINDS: dict[str, Callable[[Anatomy], Cut]] = {
    "heads": lambda a: a.remove_heads(some_heads(a)),
    "head-dims": lambda a: a.remove_head_dims(some_dims(a)),
    "neurons": lambda a: a.remove_neurons(some_neurons(a)),
    "layers": lambda a: a.remove_layers(some_layers(a)),
}
CANNOT = {
    ("timm-vit-qknorm", "head-dims"),
    ("timm-rope", "head-dims"),
    ("timm-rope", "layers"),
}
"""What no table or no proof allows."""


def composite(name: str) -> nn.Module:
    """Return a net that has lost something of every kind, one after another."""
    net = build(name)
    for kind, remove in KINDS.items():
        if (name, kind) not in CANNOT:
            apply(remove(anatomy(name, net)), net)
    return net
