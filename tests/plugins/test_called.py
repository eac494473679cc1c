"""What is put on a net takes part when the net plays, or the net is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Sign
from tests.plugins.squeezed import Squeezed, refused
from torch import Tensor, nn

from condensery import UsageError
from condensery.nets import attach
from condensery.run.called import refuse_uncalled
from condensery.tasks import Batch, TaskFacts
from condensery_plugins.pruning.masks import Mask


class Standard(nn.Conv2d):
    """Standardizes its weight before it uses it."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, padding=self.padding)


def test_a_mask_that_weight_standardization_undoes_is_refused(tmp_path: Path) -> None:
    def make(facts: Any) -> nn.Module:
        body = Standard(facts.channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1)
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, facts.outputs))

    said = refused("magnitude(sparsity=0.5)", make, tmp_path / "o")
    assert said.startswith("layer '0': Standard changes its weight before it uses it, so that what a mask holds")
    done = Squeezed("magnitude(sparsity=0.5, skip=['0'])", make, tmp_path / "o")
    assert float((done.net.get_submodule("2").get_parameter("weight") == 0).float().mean()) > 0.4
    assert done.outputs_are_kept()


class Mirror(nn.Module):
    """Uses the weight of a layer twice: as the layer does, and transposed by a function."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.enc, self.head = nn.Linear(facts.size**2, 32), nn.Linear(facts.size**2, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.head(x + nn.functional.linear(torch.relu(self.enc(x)), self.enc.weight.t()))  # type: ignore[no-any-return]


def test_a_weight_that_a_function_uses_too_is_masked_in_both_places(tmp_path: Path) -> None:
    done = Squeezed("magnitude(sparsity=0.5)", Mirror, tmp_path / "o")
    assert float((done.net.get_submodule("enc").get_parameter("weight") == 0).float().mean()) > 0.3
    assert done.outputs_are_kept()


@pytest.mark.parametrize(
    ("line", "what"), [("lsq", "'lsq' on its input"), ("jacob-integer-only", "FoldedLinear in its place")]
)
def test_a_weight_that_is_used_without_its_layer_is_refused(line: str, what: str, tmp_path: Path) -> None:
    said = refused(line, Mirror, tmp_path / "o")
    assert said == f"layer 'enc': its weights are used without a call of the layer, so that {what} takes no part"


class Attentive(nn.Module):
    """An encoder layer, which torch runs as one operation in eval mode where it can, on the rows of an image."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(facts.size, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(facts.size, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x.squeeze(1)).mean(1))  # type: ignore[no-any-return]


def test_layers_that_a_fast_path_gets_round_are_refused(tmp_path: Path) -> None:
    said = refused("jacob-integer-only", Attentive, tmp_path / "o")
    assert said.startswith("layer 'block.linear1': its weights are used without a call of the layer")


def test_an_encoder_layers_weights_are_all_pruned(tmp_path: Path) -> None:
    done = Squeezed("magnitude(sparsity=0.8, scope=local)", Attentive, tmp_path / "o")
    matrices = [p for p in done.net.parameters() if p.dim() > 1]
    assert len(matrices) == 5  # query, key and value in one, the projection behind them, two of the MLP, the head
    assert sum(int((p == 0).sum()) for p in matrices) == pytest.approx(0.8 * sum(p.numel() for p in matrices), abs=3)
    assert "missed" not in done.stage()
    assert done.outputs_are_kept()


class Two(nn.Module):
    """Has a head for training alone."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(facts.size**2, 16), nn.Linear(16, facts.outputs)
        self.help = nn.Linear(16, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x.flatten(1)).relu()
        return self.head(seen) + self.help(seen) if self.training else self.head(seen)  # type: ignore[no-any-return]


def test_a_layer_that_is_called_in_one_mode_is_reported() -> None:
    net = Two(TaskFacts("image", outputs=10, channels=1, size=8))
    for path in ("body", "help"):
        attach(net, f"{path}:input", "given", Sign())
    batches = [Batch(torch.randn(2, 1, 8, 8))]
    assert refuse_uncalled(net, lambda net, batch: net(batch.inputs), batches) == {"help": "in train mode only"}


def test_a_masked_square_weight_is_used_as_it_is_whichever_way_it_lies() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Conv2d(3, 3, 3, padding=1))
    for path in ("0", "1"):
        mask = Mask(net.get_submodule(path).get_parameter("weight").shape)
        mask.keep[0, 1:] = False
        attach(net, f"{path}.weight", "mask", mask)
    assert refuse_uncalled(net, lambda net, batch: net(batch.inputs), [Batch(torch.randn(2, 3, 6, 6))]) == {}


class Experts(nn.Module):
    """Of three experts one answers: the second where the first pixel is dark, the third never."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(facts.size**2, facts.outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[int(x[0].mean() < 0)](x.flatten(1))  # type: ignore[no-any-return]


def test_a_layer_that_some_inputs_need_is_waited_for() -> None:
    net = Experts(TaskFacts("image", outputs=10, channels=1, size=8))
    for path in ("experts.0", "experts.1"):
        attach(net, f"{path}:input", "given", Sign())
    batches = [Batch(torch.ones(2, 1, 8, 8)), Batch(-torch.ones(2, 1, 8, 8))]
    assert refuse_uncalled(net, lambda net, batch: net(batch.inputs), batches) == {"experts.1": "not in every pass"}

    attach(net, "experts.2:input", "given", Sign())
    with pytest.raises(UsageError, match=r"layer 'experts.2' is never called, so that 'given' on its input takes no"):
        refuse_uncalled(net, lambda net, batch: net(batch.inputs), batches)


def test_a_transform_that_meets_no_float_is_refused() -> None:
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    attach(net, "0:input", "given", Sign())
    with pytest.raises(UsageError, match="layer '0' is given no floats, so that 'given' on its input takes no part"):
        refuse_uncalled(net, lambda net, batch: net(batch.inputs), [Batch(torch.tensor([[1, 2]]))])
