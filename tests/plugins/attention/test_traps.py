"""Mistakes that give no error, each with a cut that makes it: the proof or a refusal must catch them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any

import pytest
import torch
from tests.plugins.attention.zoo import (
    CLASSES,
    LLAMA,
    LLAMAS,
    anatomy,
    build,
    cut_copy,
    example,
    forward,
    fresh,
    logits,
)
from torch import nn

from condensery import Registry
from condensery.errors import MethodError, UsageError
from condensery.storage import load_tensors, restructure, structure_of, tensors_of
from condensery.surgery import Cut, apply
from condensery.surgery.attention import (
    Anatomy,
    Draft,
    HeadDims,
    draft_heads,
    modes,
    prove,
    reference,
    set_mode,
    view_of,
)


def without(cut: Cut, *names: str) -> Cut:
    """Return a cut that leaves some attributes stale."""
    kept = {p: {n: v for n, v in changes.items() if n not in names} for p, changes in cut.attributes.items()}
    return dataclasses.replace(cut, attributes=kept, proofs={})


def off(name: str, cut: Cut, mode: str = "eager") -> float:
    """Return how far a cut is from the right one."""
    a = anatomy(name)
    before, after = copy.deepcopy(a.net), copy.deepcopy(a.net)
    apply(cut, after)
    want = reference(cut, before, after, CLASSES)
    set_mode(want, mode)
    set_mode(after, mode)
    with torch.no_grad():
        return float((forward(want, example(name)) - forward(after, example(name))).abs().max())


@pytest.mark.parametrize("name", ["timm-vit", "timm-swin"])
def test_1_the_fused_kernel_divides_by_the_size_it_sees(name: str) -> None:
    """Half the dimensions and the old scale: right in eager, wrong in the kernel."""
    a = anatomy(name)
    cut = a.remove_head_dims({h.path: range(h.dims // 2) for h in a.heads()})
    naive = dataclasses.replace(without(cut, "scale"), factors={})
    assert off(name, naive, "eager") < 1e-5
    assert off(name, naive, "sdpa") > 1e-3
    assert off(name, cut, "eager") < 1e-5
    assert off(name, cut, "sdpa") < 1e-5
    scale = cut_copy(name, cut).get_submodule(a.heads()[0].path).scale
    assert scale == (a.heads()[0].dims // 2) ** -0.5
    factor = next(v for n, v in cut.factors.items() if n.endswith("weight"))
    assert set(factor.flatten().tolist()) == {0.5**0.5, 1.0}
    assert int((factor == 1.0).sum()) == 2 * int((factor != 1.0).sum())  # the queries' rows only


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("hf-bert", "attention_head_size"),
        ("hf-roberta", "attention_head_size"),
        ("hf-electra", "attention_head_size"),
        ("hf-distilbert", "attention_head_size"),
        ("hf-gpt2", "head_dim"),
        ("hf-vit", "head_dim"),
    ],
)
def test_2_a_stale_head_size_makes_other_heads(name: str, stale: str) -> None:
    """Of 3 heads of 8, 3 of 4 are left: with the size at 8 the net would run with 1.5, with 2 of 3 heads it does."""
    a = anatomy(name)
    dims = {h.path: HeadDims(range(4), range(4)) for h in a.heads()}
    net = a.net
    apply(a.remove_heads({h.path: [0] for h in a.heads()}), net)
    cut = Anatomy(net, CLASSES, example(name), forward).remove_head_dims(dims)
    assert {c[stale] for p, c in cut.attributes.items() if stale in c} == {(8, 4)}
    wrong = copy.deepcopy(net)
    apply(without(cut, stale), wrong)
    assert (logits(name, wrong) - logits(name, _applied(cut, net))).abs().max() > 1e-4  # one head of 8, no error
    with pytest.raises(MethodError, match="differs by"):
        prove(without(cut, stale), net, example(name), forward, CLASSES)


def _applied(cut: Cut, net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net)
    apply(cut, twin)
    return twin


def test_2_rows_are_held_to_the_head_size() -> None:
    net = build("hf-bert")
    path = "bert.encoder.layer.0.attention.self"
    net.get_submodule(path).attention_head_size = 7  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"0\.attention\.self\.query' has 24 outputs, which 3 heads of 7 don't share"):
        view_of(net, path, CLASSES)


def test_3_the_fused_projection_is_not_laid_out_head_by_head() -> None:
    """Rows 0 to 23 are the queries of all three heads, not the first head's queries, keys and values."""
    view = view_of(build("timm-vit"), "blocks.0.attn", CLASSES)
    assert [int(p.table[1, 0]) for p in (view.q[0], view.k[0], view.v[0])] == [8, 32, 56]
    a = anatomy("timm-vit")
    draft = Draft(a.net)
    draft_heads(draft, {"blocks.0.attn": [0]}, CLASSES)
    draft.rows("blocks.0.attn.qkv", torch.arange(24, 72))  # what would be head 0 if it were head-major
    with pytest.raises(MethodError, match="differs by"):
        prove(draft.cut(), a.net, example("timm-vit"), forward, CLASSES)
    by_head = view_of(build("timm-efficientformer"), "stages.3.blocks.3.token_mixer", CLASSES)
    assert [int(p.table[1, 0]) for p in (by_head.q[0], by_head.k[0], by_head.v[0])] == [192, 224, 256]


def test_4_deberta_needs_the_factor_on_both_query_projections() -> None:
    a = anatomy("hf-deberta")
    cut = a.remove_head_dims({h.path: HeadDims(range(4)) for h in a.heads()})  # values keep theirs
    assert {n.rpartition("self.")[2] for n in cut.factors} == {
        "query_proj.weight",
        "query_proj.bias",
        "pos_query_proj.weight",
        "pos_query_proj.bias",
    }
    assert all(bool((f == 0.5**0.5).all()) for f in cut.factors.values())
    half = {n: f for n, f in cut.factors.items() if ".query_proj" in n}
    for factors in ({}, half):
        with pytest.raises(MethodError, match="differs by"):
            prove(dataclasses.replace(cut, factors=factors, proofs={}), a.net, example("hf-deberta"), forward, CLASSES)


@pytest.mark.parametrize("name", LLAMAS)
def test_5_the_rotary_table_is_cut_and_saved(name: str) -> None:
    a = anatomy(name)
    cut = a.remove_head_dims({h.path: [1, 5] for h in a.heads()})
    kept = cut.tensors["model.rotary_emb.inv_freq"].kept
    assert kept.tolist() == [0, 2, 3] == cut.tensors["model.rotary_emb.original_inv_freq"].kept.tolist()
    net = cut_copy(name, cut)
    assert "model.rotary_emb.inv_freq" not in net.state_dict()
    registry = Registry.open()
    again = restructure(fresh(name), structure_of(net, fresh(name), registry).dump(), registry, "here")
    load_tensors(again, tensors_of(net), "here")
    assert torch.equal(logits(name, again), logits(name, net))
    # A table made anew for the smaller head has other frequencies, and gives no error.
    fewer = 10000.0 ** -(torch.arange(0, 6, 2) / 6)
    again.get_submodule("model.rotary_emb").inv_freq = fewer
    assert (logits(name, again) - logits(name, net)).abs().max() > 0.01


@pytest.mark.parametrize("name", LLAMAS)
def test_5_rotary_dimensions_go_in_pairs_from_all_heads_and_layers(name: str) -> None:
    a = anatomy(name)
    paths = [h.path for h in a.heads()]
    with pytest.raises(UsageError, match=r"dimension i turns together with i \+ 4"):
        a.remove_head_dims({p: [0, 1] for p in paths})
    with pytest.raises(UsageError, match=r"from all heads of all of model\.layers\.0\.self_attn, model\.layers\.1"):
        a.remove_head_dims({p: [0, 4] for p in paths[:2]})
    with pytest.raises(UsageError, match="from all heads"):
        a.remove_head_dims({p: HeadDims([[0, 4], [1, 5]], [0, 4]) for p in paths})
    net = build(name)
    net.get_submodule("model.rotary_emb").rope_type = "dynamic"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="rotary tables of type 'dynamic' are computed anew"):
        Anatomy(net, CLASSES, example(name), forward).remove_head_dims({p: [0, 4] for p in paths})


def decoded(net: nn.Module, words: torch.Tensor) -> torch.Tensor:
    """Return logits word by word, through a cache."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=net.config)  # type: ignore[arg-type]  # filled in place
    name = "cache" if "cache" in inspect.signature(net.forward).parameters else "past_key_values"  # renamed in 5.24
    found = []
    with torch.no_grad():
        for place in range(words.shape[1]):
            out = net(input_ids=words[:, place : place + 1], use_cache=True, **{name: cache})
            found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize(
    ("name", "layers"), [*((name, "model.layers") for name in LLAMAS), ("hf-gpt2", "transformer.h")]
)
def test_6_caches_go_by_the_number_of_the_layer(name: str, layers: str) -> None:
    """The first layer must go: with one in the middle gone, stale numbers do no harm."""
    a = anatomy(name)
    cut = a.remove_layers([f"{layers}.0"])
    words = torch.randint(1, 40, (2, 8), generator=torch.Generator().manual_seed(3))
    net = cut_copy(name, cut)
    with torch.no_grad():
        whole = net(input_ids=words, use_cache=False).logits
    assert (decoded(net, words) - whole).abs().max() < 1e-5
    numbers = [m.layer_idx for m in net.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    assert numbers == [0, 1]
    assert [n for n, _ in net.get_submodule(layers).named_children()] == ["1", "2"]
    stale = cut_copy(name, without(cut, "layer_idx"))
    assert (decoded(stale, words) - whole).abs().max() > 0.01


@pytest.mark.parametrize("name", LLAMAS)
def test_6_a_cut_decoder_decodes(name: str) -> None:
    a = anatomy(name)
    net = cut_copy(name, a.remove_heads({h.path: [0, 2] for h in a.heads()}))
    words = torch.randint(1, 40, (2, 8), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        whole = net(input_ids=words, use_cache=False).logits
    assert (decoded(net, words) - whole).abs().max() < 1e-5


def test_7_the_cached_bias_of_efficientformer_is_dropped() -> None:
    net = build("timm-efficientformer")
    logits("timm-efficientformer", net)  # fills the cache
    path = "stages.3.blocks.3.token_mixer"
    assert net.get_submodule(path).attention_bias_cache
    cut = anatomy("timm-efficientformer", net).remove_heads({path: [2]})
    twin = copy.deepcopy(net)
    apply(cut, net)
    apply(cut, twin)
    assert net.get_submodule(path).attention_bias_cache == {}
    assert logits("timm-efficientformer", net).shape == (2, 5)
    assert twin.get_submodule(path).attention_bias_cache == {}  # each net has a cache of its own


def test_qwen2_has_biases_on_queries_keys_and_values() -> None:
    """Of 4 query heads of 8 over 2 of keys and values the first two go, with the first of keys and values."""
    cut = anatomy("hf-qwen2").remove_heads({"model.layers.0.self_attn": [0, 1]})
    assert {n.rpartition("self_attn.")[2]: left.new for n, left in cut.tensors.items()} == {
        "q_proj.weight": (16, 32),
        "q_proj.bias": (16,),
        "k_proj.weight": (8, 32),
        "k_proj.bias": (8,),
        "v_proj.weight": (8, 32),
        "v_proj.bias": (8,),
        "o_proj.weight": (32, 16),
    }
    assert cut.tensors["model.layers.0.self_attn.k_proj.bias"].kept.tolist() == list(range(8, 16))


def test_9_what_only_reshapes_is_no_layer() -> None:
    a = anatomy("timm-efficientformer")
    units = {u.path: u.reason for u in a.layers()}
    assert "stages.3.blocks.2" not in units  # Flat
    with pytest.raises(UsageError, match=r"module 'stages\.3\.blocks\.2' is a timm\.models\.efficientformer\.Flat"):
        a.remove_layers(["stages.3.blocks.2"])
    swin = anatomy("timm-swin")
    with pytest.raises(UsageError, match=r"layers\.1\.downsample' is a timm\.models\.swin_transformer\.PatchMerging"):
        swin.remove_layers(["layers.1.downsample"])
    with pytest.raises(UsageError, match=r"'layers\.0\.blocks' would lose all of its 2 layers"):
        swin.remove_layers(["layers.0.blocks.0", "layers.0.blocks.1"])
    with pytest.raises(UsageError, match=r"the net has no module 'layers\.9'"):
        swin.remove_layers(["layers.9"])


def test_9_layers_of_the_rarer_class_stay() -> None:
    from timm.models.efficientformer import EfficientFormer

    net = EfficientFormer(depths=(1, 2, 1, 3), embed_dims=(8, 8, 8, 8), num_vit=1, num_classes=5).eval()
    reasons = {u.path: u.reason for u in Anatomy(net, CLASSES, torch.zeros(1, 3, 224, 224)).layers()}
    assert reasons["stages.3.blocks.3"] == "most layers of 'stages.3.blocks' are of another class"
    assert reasons["stages.3.blocks.0"] is None
    assert reasons["stages.0.blocks.0"] == "it is the only layer of 'stages.0.blocks'"


def test_13_padded_words_are_not_compared() -> None:
    """At padded places the ways to compute attention may differ; the words that are there must not."""
    net = build("hf-bert-mlm")
    seen = []
    for mode in modes(net):
        set_mode(net, mode)
        seen.append(logits("hf-bert-mlm", net))
    assert seen[0].shape[0] == 9 + 6
    assert (seen[0] - seen[1]).abs().max() < 1e-5


def test_15_the_given_scale_is_kept_and_saved() -> None:
    """A rebuilt net computes it from the old head size, a config with a new one from that: it must be what it was."""
    a = anatomy("hf-vit")
    net = cut_copy("hf-vit", a.remove_head_dims({h.path: range(4) for h in a.heads()}))
    modules: list[Any] = [m for m in net.modules() if hasattr(m, "scaling")]
    assert {(m.head_dim, m.scaling) for m in modules} == {(4, 8**-0.5)}


def test_llama_needs_a_group_ratio() -> None:
    assert LLAMA["num_attention_heads"] // LLAMA["num_key_value_heads"] == 2
    a = anatomy("hf-llama")
    cut = a.remove_heads({"model.layers.1.self_attn": [0, 3]})
    stale = without(cut, "num_key_value_groups")
    with pytest.raises((MethodError, RuntimeError)):
        prove(stale, a.net, example("hf-llama"), forward, CLASSES)
