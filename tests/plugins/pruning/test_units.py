from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.helpers import Sign
from torch import nn

from condensery import Registry
from condensery.nets import attach
from condensery.surgery.attention import KnownClasses, View, neurons_of, view_of
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.pruning.units import Scorer, lowest

CLASSES = KnownClasses(Registry.open())


def vit() -> Any:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=4, depth=2, num_heads=2, mlp_ratio=0.5, num_classes=3)


def view(net: nn.Module, path: str) -> View:
    return view_of(net, path, CLASSES)


def scorer(net: nn.Module, criterion: Any = "l1") -> Scorer:
    return Scorer(net, criterion, torch.Generator().manual_seed(0))


def test_heads_by_hand() -> None:
    """Head 1 has 2 rows of 4 in each of q, k, v, and 2 columns of 4: 32 weights, those of k are 3, the rest 1."""
    net = vit()
    attn = net.blocks[0].attn
    with torch.no_grad():
        attn.qkv.weight.fill_(-1.0)
        attn.proj.weight.fill_(1.0)
        attn.qkv.weight[6:8] = 3.0  # k of head 1: rows 4 + 2 and on
    assert scorer(net).heads(view(net, "blocks.0.attn")).tolist() == [1.0, (24 * 1 + 8 * 3) / 32]
    squares = scorer(net, "l2").heads(view(net, "blocks.0.attn")).tolist()
    assert squares == pytest.approx([1.0, ((24 * 1 + 8 * 9) / 32) ** 0.5])
    qk, v = scorer(net).head_dims(view(net, "blocks.0.attn"))
    assert qk.tolist() == [[1.0, 1.0], [2.0, 2.0]]  # rows of q and k alike: (1 + 3) / 2
    assert v.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_masked_head_is_the_lowest() -> None:
    """Its rows, of 5, are held at zero: the 8 columns of 1 are left of 32 weights, against 32 of 1."""
    net = vit()
    attn = net.blocks[0].attn
    rows = torch.tensor([0, 1, 4, 5, 8, 9])  # q, k and v of head 0
    with torch.no_grad():
        attn.qkv.weight.fill_(1.0)
        attn.qkv.weight[rows] = 5.0
        attn.proj.weight.fill_(1.0)
    assert scorer(net).heads(view(net, "blocks.0.attn")).tolist() == [(24 * 5 + 8) / 32, 1.0]
    mask = Mask((12, 4))
    mask.keep[rows] = False
    attach(net, "blocks.0.attn.qkv.weight", "mask", mask)
    assert scorer(net).heads(view(net, "blocks.0.attn")).tolist() == [8 / 32, 1.0]
    qk, v = scorer(net).head_dims(view(net, "blocks.0.attn"))
    assert qk.tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert v.tolist() == [[0.5, 0.5], [1.0, 1.0]]  # four of a row, four of a column


def test_a_group_of_queries_is_one_head() -> None:
    """Four query heads of 2 over two of keys: 8 inputs; each group has 4 rows of q, 2 of k, 2 of v, 4 columns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=6,
    )
    net: Any = LlamaForCausalLM(config)
    attn = net.model.layers[0].self_attn
    with torch.no_grad():
        for part in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj):
            part.weight.fill_(1.0)
        attn.k_proj.weight[2:] = 13.0
    assert scorer(net).heads(view(net, "model.layers.0.self_attn")).tolist() == [1.0, 1 + 12 * 16 / 96]


def test_neurons_by_hand() -> None:
    """Of 2 neurons each has a row of 4 and a column of 4."""
    net = vit()
    mlp = net.blocks[1].mlp
    with torch.no_grad():
        mlp.fc1.weight.copy_(torch.tensor([[1.0, -1, 1, -1], [2, 2, 2, 2]]))
        mlp.fc2.weight.copy_(torch.tensor([[0.0, 4], [0, 4], [0, 4], [0, 4]]))
    assert scorer(net).neurons(neurons_of(net, CLASSES)[1]).tolist() == [0.5, 3.0]
    assert scorer(net, "l2").neurons(neurons_of(net, CLASSES)[1]).tolist() == pytest.approx([0.5**0.5, 10**0.5])


def test_layers_by_hand() -> None:
    """Latent weights count, matrices only: of 48 + 16 + 8 + 8 weights, all 2, one is set to 18.

    A quantizer changes nothing; a mask that holds the 16 with the large one leaves 64 weights.
    """
    net = vit()
    with torch.no_grad():
        for parameter in net.blocks[0].parameters():
            parameter.fill_(2.0)
        net.blocks[0].attn.proj.weight[0, 0] = 18.0
    attach(net, "blocks.0.mlp.fc1.weight", "sign", Sign())
    assert float(scorer(net).layer("blocks.0")) == pytest.approx(2 + 16 / 80)
    mask = Mask((4, 4))
    mask.keep.zero_()
    attach(net, "blocks.0.attn.proj.weight", "mask", mask)
    assert float(scorer(net).layer("blocks.0")) == pytest.approx(2 * 64 / 80)


def test_random_scores_are_seeded_and_of_the_same_shape() -> None:
    net = vit()
    a, b = scorer(net, "random"), scorer(net, "random")
    assert torch.equal(a.heads(view(net, "blocks.0.attn")), b.heads(view(net, "blocks.0.attn")))
    assert not torch.equal(a.heads(view(net, "blocks.0.attn")), scorer(net).heads(view(net, "blocks.0.attn")))
    assert a.head_dims(view(net, "blocks.0.attn"))[0].shape == (2, 2)


def test_the_lowest_go_together_or_by_module() -> None:
    scores = {"a": torch.tensor([0.1, 0.2, 0.3, 0.9]), "b": torch.tensor([5.0, 4.0])}
    assert lowest(scores, 0.5, "global") == {"a": [0, 1, 2]}
    assert lowest(scores, 0.7, "global") == {"a": [0, 1, 2], "b": [1]}  # the best of each stays
    assert lowest(scores, 0.5, "local") == {"a": [0, 1], "b": [1]}
    assert lowest(scores, 1.0, "global", least=2) == {"a": [0, 1]}
    assert lowest(scores, 0.0, "global") == {}
