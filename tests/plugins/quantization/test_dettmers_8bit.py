from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of

from condensery import NotApplicable
from condensery.run import Bucket, Exchanged
from condensery_plugins.quantization.dettmers_8bit import Dettmers8Bit
from condensery_plugins.quantization.eight_bits import EightBits, decoded, encoded, rounded, table


def test_the_tree_has_256_numbers() -> None:
    """64 of each sign between 0.1 and 1, half as many in each lower decade, 1 in the last; zero, and the maximum."""
    numbers = table("tree")
    assert len(numbers) == 256
    for place in range(7):
        top = 10.0 ** (place - 6)
        inside = (numbers > top / 10) & (numbers < top)
        assert int(inside.sum()) == 2**place
        assert int(((numbers < -top / 10) & (numbers > -top)).sum()) == 2**place
    assert float(numbers[numbers > 0].min()) == pytest.approx(0.55e-6)
    assert float(numbers.max()) == 1.0
    assert float(numbers.min()) == pytest.approx(-1 + 0.9 / 128)
    assert 0.0 in numbers


def test_a_number_is_the_middle_of_its_part() -> None:
    """0.2345678 lies in part 9 of the 64 of 0.1 to 1, whose middle is 0.1 + 9.5 x 0.9 / 64; a base of ten, not two."""
    x = torch.tensor([0.2345678, 0.02345678, 1.0, -1.0, 0.0, 2.7e-7])
    # The next lower decade has 32 parts: 0.01 + 4.5 x 0.09 / 32 and 5.5 are as near as 0.02266 and 0.02547.
    assert rounded(x, "tree").tolist() == pytest.approx(
        [0.1 + 9.5 * 0.9 / 64, 0.01 + 4.5 * 0.09 / 32, 1.0, -1 + 0.45 / 64, 0.0, 0.0]
    )


def test_the_other_types() -> None:
    x = torch.tensor([0.2345678, -1.0])
    assert rounded(x, "linear").tolist() == pytest.approx([30 / 127, -1.0])  # 29.79 steps
    assert rounded(x, "mantissa").tolist() == pytest.approx([0.2, -1.0])  # the paper's worked example
    # Part 2 of 16 of 0.1 to 1; -1 is nearer to the last middle below, 0.972, than to the first above, 1.28.
    assert rounded(x, "static-tree").tolist() == pytest.approx([0.1 + 2.5 * 0.9 / 16, -(1 - 0.45 / 16)])
    assert [len(table(kind)) for kind in ("linear", "static-tree")] == [255, 255]
    assert len(table("mantissa")) <= 256
    assert rounded(torch.tensor([17.0, 2000.0]), "mantissa", 2).tolist() == pytest.approx([15.0, 150.0])


def test_types_without_a_scale_reach_beyond_the_largest_normal_numbers() -> None:
    """By the paper's offset the largest decade is 1 to 10: fifteen ones, or 16 parts of 9/16 with their middles.

    4.4 is next to 4, and in part 6 of 16, from 1 + 6 x 9/16 on; with no offset both types would end near 1.
    """
    x = torch.tensor([4.4, -4.4, 20.0])
    assert rounded(x, "mantissa").tolist() == pytest.approx([4, -4, 15])
    middle = 1 + 6.5 * 9 / 16
    assert rounded(x, "static-tree").tolist() == pytest.approx([middle, -middle, 10 - 4.5 / 16])
    assert rounded(x, "mantissa", 0).tolist() == pytest.approx([1.5, -1.5, 1.5])
    assert Dettmers8Bit(kind="mantissa").offset == EightBits("mantissa").offset == 1

    # Of normal numbers the paper's Table 2 prints 6.89 and 6.3 %; cut off at 1 the second would be 12.5 %.
    x = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    for kind in ("mantissa", "static-tree"):
        assert float(((rounded(x, kind) - x).abs() / x.abs()).mean()) == pytest.approx(0.05, abs=0.002)


def test_small_numbers_keep_their_digits_where_even_steps_lose_them() -> None:
    """The paper's Table 2: 2.46 against 6.47 % of normal numbers, and 1.39 against 2.16 % of even ones."""
    generator = torch.Generator().manual_seed(0)
    for x, ratio in (
        (torch.randn(10**6, generator=generator), 2.46 / 6.47),
        (torch.rand(10**6, generator=generator), 1.39 / 2.16),
    ):
        tree, linear = (float(((rounded(x, kind) - x).abs() / x.abs()).mean()) for kind in ("tree", "linear"))
        assert tree / linear == pytest.approx(ratio, abs=0.06)


def test_each_row_has_its_own_scale_and_zeros_stay() -> None:
    x = torch.tensor([[4.0, -2.0, 0.0], [0.0, 0.0, 0.0], [1e-8, -5e-9, 0.0]])
    codes, scale = encoded(x, "tree")
    assert codes.dtype == torch.uint8
    assert scale.flatten().tolist() == pytest.approx([4.0, 0.0, 1e-8])
    half = 0.1 + 28.5 * 0.9 / 64  # 0.5 lies in part 28
    assert decoded(codes, scale, "tree")[0].tolist() == pytest.approx([4.0, -4 * half, 0.0])
    assert decoded(codes, scale, "tree")[1].tolist() == [0.0, 0.0, 0.0]
    assert decoded(codes, scale, "tree")[2].tolist() == pytest.approx([1e-8, -1e-8 * half, 0.0], abs=1e-12)
    assert encoded(torch.zeros(2, 0), "tree")[1].tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("kind", ["tree", "linear", "mantissa", "static-tree"])
def test_a_row_that_is_not_finite_is_so_behind_the_wire(kind: Any) -> None:
    """No code says that a gradient has exploded, so its row's scale does."""
    x = torch.tensor([[0.1, torch.nan, -0.2], [0.1, 0.3, -0.2]])
    found = decoded(*encoded(x, kind), kind)
    assert bool(found[0].isnan().all())
    assert bool(found[1].isfinite().all())


def test_workers_average_what_they_decode() -> None:
    """Two workers send 3 bytes and a float of 4: 12 bytes of floats over 7."""
    stage = stage_of("mlp", hidden=[20])
    method = Dettmers8Bit(kind="linear")
    method.prepare(stage=stage)
    sent = torch.tensor([[1.27, 0.633, 0.0], [-2.54, 0.0, 0.011]])
    bucket = Bucket("fc1.weight", torch.Size([3]), sent)
    agreed = method.exchange(stage=stage, player=stage.student, bucket=bucket)
    assert agreed is not None
    # In steps of 0.01 and 0.02: 127, 63.3 -> 63, 0, and -127, 0, 0.55 -> 1.
    assert agreed.tolist() == pytest.approx([(1.27 - 2.54) / 2, 0.63 / 2, 0.02 / 2], abs=1e-6)

    report = method.report(stage)
    counted = Exchanged()
    counted.count(bucket)
    assert (counted.sent, counted.plain) == (7, 12)
    # 0, 0.003 / 0.633, 0 and 0.009 / 0.011, of the four numbers that aren't zero.
    assert report["gradient_error_percent"] == pytest.approx(100 * (0.003 / 0.633 + 0.009 / 0.011) / 4, rel=1e-3)
    assert "reached_percent" not in report  # the net itself stays as it is


def test_gradients_may_be_left_to_core() -> None:
    stage = stage_of("mlp", hidden=[20])
    method = Dettmers8Bit(gradients=False)
    method.prepare(stage=stage)
    bucket = Bucket("fc1.weight", torch.Size([1]), torch.ones(2, 1))
    assert method.exchange(stage=stage, player=stage.student, bucket=bucket) is None
    assert bucket.sent == 0


def test_what_crosses_is_rounded_both_ways() -> None:
    x = torch.tensor([1.27, 0.633], requires_grad=True)
    out = EightBits("linear", both_ways=True)(x)
    out.backward(torch.tensor([0.2549, -2.54]))
    assert out.tolist() == pytest.approx([1.27, 0.63])
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.26, -2.54])  # 12.7 steps of 0.02

    x.grad = None
    EightBits("linear")(x).backward(torch.tensor([0.2549, -2.54]))
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0.2549, -2.54])


def test_inputs_of_dense_layers_other_than_the_first_cross() -> None:
    stage = stage_of("mlp", hidden=[20, 20])
    method = Dettmers8Bit(activations=True, gradients=False)
    method.prepare(stage=stage)
    crossing = {n for n, m in stage.student.module.named_modules() if isinstance(m, EightBits)}
    assert {name.partition(".")[0] for name in crossing} == {"fc2", "fc3"}

    only = stage_of("mlp", hidden=[])
    with pytest.raises(NotApplicable, match="no dense layer stands behind another layer"):
        Dettmers8Bit(activations=True).prepare(stage=only)


def test_weights_are_held_where_that_is_asked_for() -> None:
    stage = stage_of("mlp", hidden=[20])
    before = {w.path: w.value for w in stage.weights()}
    method = Dettmers8Bit(weights=True)
    assert method.words().removes == {"float-weights"}
    assert Dettmers8Bit().words().removes == frozenset()
    method.prepare(stage=stage)
    for weight in stage.weights():
        assert torch.equal(weight.value, rounded(before[weight.path], "tree"))
        assert len(torch.unique(weight.value)) > 50
    assert method.report(stage)["reached_percent"] > 95
