from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, recipe, registry
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from condensery import Run, UsageError, hookimpl
from condensery.nets import Taps, clone
from condensery.run import Outputs


def test_a_tap_before_an_inplace_activation() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    taps = Taps(clone(net))
    taps.add("0")
    x = torch.randn(64, 4)
    with taps.reading():
        taps.model(x)
    assert bool((taps.collect()["0"] < 0).any())  # before the ReLU, not after it

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu_(self.linear(x))

    taps = Taps(clone(Functional()))
    taps.add("linear")
    with torch.no_grad(), taps.reading():
        taps.model(x)
    with pytest.raises(UsageError, match="overwritten in place"):
        taps.collect()["linear"]


def test_taps_are_no_half_precision_under_autocast() -> None:
    """What a method builds or compares on them would be half as well, where a small step changes nothing."""
    taps = Taps(clone(nn.Sequential(nn.Linear(4, 4), nn.ReLU())))
    taps.add("0")
    with torch.autocast("cpu", torch.bfloat16), taps.reading():
        out = taps.model(torch.randn(8, 4))
    seen = taps.collect()["0"]
    assert out.dtype == torch.bfloat16
    assert seen.dtype == torch.float32
    seen.square().sum().backward()
    gradient = taps.model.get_parameter("0.weight").grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_taps_of_packed_and_named_outputs() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"twice": 2 * x}

    net = nn.Sequential(nn.LSTM(2, 3), Named())
    taps = Taps(net)
    for target in ("0", "0:input", "1"):
        taps.add(target)
    packed = pack_sequence([torch.ones(2, 2), torch.zeros(1, 2)])
    with taps.reading():
        hidden = net[0](packed)[0].data
        net[1](hidden)
    values = taps.collect()
    assert torch.equal(values["0:input"], packed.data)
    assert torch.equal(values["0"], hidden)
    assert torch.equal(values["1"], 2 * hidden)


def test_maps_of_a_net_with_channels_last_come_with_channels_first() -> None:
    """A map of 1 x 2 positions and 3 channels: position 0 holds 0, 1, 2, position 1 holds 3, 4, 5."""

    class Last(nn.Module):
        output_fmt = "NHWC"

        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Identity()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.stage(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))  # type: ignore[no-any-return]

    taps = Taps(nn.Sequential(Last()))
    for target in ("0.stage", "0.stage:input", "0.conv", "0.conv:input", "0:input"):
        taps.add(target)
    image = torch.tensor([[[[0.0, 3.0]], [[1.0, 4.0]], [[2.0, 5.0]]]])
    with taps.reading():
        taps.model(image)
    read = taps.collect()
    for target in ("0.stage", "0.stage:input", "0.conv:input", "0:input"):
        assert torch.equal(read[target], image), target
    assert read["0.conv"].shape == (1, 3, 1, 2)


def test_a_swin_transformers_stages_come_as_maps() -> None:
    """12 channels at 8 x 8 positions, then 24 at 4 x 4; as timm itself turns them."""
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}
    net = pytest.importorskip("timm").create_model("swin_tiny_patch4_window7_224", **sizes).eval()
    taps, image = Taps(net), torch.randn(2, 3, 16, 16)
    taps.add("stages")
    taps.add("patch_embed.proj")
    with torch.no_grad(), taps.reading():
        net(image)
    read = taps.collect()
    assert [tuple(one.shape[1:]) for one in read["stages"]] == [(12, 8, 8), (24, 4, 4)]
    assert read["patch_embed.proj"].shape[1:] == (12, 8, 8)
    with torch.no_grad():
        own = net.forward_intermediates(image, output_fmt="NCHW", intermediates_only=True)
    torch.testing.assert_close(read["stages"], own)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_taps_agree_with_the_net(attention: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(  # type: ignore[call-arg]
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    config._attn_implementation = "eager"
    net = BertForSequenceClassification(config)
    net.train(False)
    ids = torch.randint(0, 20, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    expected = net(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    net.config._attn_implementation = attention
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    taps = Taps(net)
    taps.add("attention")
    taps.add("scores")
    with taps.reading():
        net(input_ids=ids, attention_mask=mask)
    got = taps.collect()
    assert len(got["attention"]) == 2
    for mine, theirs, scores in zip(got["attention"], expected, got["scores"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores.softmax(-1), mine)
    taps.remove()
    assert sum(len(m._forward_hooks) for m in net.modules()) == hooks


def test_taps_by_role(tmp_path: Path) -> None:
    shapes: list[Any] = []

    class Reads(Act):
        def __post_init__(self) -> None:
            self.prepare_ = lambda stage: [stage.student.tap(t) for t in ("stages", "logits", "attention")]

        @hookimpl
        def loss_terms(self, outputs: Mapping[str, Outputs]) -> None:
            taps = outputs["student"].taps
            shapes.append((len(taps["stages"]), taps["logits"][0].shape[1], tuple(taps["attention"][0].shape[1:])))

    model = {"key": "vit", "dim": 24, "depth": 3, "patch_size": 4}
    Run(recipe(["reads"], model=model), registry(reads=Reads), out=tmp_path / "o").execute()
    assert set(shapes) == {(3, 10, (3, 5, 5))}
