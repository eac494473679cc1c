from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of

from condensery import Transform
from condensery_plugins.quantization.abc_net import BinaryActivations
from condensery_plugins.quantization.calibration import plan_bits
from condensery_plugins.quantization.deepshift import FixedPoint
from condensery_plugins.quantization.lq_nets import LearnedBasis
from condensery_plugins.quantization.lsq import LSQ, LearnedStep
from condensery_plugins.quantization.observers import min_max
from condensery_plugins.quantization.pact import LearnedClip
from condensery_plugins.quantization.signs import ScaledSign
from condensery_plugins.quantization.uniform import for_input, for_unit_input


def quantizer(bits: int, step: float, *, signed: bool = True) -> LearnedStep:
    made = LearnedStep(bits, signed).double()
    with torch.no_grad():
        made.step.fill_(step)
    return made


def test_levels_by_hand() -> None:
    """Three bits, step 0.5: levels -4..3 times 0.5."""
    values = torch.tensor([-9.0, -1.3, -0.2, 0.3, 0.8, 1.2, 9.0], dtype=torch.float64)
    assert quantizer(3, 0.5)(values).tolist() == [-2.0, -1.5, 0.0, 0.5, 1.0, 1.0, 1.5]
    unsigned = quantizer(2, 1.0, signed=False)
    assert unsigned(torch.tensor([-1.0, 0.4, 1.6, 7.0], dtype=torch.float64)).tolist() == [0.0, 0.0, 2.0, 3.0]


def test_gradients_by_hand() -> None:
    """Step 1, two bits signed (-2..1), values 0.4, -5, 3: eq. 3 gives -0.4, -2, 1; eq. 5 passes the first only."""
    made = quantizer(2, 1.0)
    values = torch.tensor([0.4, -5.0, 3.0], dtype=torch.float64, requires_grad=True)
    made(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 0.0]
    assert made.step.grad is not None
    assert float(made.step.grad) == pytest.approx((-0.4 - 2 + 1) / (3 * 1) ** 0.5)  # g = 1 / sqrt(N Qp)


def test_the_batch_is_left_out_of_the_gradient_scale() -> None:
    made = LearnedStep(2, signed=False, batched=True).double()
    made(torch.full((8, 5), 9.0, dtype=torch.float64)).sum().backward()
    assert made.step.grad is not None
    assert float(made.step.grad) == pytest.approx(40 * 3 / (5 * 3) ** 0.5)


def test_an_empty_batch_stays_empty() -> None:
    """An expert of a mixture may be given no token."""
    for made in (LearnedStep(4), LearnedStep(4, batched=True)):
        assert made(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    "quantizer",
    [
        LearnedStep(4, batched=True),
        LearnedClip(4, 3.0),
        LearnedBasis(2, [], signed=False, activation=True).start(0.5),
        LearnedBasis(2, [], activation=True).start(0.5),
        BinaryActivations(2),
        ScaledSign(gradient="clip"),
        FixedPoint(8, 4),
        for_unit_input([torch.rand(9)], 4),
        for_input([torch.randn(9)], 4, min_max),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_not_a_number_stays_so(quantizer: Transform) -> None:
    """A net that has diverged mustn't look as if it hadn't, and leaves no trace in what follows the values."""
    found = quantizer.train()(torch.tensor([[torch.nan, 0.7, 5.0]]))
    assert bool(found[0, 0].isnan())
    assert bool(found[0, 1:].isfinite().all())
    after = quantizer(torch.tensor([[0.7, 5.0]]))
    assert bool(after.isfinite().all())


def test_start_and_settle() -> None:
    """2 mean|v| / sqrt(Qp) with mean 1.5 and Qp = 7."""
    made = LearnedStep(4).start(torch.tensor([1.0, -2.0]))
    assert float(made.step.detach()) == pytest.approx(2 * 1.5 / 7**0.5)
    with torch.no_grad():
        made.step.fill_(-0.25)
        made.settle(None)
    assert float(made.step.detach()) == 0.25


def test_the_promise_counts_levels() -> None:
    made = LearnedStep(2)
    assert made.holds(torch.tensor([-2.0, -1.0, 0.0, 1.0])) is None
    assert made.holds(torch.arange(6.0)) == "5 levels besides zero, more than 4"


@pytest.mark.parametrize(
    ("model", "task", "edges"),
    [
        ("resnet8", "digits", {"conv1", "linear"}),
        ("vit", "digits", {"patch_embed.proj", "head"}),
        # A Transformer's first layer is the embedding, which stays float: no linear layer inside gets its bits.
        ("transformer", "word-language", {"classifier"}),
    ],
)
def test_first_and_last_layer_get_the_edge_bits(model: str, task: str, edges: set[str]) -> None:
    bits = plan_bits(stage_of(model, task), 3, 8)
    assert {path for path, width in bits.items() if width == 8} == edges
    assert {width for path, width in bits.items() if path not in edges} == {3}


def test_steps_start_from_what_the_net_in_floats_sees() -> None:
    """Weights and inputs get a step each; an input's starts from the sampled examples, before any weight is rounded."""
    stage = stage_of("mlp", hidden=[20, 20])
    seen = {path: torch.cat(calls) for path, calls in stage.record_inputs(["fc1", "fc2", "fc3"], 128).items()}
    assert all(x.std() > 0 for x in seen.values())
    LSQ(weight_bits=2, activation_bits=3, edge_bits=5).prepare(stage=stage)
    for path, weight in stage.weights().by_path.items():
        assert weight.stack is not None
        own = weight.stack.transforms["lsq"]
        of_input = weight.module.get_submodule("condensery_input.transforms.lsq")
        assert isinstance(own, LearnedStep)
        assert isinstance(of_input, LearnedStep)
        assert (own.bits, of_input.bits) == ((2, 3) if path == "fc2" else (5, 5))
        torch.testing.assert_close(own.step.detach(), 2 * weight.latent.detach().abs().mean() / own.high**0.5)
        torch.testing.assert_close(of_input.step.detach(), 2 * seen[path].abs().mean() / of_input.high**0.5)
