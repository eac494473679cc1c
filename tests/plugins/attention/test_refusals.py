"""What can't be removed is refused by name, with the reason; nothing is left untouched in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.attention.zoo import CLASSES, GROUPED, LLAMAS, TEXT, anatomy, build, example, forward
from torch import nn

from condensery.errors import UsageError
from condensery.surgery.attention import Anatomy, HeadDims


@pytest.mark.parametrize("name", LLAMAS)
def test_grouped_queries_go_in_whole_groups_or_as_many_of_each(name: str) -> None:
    a = anatomy(name)
    path = "model.layers.0.self_attn"
    with pytest.raises(UsageError, match=r"2 query heads in turn share keys .* and \[1, 2\] would be left"):
        a.remove_heads({path: [0]})
    whole = a.remove_heads({path: [0, 1]})
    assert whole.tensors[f"{path}.k_proj.weight"].new == (8, 32)
    assert "num_key_value_groups" not in whole.attributes.get(path, {})
    each = a.remove_heads({path: [1, 2]})
    assert f"{path}.k_proj.weight" not in each.tensors
    assert each.attributes[path]["num_key_value_groups"] == (2, 1)


def test_norms_inside_a_head_keep_its_dimensions() -> None:
    a = anatomy("timm-vit-qknorm")
    with pytest.raises(UsageError, match="q_norm and k_norm take their statistics over the dimensions of a head"):
        a.remove_head_dims({"blocks.0.attn": [0]})
    from timm.models.vision_transformer import VisionTransformer

    net = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3, scale_attn_norm=True, scale_mlp_norm=True
    ).eval()
    b = Anatomy(net, CLASSES, torch.zeros(1, 3, 16, 16))
    assert b.heads()[0].reason == "a norm takes its statistics over all heads"
    assert b.neurons()[0].reason == "blocks.0.mlp.norm takes its statistics over the neurons"
    with pytest.raises(UsageError, match="can't lose heads: a norm takes its statistics over all heads"):
        b.remove_heads({"blocks.0.attn": [0]})
    with pytest.raises(UsageError, match="can't lose neurons"):
        b.remove_neurons({"blocks.0.mlp": [0]})


class StrangeAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv(x)  # type: ignore[no-any-return]


class Wrapped(nn.Linear):
    pass


def test_unknown_classes_are_refused_by_name() -> None:
    net = nn.Sequential(StrangeAttention())
    a = Anatomy(net, CLASSES, torch.zeros(1, 8))
    assert [h.path for h in a.heads()] == ["0"]
    assert "StrangeAttention; known attention classes: attention.Attention, attention.AttentionRope" in str(
        a.heads()[0].reason
    )
    for remove in (a.remove_heads, a.remove_head_dims, a.remove_neurons):
        with pytest.raises(UsageError, match=r"module '0' is a .*StrangeAttention; known"):
            remove({"0": [0]})
    import timm

    eva = timm.create_model("eva02_tiny_patch14_224", img_size=28, depth=1)
    (found,) = Anatomy(eva, CLASSES, torch.zeros(1, 3, 28, 28)).heads()
    assert "timm.models.eva.EvaAttention; known attention classes" in str(found.reason)


def test_relatives_of_known_classes_are_refused_by_name() -> None:
    """Qwen3 is Qwen2 with norms inside the heads; XLM-RoBERTa is RoBERTa under another name."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, XLMRobertaConfig, XLMRobertaForSequenceClassification

    for net, attention, layers, name in (
        (Qwen3ForCausalLM(Qwen3Config(**GROUPED)), "model.layers.0.self_attn", "model.layers", "Qwen3"),
        (
            XLMRobertaForSequenceClassification(XLMRobertaConfig(**TEXT)),
            "roberta.encoder.layer.0.attention.self",
            "roberta.encoder.layer",
            "XLMRoberta",
        ),
    ):
        a = Anatomy(net, CLASSES, example("hf-bert"), forward)
        assert a.heads()[0].path == attention
        assert all(name in str(h.reason) and "known attention classes" in str(h.reason) for h in a.heads())
        assert (a.neurons(), a.layers()) == ([], [])
        with pytest.raises(UsageError, match=rf"is a .*\.{name}.*Attention; known attention classes"):
            a.remove_heads({attention: [0]})
        with pytest.raises(UsageError, match=rf"is a .*\.{name}.*Layer; known layer classes"):
            a.remove_layers([f"{layers}.0"])


def test_layers_whose_masks_go_by_their_place_stay() -> None:
    """Qwen2 looks a mask up by the number of the layer: behind a removed one the others would get their neighbours'."""
    import transformers

    def qwen2(full: int) -> Anatomy:
        window = {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": full}
        make: Any = transformers.Qwen2ForSequenceClassification
        net = make(transformers.Qwen2Config(**GROUPED | window))
        return Anatomy(net, CLASSES, example("hf-qwen2"), forward)

    mixed, even = qwen2(full=1), qwen2(full=0)
    with pytest.raises(UsageError, match=r"a mask for each place in 'model\.layers': full_attention and sliding_atten"):
        mixed.remove_layers(["model.layers.0"])
    for cut in (mixed.remove_heads({"model.layers.2.self_attn": [0, 1]}), even.remove_layers(["model.layers.0"])):
        assert cut.difference is not None
        assert cut.difference < 1e-5


def test_wrapped_projections_are_refused() -> None:
    net: Any = build("timm-vit")
    net.blocks[0].attn.qkv = Wrapped(24, 72)
    a = Anatomy(net, CLASSES, example("timm-vit"), forward)
    assert "is a tests.plugins.attention.test_refusals.Wrapped; only a plain Linear" in str(a.heads()[0].reason)
    with pytest.raises(UsageError, match=r"layer 'blocks\.0\.attn\.qkv' is a .*Wrapped; only a plain Linear, Conv2d"):
        a.remove_heads({"blocks.0.attn": [0]})


def test_cross_attention_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=40,
        n_embd=24,
        n_layer=1,
        n_head=3,
        n_positions=12,
        bos_token_id=1,
        eos_token_id=1,
        add_cross_attention=True,
    )
    a = Anatomy(GPT2LMHeadModel(config), CLASSES, example("hf-gpt2"), forward)
    found = {h.path: h.reason for h in a.heads()}
    assert found["transformer.h.0.attn"] is None
    assert found["transformer.h.0.crossattention"] == "'transformer.h.0.crossattention' attends to another sequence"


def test_numbers_that_do_not_exist_and_the_last_units() -> None:
    a = anatomy("timm-vit")
    with pytest.raises(UsageError, match=r"'blocks\.0\.attn' has heads 0 to 2, not 3"):
        a.remove_heads({"blocks.0.attn": [3]})
    with pytest.raises(UsageError, match=r"'blocks\.0\.attn' would lose all of its 3 heads"):
        a.remove_heads({"blocks.0.attn": [0, 1, 2]})
    with pytest.raises(UsageError, match=r"'blocks\.0\.mlp' has neurons 0 to 23, not -1"):
        a.remove_neurons({"blocks.0.mlp": [-1]})
    with pytest.raises(UsageError, match="each head must lose as many dimensions of values"):
        a.remove_head_dims({"blocks.0.attn": HeadDims([0], [[0], [1], [1, 2]])})
    with pytest.raises(UsageError, match="2 lists of dimensions of values, for 3 heads"):
        a.remove_head_dims({"blocks.0.attn": HeadDims([0], [[0], [1]])})
    with pytest.raises(UsageError, match="one size for queries, keys and values: 7 and 8 would be left"):
        a.remove_head_dims({"blocks.0.attn": HeadDims([0])})
    with pytest.raises(UsageError, match="the net has no module 'nose'"):
        a.remove_heads({"nose": [0]})
