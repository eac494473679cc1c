"""Removing equals zeroing: every kind of unit, every known class, in every attention mode and both precisions."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.plugins.attention.zoo import (
    BUILDERS,
    CANNOT,
    CLASSES,
    KINDS,
    LLAMAS,
    anatomy,
    build,
    cut_copy,
    example,
    forward,
    logits,
)
from torch import nn

from condensery.errors import MethodError
from condensery.surgery import Cut, apply
from condensery.surgery.attention import Draft, draft_heads, modes, prove, set_mode

SLOW = ("timm-mobilevit", "timm-efficientformer")
CELLS = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if name in SLOW and kind in ("layers", "neurons") else [])
    for name in BUILDERS
    for kind in KINDS
    if (name, kind) not in CANNOT
]
NO_SDPA = ("timm-efficientformer", "hf-deberta", "hf-deberta-shared")
IN_FLOAT32 = ("hf-deberta", "hf-deberta-shared", *LLAMAS)
"""Nets that compute something in float32 whatever they are given."""


@pytest.mark.parametrize(("name", "kind"), CELLS)
def test_removing_equals_zeroing(name: str, kind: str) -> None:
    a = anatomy(name)
    cut = KINDS[kind](a)
    expected = {"eager float64", "eager float32"} | (set() if name in NO_SDPA else {"sdpa float64", "sdpa float32"})
    assert set(cut.proofs) == expected
    exact = 1e-6 if name in IN_FLOAT32 else 1e-12
    for mode, found in cut.proofs.items():
        assert found < (exact if mode.endswith("float64") else 1e-5), mode
    assert cut.difference == max(cut.proofs.values())
    assert 0 < a.ratio < 1
    narrow = cut_copy(name, cut)
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in a.net.parameters())
    moved = (logits(name, narrow) - logits(name, a.net)).abs().max()
    assert moved > 1e-4  # the units meant something, so that the proof does


@pytest.mark.parametrize("name", ["timm-vit", "hf-bert", "hf-llama"])
def test_a_net_that_was_cut_can_be_cut_again(name: str) -> None:
    net = build(name)
    for kind in ("head-dims", "heads", "head-dims", "neurons"):
        apply(KINDS[kind](anatomy(name, net)), net)
    assert torch.isfinite(logits(name, net)).all()


def test_modes_are_set_on_every_module() -> None:
    vit, bert = build("timm-vit"), build("hf-bert")
    assert modes(vit) == modes(bert) == ["eager", "sdpa"]
    assert modes(build("hf-deberta")) == modes(nn.Linear(2, 2)) == ["eager"]
    for mode in ("eager", "sdpa"):
        set_mode(vit, mode)
        set_mode(bert, mode)
        assert {m.fused_attn for m in vit.modules() if hasattr(m, "fused_attn")} == {mode == "sdpa"}
        assert {vars(m)["config"]._attn_implementation for m in bert.modules() if hasattr(m, "config")} == {mode}


@pytest.mark.parametrize("mode", ["eager", "sdpa"])
def test_a_wrong_cut_is_refused_in_the_mode_where_it_shows(mode: str) -> None:
    a = anatomy("timm-vit")
    cut = a.remove_head_dims({h.path: [0, 1] for h in a.heads()})
    broken = copy.copy(cut)
    broken.proofs = {}
    if mode == "sdpa":  # without the factor the attribute is what the plain way needs, and the kernel takes no notice
        broken.factors = {}
        broken.attributes = {p: {n: v for n, v in c.items() if n != "scale"} for p, c in cut.attributes.items()}
    else:
        broken.attributes = {p: {n: v for n, v in c.items() if n != "scale"} for p, c in cut.attributes.items()}
    with pytest.raises(MethodError, match="differs by"):
        prove(broken, a.net, example("timm-vit"), forward, CLASSES)
    assert list(broken.proofs)[-1] == f"{mode} float64"


def test_swapped_heads_are_found() -> None:
    a = anatomy("hf-bert")
    draft = Draft(a.net)
    draft_heads(draft, {"bert.encoder.layer.0.attention.self": [0]}, CLASSES)
    draft.columns("bert.encoder.layer.0.attention.output.dense", torch.arange(16))  # of the last head that went
    with pytest.raises(MethodError, match="differs by"):
        prove(draft.cut(), a.net, example("hf-bert"), forward, CLASSES)


def test_what_a_proof_leaves_open_is_said() -> None:
    bert, gpt2 = anatomy("hf-bert"), anatomy("hf-gpt2")
    around = bert.remove_layers(["bert.encoder.layer.1"])
    assert around.unproven == (
        "a norm follows the sum in bert.encoder.layer.1: the cut net equals the one that steps around it"
    )
    assert gpt2.remove_layers(["transformer.h.1"]).unproven is None


def test_a_cut_may_be_empty() -> None:
    a = anatomy("timm-vit")
    cut = a.remove_heads({"blocks.0.attn": []})
    assert (cut.tensors, cut.attributes, a.ratio) == ({}, {}, 0.0)
    assert isinstance(cut, Cut)
