"""Powers of two that are held for good, part after part: levels, choice of the parts, rounds, storage, shifts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor

from condensery import NotApplicable, load
from condensery.contract import build_method
from condensery.nets import Coding, Dense
from condensery.recipe import parse_recipe
from condensery.storage import Source, decode
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.inq import INQ, HeldPowers
from condensery_plugins.quantization.packed_layers import ShiftLayer


def held(value: Tensor, bits: int, share: float = 1.0) -> HeldPowers:
    made = HeldPowers(list(value.shape), bits).start(value)
    made.hold(value, share, value.abs())
    return made


def test_levels_by_hand() -> None:
    """The largest is 1.4: n1 = floor(log2 1.87) = 0. Three bits: n2 = -1, so that the levels are 0, 1/2 and 1.

    They are parted at 1/4, half of the smallest, and at 3/4; what is exactly there goes up.
    """
    value = torch.tensor([1.4, 0.75, -0.749, 0.25, -0.249, 0.0])
    assert held(value, 3)(value).tolist() == [1, 1, -0.5, 0.5, 0, 0]
    assert held(value, 2)(value).tolist() == [1, 1, -1, 0, 0, 0]  # one power; parted at 1/2
    # 1.5 is where the next power starts: n1 = 1; and 2^(5 - 2) = 8 powers go down to 2^-6.
    value = torch.tensor([1.5, 2**-7, 2**-7 * 0.99, -(2**-6) * 1.5])
    assert held(value, 5)(value).tolist() == [2, 2**-6, 0, -(2**-5)]


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_each_width_has_its_levels(bits: int) -> None:
    """A sign times 2^(bits - 2) powers, and zero: 3, 5, 9 and 17 levels, stored in as many bits as there are codes."""
    value = torch.cat([2.0 ** torch.arange(0, -12, -1), -(2.0 ** torch.arange(0, -12, -1))]).repeat(100)
    final = held(value, bits)(value)
    assert len(final.unique()) == 2 ** (bits - 1) + 1  # type: ignore[no-untyped-call]

    coding = held(value, bits).code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    assert torch.equal(decode(record, Source(torch.cat(data), "test"), REGISTRY), final)
    assert coding.cost(final).payload == bits * len(final) / 8


def test_the_powers_of_the_float_net_stay() -> None:
    """What grows beyond 3/2 of the largest later becomes the largest, and does not vanish."""
    made = HeldPowers([2], 3).start(torch.tensor([1.0, 0.1]))
    made.hold(torch.tensor([1.0, -5.0]), 1.0, torch.ones(2))
    assert made(torch.zeros(2)).tolist() == [1, -1]


def test_parts_are_the_largest_and_once_held_stay() -> None:
    """Half of six first: 6, -5 and 4. Then the rest grows; five of six are held, none of the first is let go."""
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, -5.0, 6.0])
    made = held(value, 5, 0.5)
    assert made.held.tolist() == [False] * 3 + [True] * 3
    assert made(value).tolist() == [1, 2, 3, 4, -4, 8]
    assert made.bits is None

    grown = value * torch.tensor([9.0, 9.0, 9.0, 1.0, 1.0, 1.0])
    made.hold(made(grown), 5 / 6, grown.abs())
    assert made.held.tolist() == [False] + [True] * 5
    assert made(grown).tolist() == [9, 8, 8, 4, -4, 8]  # 18 and 27 are beyond the largest power
    made.hold(made(grown), 0.2, grown.abs())
    assert int(made.held.sum()) == 5


def test_a_held_weight_has_no_gradient_and_does_not_follow_its_latent() -> None:
    value = torch.tensor([1.0, 0.3], dtype=torch.float64)
    made = held(value, 5, 0.5)
    latent = value.clone().requires_grad_()
    made(latent).sum().backward()
    assert latent.grad is not None
    assert latent.grad.tolist() == [0, 1]
    assert made(latent.detach() - 0.2).tolist() == [1, pytest.approx(0.1)]  # as momentum and decay would move it


def test_all_zero_and_broken_weights() -> None:
    assert held(torch.zeros(3), 5)(torch.zeros(3)).tolist() == [0, 0, 0]
    stage = stage_of("mlp", hidden=[8])
    with torch.no_grad():
        stage.weights().by_path["fc2"].latent[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="'fc2' has weights that are not finite"):
        INQ().prepare(stage=stage)
    for bits in (0, 33):
        with pytest.raises(Exception, match=r"inq.bits must be >= 2 and <= 7"):
            build_method("inq", INQ, {"bits": bits}, REGISTRY.card("inq"))


def test_masks_may_come_later() -> None:
    value = torch.tensor([1.0, 0.5])
    assert held(value, 5).holds(torch.tensor([0.0, 0.5])) is None
    assert held(value, 5).holds(torch.tensor([1.0, 0.25])) == "1 weights left their level"


def test_drawn_parts_are_not_the_largest() -> None:
    stage = stage_of("mlp", hidden=[64])
    INQ(parts=1, share=0.5, partition="random").prepare(stage=stage)
    weight = stage.weights()[0]
    assert weight.stack is not None
    own = weight.stack.transforms["inq"]
    assert isinstance(own, HeldPowers)
    assert int(own.held.sum()) == weight.latent.numel() // 2
    assert weight.latent[~own.held].abs().max() > weight.latent[own.held].abs().median()


def recipe(stages: list[Any]) -> Any:
    return parse_recipe(
        {
            "model": {"key": "mlp", "hidden": [128, 96], "batch_norm": True},
            "task": "digits",
            "base": "none",
            "data": {"subset": {"size": 64}},
            "train": {"batch_size": 16, "optimizer": {"lr": 0.05, "weight_decay": 0.01, "options": {"momentum": 0.9}}},
            "stages": stages,
        }
    )


def test_parts_of_a_stage_and_of_a_round(tmp_path: Path) -> None:
    """Six steps for three phases: parts at steps 0, 2, 4 and the end. In rounds a part for each pass."""
    seen: list[int] = []

    class Watched(INQ):
        def _hold(self, stage: Any) -> None:
            super()._hold(stage)
            if not stage.dry:
                seen.append(stage.step)

    stage = stage_of("mlp", hidden=[8])
    stage.train = stage.train.model_copy(update={"max_steps": 6})
    method = Watched()
    method.prepare(stage=stage)
    for step in range(6):
        stage.step = step
        method.before_step(stage=stage)
    stage.step = 6
    method.end_stage(stage=stage)
    assert seen == [0, 2, 4, 6]
    assert method.report(stage=stage)["held_percent"] == 100

    passes = {"methods": [{"inq": {"parts": 1, "share": [0.5, 1.0]}}], "epochs": [1, 0]}
    done = play(recipe([{"repeat": 2, "stages": [passes]}]), REGISTRY, tmp_path / "rounds")
    assert [round(entry["report"]["inq.held_percent"]) for entry in done.run.stages] == [50, 100]
    check_artifact(done, REGISTRY)


def test_an_artifact_holds_codes_and_ends_on_shifts(tmp_path: Path) -> None:
    stages: list[Any] = ["inq", {"methods": ["packed-bits"], "epochs": 0}]
    nets = []
    for count in (1, 2):
        done = play(recipe([{"methods": ["inq"], "epochs": 1}, stages[1]][:count]), REGISTRY, tmp_path / str(count))
        check_artifact(done, REGISTRY)
        size = (done.folder / "artifact.safetensors").stat().st_size
        weights = 64 * 128 + 128 * 96 + 96 * 10
        assert weights * 5 / 8 < size < weights * 5 / 8 * 1.5 + 4096
        nets.append(load(done.folder / "artifact.safetensors"))

    assert sum(isinstance(m, ShiftLayer) for m in nets[1].modules()) == 3
    x = torch.randn(9, 1, 8, 8)
    expected = nets[0](x)
    assert expected.std() > 0.05
    torch.testing.assert_close(nets[1](x), expected, rtol=1e-4, atol=1e-4)
