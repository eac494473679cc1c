"""Weights that are drawn to a scale times few powers of two: projection, extragradient step, dual, end, storage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import Batch, NotApplicable, Stage, UsageError, load
from condensery.contract import build_method
from condensery.nets import Coding, Dense, attach
from condensery.recipe import parse_recipe
from condensery.storage import Source, decode
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.admm_extremely_low_bit import (
    SIZES,
    ADMMExtremelyLowBit,
    Levels,
    ScaledPowers,
    nearest,
    project,
)
from condensery_plugins.quantization.packed_bits import packed_layer
from condensery_plugins.quantization.packed_layers import ShiftLayer


def test_nearest_levels_of_weights_that_lie_channels_last() -> None:
    value = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(value.to(memory_format=torch.channels_last), (0, 1, 2)), nearest(value, (0, 1, 2)))


def test_nearest_levels_by_hand() -> None:
    """Parted halfway: 0, 1, 2, 4 at 1/2, 3/2 and 3, halfway going down; two levels at 0, which is +1."""
    value = torch.tensor([0.5, 0.51, -1.5, 1.51, -3.0, 3.01, -99.0, 0.0])
    assert nearest(value, (0, 1, 2, 4)).tolist() == [0, 1, -1, 2, -2, 4, -4, 0]
    assert nearest(value, (0, 1, 2)).tolist() == [0, 1, -1, 2, -2, 2, -2, 0]
    assert nearest(value, (0, 1)).tolist() == [0, 1, -1, 1, -1, 1, -1, 0]
    assert nearest(value, (1,)).tolist() == [1, 1, -1, 1, -1, 1, -1, 1]


def test_a_projection_by_hand() -> None:
    """Mean size 2: of 1, -1, 0, 6 over 2 the levels are 0, 0, 0, 1; the scale becomes 6, which parts at 3: stable.

    With sizes up to 4: 0.5, -0.5, 0, 3 give 0, 0, 0, 2 and the scale 3; 1/3 and 2 give the same levels.
    Two levels: signs 1, -1, 1, 1 and the scale (1 + 1 + 0 + 6) / 4.
    """
    value = torch.tensor([1.0, -1.0, 0.0, 6.0])
    assert [x.tolist() for x in project(value, (0, 1))] == [6, [0, 0, 0, 1]]
    assert [x.tolist() for x in project(value, (0, 1, 2, 4))] == [3, [0, 0, 0, 2]]
    assert [x.tolist() for x in project(value, (1,))] == [2, [1, -1, 1, 1]]


@pytest.mark.parametrize("levels", list(SIZES))
def test_scale_and_levels_are_the_best_for_each_other(levels: Levels) -> None:
    """In float64: no other scale, and no other level of any entry, is nearer."""
    torch.manual_seed(0)
    value = torch.randn(200, dtype=torch.float64)
    scale, found = project(value, SIZES[levels])
    error = (scale * found - value).square().sum()
    assert scale > 0
    for other in (0.99, 1.01):
        assert (other * scale * found - value).square().sum() > error
    for size in SIZES[levels]:
        for sign in (-1, 1):
            assert ((sign * size * scale - value).square() >= (scale * found - value).square() - 1e-12).all()


@pytest.mark.parametrize("levels", list(SIZES))
def test_zeros_and_constants(levels: Levels) -> None:
    """All zero: the scale is 0 and no number is none. A constant is exact."""
    for value in (torch.zeros(6), torch.full((6,), -0.25)):
        made = ScaledPowers(SIZES[levels]).start(value)
        assert torch.equal(made(value).abs(), value.abs())
        assert made.holds(made(value)) is None


def stored(made: ScaledPowers, final: Tensor) -> tuple[Tensor, int]:
    coding = made.code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    return decode(record, Source(torch.cat(data), "test"), REGISTRY), coding.cost(final).payload


@pytest.mark.parametrize(
    ("levels", "count", "payload"), [("binary", 2, 13), ("ternary", 3, 20), ("one-shift", 5, 38), ("two-shifts", 7, 38)]
)
def test_it_is_stored_at_its_width(levels: Levels, count: int, payload: int) -> None:
    """100 weights: a bit each are 12.5 bytes, five codes to a byte are 20, three bits each 37.5."""
    torch.manual_seed(0)
    value = torch.randn(4, 25)
    made = ScaledPowers(SIZES[levels]).start(value)
    final = made(value)
    assert len(torch.unique(final)) == count <= 2**made.bits
    back, size = stored(made, final)
    assert torch.equal(back, final)
    assert size == payload
    assert made.holds(final * 1.01) == f"{int((final != 0).sum())} values are no level"
    assert made.holds(final * (torch.rand(4, 25) < 0.5)) is None  # a mask's zeros


def test_a_product_is_a_shift_and_one_scale() -> None:
    """The layer on codes computes what the simulated one does, and its weights are the same to the bit."""
    torch.manual_seed(0)
    plain = nn.Linear(40, 8)
    nn.init.normal_(plain.weight)
    net = nn.Sequential(plain)
    attach(net, "0.weight", "m", ScaledPowers((0, 1, 2, 4)).start(plain.weight.detach()))
    layer = packed_layer(plain, "bits")
    assert isinstance(layer, ShiftLayer)
    assert torch.equal(layer.weight, plain.weight)
    assert len(torch.unique(layer.weight)) == 7
    x = torch.randn(5, 40)
    torch.testing.assert_close(layer(x), net(x), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------- the step


class Bowl:
    """A student of one weight w in float64 whose loss is f(w) = w^2, and a stage that gives its gradients, 2 w."""

    def __init__(self, w: float) -> None:
        self.w = nn.Parameter(torch.tensor([w], dtype=torch.float64))
        self.optimizer = torch.optim.SGD([self.w], lr=0.1)
        self.student = self
        self.training = [self]
        self.asked: list[float] = []
        self.method: ADMMExtremelyLowBit

    def weights(self) -> list[Any]:
        return [SimpleNamespace(name="w", latent=self.w)]

    def gradients(self, batch: Any, players: Any = None) -> None:
        self.asked.append(float(self.w.detach()))
        self.w.grad = 2 * self.w.detach()
        self.method.after_backward(stage=cast(Stage, self))

    def update(self, player: Any) -> None:
        self.optimizer.step()


@pytest.mark.parametrize(("ahead", "asked", "after"), [(1.0, [1.0, 0.76], 0.832), (0.0, [1.0], 0.76)])
def test_the_extragradient_step_by_hand(ahead: float, asked: list[float], after: float) -> None:
    """w = 1, G = 0.5, U = -0.1, rho = 1, rate 0.1: gradient 2 + (1 - 0.5 - 0.1) = 2.4, ahead at 1 - 0.24 = 0.76.

    There it is 1.52 + (0.76 - 0.6) = 1.68, and the step from 1 goes to 0.832; the plain step ends at 0.76.
    """
    bowl = Bowl(1.0)
    bowl.method = ADMMExtremelyLowBit(rho=1.0, ahead=ahead)
    bowl.method.targets_, bowl.method.duals_ = {"w": torch.tensor([0.5])}, {"w": torch.tensor([-0.1])}
    assert bowl.method.training_step(stage=cast(Stage, bowl), batch=cast(Batch, None))
    assert bowl.asked == pytest.approx(asked)
    assert float(bowl.w.detach()) == pytest.approx(after)


def test_the_dual_adds_up_what_is_left() -> None:
    """After a round U = W - G of W + U: first W - G(W), then W + U - G(W + U); both by the definition."""
    stage = stage_of("mlp", hidden=[20])
    method = ADMMExtremelyLowBit(rounds=8)  # as many as the stage has steps: one is due before each but the first
    method.prepare(stage=stage)
    method.before_step(stage=stage)
    weight = stage.weights().by_path["fc2"]
    latent = weight.latent.detach().clone()
    first = torch.mul(*project(latent, (0, 1)))
    assert first.any()
    assert torch.equal(method.targets_["fc2.weight"], first)

    stage.step = 1
    method.before_step(stage=stage)
    assert torch.equal(method.duals_["fc2.weight"], latent - first)
    stage.step = 2
    method.before_step(stage=stage)
    moved = latent + (latent - first)
    second = torch.mul(*project(moved, (0, 1)))
    assert torch.equal(method.targets_["fc2.weight"], second)
    torch.testing.assert_close(method.duals_["fc2.weight"], moved - second)
    assert torch.equal(weight.latent, latent)  # W itself moves in steps alone


# ---------------------------------------------------------------------------- the stage


def recipe(**settings: Any) -> Any:
    return parse_recipe(
        {
            "model": {"key": "mlp", "hidden": [20]},
            "task": "digits",
            "base": {"epochs": 1, "batch_size": 32},
            "data": {"subset": {"size": 256}},
            "train": {"epochs": 2, "batch_size": 32, "optimizer": {"lr": 0.02}},
            "stages": [{"methods": [{"admm-extremely-low-bit": settings}]}],
        }
    )


def test_the_net_that_is_left_is_low_bit(tmp_path: Path) -> None:
    """What is measured and stored is G, not the float weights it was trained with; a larger rho leaves less gap."""
    gaps = []
    for number, rho in enumerate((0.0, 3.0)):
        done = play(recipe(rho=rho, levels="two-shifts", rounds=1), REGISTRY, tmp_path / str(number))
        check_artifact(done, REGISTRY)
        net = load(done.folder / "artifact.safetensors")
        for path in ("fc1.weight", "fc2.weight"):
            assert 3 <= len(torch.unique(net.get_parameter(path))) <= 7
        gaps.append(done.run.stages[-1]["report"]["admm-extremely-low-bit.gap_percent"])
    assert 0 < gaps[1] < 0.8 * gaps[0], gaps


def test_edges_may_stay_float() -> None:
    stage = stage_of("resnet8", width=0.5)
    method = ADMMExtremelyLowBit(edges="float", samples=16)
    method.prepare(stage=stage)
    method.end_stage(stage=stage)
    held = {w.path: len(torch.unique(w.value)) for w in stage.weights()}
    assert held.pop("conv1") > 3
    assert held.pop("linear") > 3
    assert set(held.values()) == {3}
    with pytest.raises(NotApplicable, match="no layers between the first and the last"):
        method.prepare(stage=stage_of("mlp", hidden=[20]))


def test_other_levels_and_what_is_no_number_are_refused() -> None:
    with pytest.raises(UsageError, match=r"admm-extremely-low-bit\.levels must be one of"):
        build_method("admm-extremely-low-bit", ADMMExtremelyLowBit, {"levels": "33"}, None)
    stage = stage_of("mlp", hidden=[20])
    stage.weights().by_path["fc2"].latent.data[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="layer 'fc2' has weights that are not finite"):
        ADMMExtremelyLowBit().prepare(stage=stage)
