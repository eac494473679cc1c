"""Signs times powers of two: rounding, trained powers and signs, their gradients, fixed point, shifts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of

from condensery import UsageError, load
from condensery.contract import build_method
from condensery.nets import Coding, Dense, Transform
from condensery.recipe import parse_recipe
from condensery.storage import Source, decode
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.deepshift import DeepShift, FixedPoint, RoundedPowers, TrainedShifts
from condensery_plugins.quantization.packed_layers import ShiftLayer


def test_rounded_powers_by_hand() -> None:
    """Three bits: 1, 1/2, 1/4 and 1/8, parted where the logarithm is half way: 0.71, 0.354 and 0.177.

    There is no zero: it becomes the smallest with a plus, and what is above 1 becomes 1.
    """
    value = torch.tensor([1.0, 0.71, 0.70, -0.36, -0.35, 0.18, 0.17, 0.0, -0.0, -9.0], dtype=torch.float64)
    value.requires_grad_()
    made = RoundedPowers(3)
    out = made(value)
    assert out.tolist() == [1, 1, 0.5, -0.5, -0.25, 0.25, 0.125, 0.125, 0.125, -1]
    out.sum().backward()
    assert value.grad is not None
    assert set(value.grad.tolist()) == {1.0}


def test_latent_weights_stay_within_the_levels() -> None:
    """So that one that trains towards zero can still come back, and change its sign."""
    latent = torch.tensor([3.0, -0.001, 0.0, 0.3])
    RoundedPowers(3).start(latent)
    assert latent.tolist() == [1, -0.125, 0.125, pytest.approx(0.3)]


def test_trained_shifts_by_hand() -> None:
    """p = round(-1.4) = -1 and s = sign(round(0.6)) = 1: 1/2; s = 0 below a half; gradients g w ln 2 and g."""
    made = TrainedShifts(5, [4]).double()
    with torch.no_grad():
        made.shift.copy_(torch.tensor([-1.4, -2.0, 0.0, -3.0]))
        made.sign.copy_(torch.tensor([0.6, -1.3, 0.4, -0.5]))
    value = torch.randn(4, dtype=torch.float64, requires_grad=True)
    out = made(value)
    assert out.tolist() == [0.5, -0.25, 0, 0]

    (out * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert made.shift.grad is not None
    assert made.sign.grad is not None
    assert made.shift.grad.tolist() == pytest.approx([0.5 * math.log(2), -0.5 * math.log(2), 0, 0])
    assert made.sign.grad.tolist() == [1, 2, 3, 4]  # the chain rule would have 1/2, 1/2, 3 and 1/2
    assert value.grad is None


def test_a_shifts_gradient_is_that_of_differences() -> None:
    """Of s 2^p for real p, at a whole number."""
    made = TrainedShifts(5, [1]).double().start(torch.tensor([-0.25], dtype=torch.float64))
    made(torch.zeros(1, dtype=torch.float64)).sum().backward()
    assert made.shift.grad is not None
    step = 1e-6
    assert made.shift.grad.item() == pytest.approx((-(2 ** (-2 + step)) + 2 ** (-2 - step)) / (2 * step), rel=1e-6)


def test_trained_shifts_start_from_the_weights_or_anew() -> None:
    """Three bits: p from -2 to 0; a weight that is zero has the sign 0, and one that is tiny the smallest power."""
    made = TrainedShifts(3, [4]).start(torch.tensor([0.5, -0.01, 0.0, 7.0]))
    assert made(torch.zeros(4)).tolist() == [0.5, -0.25, 0, 1]
    with torch.no_grad():
        made.shift.add_(5)
        made.settle(None)
    assert made.shift.tolist() == [0] * 4

    drawn = TrainedShifts(5, [4000]).start(torch.zeros(4000), torch.Generator().manual_seed(0))
    assert -14 <= drawn.shift.min() < -13.9
    assert -0.1 < drawn.shift.max() <= 0
    assert drawn.sign.abs().max() <= 1
    assert float((drawn(torch.zeros(4000)) == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert made.settings == {"weight_decay": 0.0}  # decay would pull every weight to 1


def test_fixed_point_is_rounded_down() -> None:
    """Two bits behind the point of five: quarters from -4 to 3."""
    x = torch.tensor([0.49, -0.01, 3.3, -9.0, 1.0], requires_grad=True)
    out = FixedPoint(5, 2)(x)
    assert out.tolist() == [0.25, -0.25, 3, -4, 1]
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1] * 5


@pytest.mark.parametrize(("made", "levels"), [(RoundedPowers(4), 16), (TrainedShifts(4, [4000]), 15)])
def test_levels_are_stored_in_their_width(made: Transform, levels: int) -> None:
    value = torch.exp(-8 * torch.rand(4000)) * torch.randn(4000).sign()
    value[:9] = 0
    assert isinstance(made, RoundedPowers | TrainedShifts)
    final = made.start(value)(value).detach()
    assert len(final.unique()) == levels  # type: ignore[no-untyped-call]
    assert made.holds(final) is None
    assert made.holds(final * 3) == f"{int((final != 0).sum())} values are no powers of two"

    coding = made.code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    assert torch.equal(decode(record, Source(torch.cat(data), "test"), REGISTRY), final)
    assert coding.cost(final).payload == 4000 * 4 / 8


def test_settings_that_make_no_sense_are_refused() -> None:
    card = REGISTRY.card("deepshift")
    for bits in (0, 33):
        with pytest.raises(Exception, match=r"deepshift.bits must be >= 2 and <= 6"):
            build_method("deepshift", DeepShift, {"bits": bits}, card)
    with pytest.raises(UsageError, match="fraction_bits must be < activation_bits 8, got 16"):
        DeepShift(activation_bits=8)
    with pytest.raises(UsageError, match="restart is for variant ps"):
        DeepShift(restart=True)


def test_all_layers_take_part() -> None:
    stage = stage_of("resnet8", width=0.5)
    DeepShift(variant="ps", restart=True).prepare(stage=stage)
    assert all(w.stack is not None and "deepshift" in w.stack.transforms for w in stage.weights())
    assert all((w.value.abs().log2() % 1 == 0).logical_or(w.value == 0).all() for w in stage.weights())


@pytest.mark.parametrize("settings", [{}, {"variant": "ps", "activation_bits": 8, "fraction_bits": 5}])
def test_a_run_ends_on_shifts(settings: dict[str, Any], tmp_path: Path) -> None:
    """Of inputs on a grid the sums are whole numbers; the net gives what the simulated one does."""
    stages = [{"methods": [{"deepshift": settings}], "epochs": 1}, {"methods": ["packed-bits"], "epochs": 0}]
    nets = []
    for count in (1, 2):
        recipe = parse_recipe(
            {
                "model": {"key": "mlp", "hidden": [128, 96], "batch_norm": True},
                "task": "digits",
                "base": "none",
                "data": {"subset": {"size": 64}},
                "train": {"batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}},
                "stages": stages[:count],
            }
        )
        done = play(recipe, REGISTRY, tmp_path / str(count))
        check_artifact(done, REGISTRY)
        weights = 64 * 128 + 128 * 96 + 96 * 10
        assert weights * 5 / 8 < (done.folder / "artifact.safetensors").stat().st_size < weights + 4096
        nets.append(load(done.folder / "artifact.safetensors"))

    assert sum(isinstance(m, ShiftLayer) for m in nets[1].modules()) == 3
    x = torch.randn(9, 1, 8, 8)
    expected = nets[0](x)
    assert expected.std() > 0.05
    torch.testing.assert_close(nets[1](x), expected, rtol=1e-3, atol=1e-3)
