"""A stage's surgeon cuts attention nets with their transforms and their optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, Sign, recipe, registry
from tests.plugins.attention.zoo import anatomy, build, cut_copy
from torch import nn

from condensery import Run, hookimpl
from condensery.errors import MethodError
from condensery.nets import attach, attached
from condensery.run import Stage
from condensery.surgery import Cut, Left, apply
from condensery.surgery.attention import HeadDims
from condensery_plugins.pruning.masks import Mask

torch.set_num_threads(1)
VIT = {"model": {"key": "vit", "dim": 24, "depth": 3, "patch_size": 4}}


def test_a_stage_that_trained_is_cut_with_its_momentum(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Cuts(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            surgeon, player = stage.surgeon, stage.student
            assert player.optimizer is not None
            before = player.optimizer_state()
            assert [h.heads for h in surgeon.heads()] == [3, 3, 3]
            assert [n.neurons for n in surgeon.neurons()] == [96, 96, 96]
            assert [u.path for u in surgeon.layers()] == ["blocks.0", "blocks.1", "blocks.2"]
            ratios = [
                surgeon.remove_layers(["blocks.0"]).ratio,
                surgeon.remove_heads({"blocks.1.attn": [0]}).ratio,
                surgeon.remove_head_dims({"blocks.2.attn": HeadDims([0, 1], [2, 3])}).ratio,
                surgeon.remove_neurons({"blocks.1.mlp": range(48)}).ratio,
            ]
            assert surgeon.remove_heads({}).cut is None
            after = player.optimizer_state()
            old = before["blocks.1.attn.qkv.weight"]["momentum_buffer"].view(3, 3, 8, 24)[:, 1:].flatten(0, 2)
            seen.update(
                ratios=ratios,
                same=torch.equal(after["blocks.1.attn.qkv.weight"]["momentum_buffer"], old),
                gone=[n for n in after if n.startswith("blocks.0.")],
                held={id(p) for g in player.optimizer.param_groups for p in g["params"]},
                there={id(p) for p in player.parameters().values()},
            )

    Run(recipe([{"name": "s", "methods": ["cuts"]}, "lsq"], **VIT), registry(cuts=Cuts), out=tmp_path / "o").execute()
    # Of 3 layers 1; of 6 heads 1; of 5 heads of 8 + 8 dims 12 of 80; of 192 neurons 48.
    assert seen["ratios"] == pytest.approx([1 / 3, 1 / 6, 12 / 80, 48 / 192])
    assert seen["same"]
    assert seen["gone"] == []
    assert seen["held"] == seen["there"]


def test_masks_are_cut_and_a_quantizer_refuses_a_factor() -> None:
    a = anatomy("timm-vit")
    cut = a.remove_head_dims({"blocks.0.attn": [0, 1]})
    net = build("timm-vit")
    mask = Mask((72, 24))
    mask.keep[:, 3] = False
    attach(net, "blocks.0.attn.qkv.weight", "mask", mask)
    apply(cut, net)
    assert mask.keep.shape == (54, 24)
    assert not bool(mask.keep[:, 3].any())
    held = build("timm-vit")
    attach(held, "blocks.0.attn.qkv.weight", "sign", Sign())
    with pytest.raises(MethodError, match=r"blocks\.0\.attn\.qkv\.weight needs a factor, and Sign stands in between"):
        apply(cut, held)
    assert held.get_submodule("blocks.0.attn").head_dim == 8  # refused before anything was changed
    heads = a.remove_heads({"blocks.0.attn": [0]})
    apply(heads, held)  # no factor is needed for whole heads
    assert len(attached(held)) == 1


def test_factors_by_hand() -> None:
    net = nn.Linear(2, 2)
    cut = Cut({"bias": Left((2,), (1,), torch.tensor([1]))}, {}, factors={"bias": torch.tensor([3.0])})
    with torch.no_grad():
        net.bias.copy_(torch.tensor([5.0, 7.0]))
    apply(cut, net)
    assert net.bias.tolist() == [21.0]


def test_a_record_says_what_went() -> None:
    a = anatomy("timm-vit")
    said = a.remove_layers(["blocks.1"]).config()
    assert said["children"] == {"blocks": ["0", "2"]}
    net = cut_copy("timm-vit", a.remove_layers(["blocks.1"]))
    assert [n for n, _ in net.get_submodule("blocks").named_children()] == ["0", "2"]
