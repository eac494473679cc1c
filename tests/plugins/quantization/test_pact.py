from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of
from torch import Tensor, nn

from condensery import NotApplicable
from condensery.nets import attached
from condensery.recipe import OptimizerSpec
from condensery_plugins.quantization.pact import PACT, LearnedClip
from condensery_plugins.quantization.rectifiers import rectifiers
from condensery_plugins.quantization.uniform import Uniform


class Mixed(nn.Module):
    """One ReLU as a module, one as a function, and one behind all layers but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(64, 64) for _ in range(3))
        self.four = nn.Linear(64, 10)
        self.relu, self.last = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.relu(self.one(x.flatten(1))))
        return self.four(self.last(self.three(torch.relu(x))))  # type: ignore[no-any-return]


def test_levels_and_gradients_by_hand() -> None:
    """Two bits, alpha 3: levels 0, 1, 2, 3. x has its gradient between 0 and alpha, alpha where x is beyond."""
    made = LearnedClip(2, 3.0).double()
    x = torch.tensor([-1.0, 0.0, 0.4, 1.6, 2.9, 3.0, 7.0], dtype=torch.float64, requires_grad=True)
    out = made(x)
    assert out.tolist() == [0, 0, 0, 2, 3, 3, 3]

    (out * torch.arange(1.0, 8, dtype=torch.float64)).sum().backward()
    assert x.grad is not None
    assert made.alpha.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]
    assert float(made.alpha.grad) == 6 + 7


def test_it_is_the_papers_formula_in_float64() -> None:
    """y = (|x| - |x - a| + a) / 2, then round(y (2^k - 1) / a) a / (2^k - 1)."""
    x = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    for bits, alpha in ((2, 1.7), (4, 4.0)):
        y = (x.abs() - (x - alpha).abs() + alpha) / 2
        n = 2**bits - 1
        wanted = (y * n / alpha).round() * alpha / n
        torch.testing.assert_close(LearnedClip(bits, alpha).double()(x).detach(), wanted, atol=1e-6, rtol=0)


def test_alpha_decays_as_the_weights_do_unless_told_otherwise() -> None:
    for decay, wanted in ((None, 0.02), (0.5, 0.5)):
        stage = stage_of("resnet8", width=0.5)
        PACT(decay=decay).prepare(stage=stage)
        alphas = [a.transform.alpha for a in attached(stage.student.module) if isinstance(a.transform, LearnedClip)]
        assert len(alphas) == 6  # all but the one before the last layer
        decays = {
            id(p): group["weight_decay"]
            for group in stage.student.groups(OptimizerSpec(lr=0.1, weight_decay=0.02))
            for p in group["params"]
        }
        assert {decays[id(alpha)] for alpha in alphas} == {wanted}


def test_settling_keeps_alpha_positive() -> None:
    made = LearnedClip(2, 1.0)
    with torch.no_grad():
        made.alpha.fill_(-4)
        made.settle(None)
    assert float(made.alpha.detach()) > 0


def test_relus_are_found_with_the_layer_behind_them() -> None:
    stage = stage_of("mlp", hidden=[])
    stage.student.module = Mixed()
    stage.changed()
    found = rectifiers(stage)
    assert found.modules == {"relu": "two", "last": "four"}
    assert found.functions == [""]

    method = PACT()
    method.prepare(stage=stage)
    assert {a.target for a in attached(stage.student.module)} == {"two.weight", "three.weight", "relu:output"}
    report = method.report(stage=stage)
    assert report["clips_count"] == 1
    assert report["unreached_relu_count.net"] == 1


def test_the_relu_before_a_quantized_last_layer_is_cut_too() -> None:
    stage = stage_of("mlp", hidden=[])
    stage.student.module = Mixed()
    stage.changed()
    PACT(activation_bits=3, edge_bits=6).prepare(stage=stage)
    widths = {a.target: a.transform.bits for a in attached(stage.student.module)}
    assert widths["relu:output"] == 3
    assert widths["last:output"] == 6
    assert widths["one:input"] == widths["four:input"] == 6


def test_a_quantized_last_layer_of_an_untrained_net_is_alive() -> None:
    """Its input has a clip that learns: a range seen of random weights would hold what it computes later at zero."""
    stage = stage_of("resnet8", width=0.5)
    PACT(weight_bits=2, activation_bits=2, edge_bits=2).prepare(stage=stage)
    quantizers = {a.target: a.transform for a in attached(stage.student.module)}
    assert isinstance(quantizers["linear:input"], LearnedClip)
    assert isinstance(quantizers["conv1:input"], Uniform)  # what it is given has a range that stands still
    last = quantizers["linear:input"]
    assert last(torch.tensor([0.0, 2.0, 4.0, 9.0])).tolist() == pytest.approx([0, 10 / 3, 10 / 3, 10])


def test_a_signed_input_of_an_edge_has_all_of_its_levels() -> None:
    """Images from -1 to 2 at 2 bits: -1, 0, 1 and 2, where a symmetric grid has three levels."""
    found = PACT(edge_bits=2)._edge([torch.tensor([[-1.0, 0.2, 2.0]])], 2)
    assert found(torch.tensor([-1.0, -0.2, 0.7, 1.8])).tolist() == pytest.approx([-1, 0, 1, 2])


def test_without_examples_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of("resnet8", width=0.5)
    monkeypatch.setattr(type(stage), "record_inputs", lambda *args, **kwargs: {})
    for method in (PACT(start=None), PACT(edge_bits=8)):
        with pytest.raises(NotApplicable, match="the calibration set is empty"):
            method.prepare(stage=stage)


def test_a_net_whose_relus_are_functions_is_refused_by_name() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(64, 8))
            self.out = nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.inner(x.flatten(1))))  # type: ignore[no-any-return]

    stage = stage_of("mlp", hidden=[])
    stage.student.module = nn.Sequential(Functional())
    stage.changed()
    with pytest.raises(
        NotApplicable, match=r"called as a function, which can't be reached, in '0'; make it an nn\.ReLU"
    ):
        PACT().prepare(stage=stage)


def test_a_start_from_data_fits_what_relus_let_through() -> None:
    stage = stage_of("resnet8", width=0.5)
    high = max(float(x.max()) for x in stage.record_inputs(["layer1.0.relu1"], 128)["layer1.0.relu1"])
    assert high > 0
    PACT(start=None, activation_bits=2).prepare(stage=stage)
    clips = {a.target: a.transform for a in attached(stage.student.module)}
    clip = clips["layer1.0.relu1:output"]
    assert isinstance(clip, LearnedClip)
    assert 0.05 * high < float(clip.alpha.detach()) < 0.9 * high
