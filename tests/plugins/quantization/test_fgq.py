"""Ternary weights in groups along the input channels: levels, scales in eight bits, order of the groups, storage."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Stage, UsageError
from condensery.contract import build_method
from condensery.nets import Coding, Dense, attached, clone
from condensery.storage import Source, decode
from condensery_plugins.quantization.fgq import FGQ, FineTernary, fixed_point
from condensery_plugins.quantization.uniform import Uniform


def test_a_fixed_point_number_has_the_smallest_step_that_cuts_nothing_off() -> None:
    """Of 8 bits without a sign 255 codes: 255/256 and 1/256 need the step 1/256; 1 needs 1/128, 0 takes 1."""
    for largest, step in ((255 / 256, 2**-8), (1.0, 2**-7), (255.0, 1.0), (256.0, 2.0), (0.0, 1.0), (1e-3, 2**-17)):
        grid = fixed_point(torch.tensor(largest), 8, signed=False)
        assert float(grid.scale) == step
        assert float(grid.codes(torch.tensor(largest))) <= 255
    # With a sign, 7 codes of 4 bits: 0.875 is 7/8.
    assert float(fixed_point(torch.tensor(0.875), 4, signed=True).scale) == 2**-3
    assert float(fixed_point(torch.tensor(0.876), 4, signed=True).scale) == 2**-2


def test_a_group_by_hand() -> None:
    """Sizes 1, 3, 4, 0.5: the squared error falls by 16, 49/2, 64/3, 72.25/4; two stay, at 3.5, which is 112/32.

    The largest scale 3.5 needs the step 1/64, of which 3.5 is 224. In the other group only 0.1 is there: 6.4 steps,
    rounded to 6: 0.09375.
    """
    value = torch.tensor([[1.0, -3.0, 4.0, 0.5, 0.0, 0.1, 0.0, 0.0]])
    made = FineTernary(4, 1)
    assert made(value).tolist() == [[0, -3.5, 3.5, 0, 0, 0.09375, 0, 0]]
    assert made.holds(made(value)) is None
    assert made.holds(value) == "1 groups of weights have two values of one sign"


def test_neighbours_are_input_channels_not_places_of_the_kernel() -> None:
    """Two inputs, a kernel of two places: [[1, 8], [1, 8]] is two groups (1, 1) and (8, 8), which are exact.

    Along the kernel they would be (1, 8) twice, each with an error.
    """
    value = torch.tensor([[[[1.0, 8.0]], [[1.0, 8.0]]]])
    assert torch.equal(FineTernary(2, 1)(value), value)
    assert not torch.equal(FineTernary(2, 3)(value), value)


def test_the_gradient_goes_to_the_latent_weight_as_it_is() -> None:
    value = torch.tensor([[1.0, -3.0, 4.0, 0.5]], dtype=torch.float64, requires_grad=True)
    out = FineTernary(4, 1)(value)
    (out * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert out.dtype == torch.float64
    assert value.grad is not None
    assert value.grad.tolist() == [[1, 2, 3, 4]]


def test_each_group_is_the_best_of_all_choices() -> None:
    """Against every set that may stay, in float64; only the rounding of scales, half a step, lies between."""
    torch.manual_seed(0)
    value = torch.randn(20, 4, dtype=torch.float64)
    found = FineTernary(4, 1)(value)
    step = float(fixed_point(found.abs().max(), 8, signed=False).scale)
    for row, out in zip(value, found, strict=True):
        errors = []
        for kept in range(1, 16):
            mask = torch.tensor([bool(kept >> bit & 1) for bit in range(4)])
            errors.append(float((row - row.sign() * mask * row.abs()[mask].mean()).square().sum()))
        assert min(errors) <= float((row - out).square().sum()) + 1e-12
        assert float((row - out).square().sum()) <= min(errors) + 4 * (step / 2) ** 2


@pytest.mark.parametrize("value", [torch.zeros(3, 6), torch.full((3, 6), -0.25)])
def test_zeros_stay_and_constants_too(value: Tensor) -> None:
    assert torch.equal(FineTernary(4, 1)(value), value)


def stored(made: FineTernary, final: Tensor) -> tuple[Tensor, int]:
    """Return what comes back of a weight that is stored as a transform says, and its bytes."""
    coding = made.code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    assert sum(part.numel() for part in data) == coding.cost(final).total
    return decode(record, Source(torch.cat(data), "test"), REGISTRY), coding.cost(final).total


def test_a_weight_costs_three_and_a_half_bits_in_groups_of_four() -> None:
    """Of 64 x 64 x 3 x 3 weights a fifth of a byte each, a byte for each group of four, and the float of the step.

    Where inputs are no multiple of the group, the last one is shorter: 10 inputs are three groups.
    """
    torch.manual_seed(0)
    made = FineTernary(4, 1)
    final = made(torch.randn(64, 64, 3, 3))
    assert final.unique().numel() > 100
    back, size = stored(made, final)
    assert torch.equal(back, final)
    assert size == -(-64 * 64 * 9 // 5) + 64 * 64 * 9 // 4 + 4

    final = made(torch.randn(7, 10, 2, 1))
    back, size = stored(made, final)
    assert torch.equal(back, final)
    assert size == 28 + 7 * 2 * 3 + 4


def test_what_is_stored_is_a_fixed_point() -> None:
    """The step that the file's scales have is the one that the forward pass found, for any size of weights."""
    torch.manual_seed(0)
    for size in (1e-4, 1.0, 300.0):
        final = FineTernary(4, 1)(torch.randn(6, 12) * size)
        assert torch.equal(stored(FineTernary(4, 1), final)[0], final)


# ---------------------------------------------------------------------------- the method


def test_what_becomes_of_each_layer() -> None:
    """The first has weights of eight bits, all others ternary ones; inputs are on grids whose steps are powers of 2."""
    stage = stage_of("resnet8", width=0.5)
    before = {w.path: w.latent.detach().clone() for w in stage.weights()}
    assert all(bool(latent.std() > 0) for latent in before.values())
    seen = stage.record_inputs(list(before), 128)  # as many examples as ranges are set on

    method = FGQ(samples=64, activation_bits=4)
    method.prepare(stage=stage)
    found = {a.target: a.transform for a in attached(stage.student.module)}
    wide = found.pop("conv1.weight")
    assert isinstance(wide, Uniform)
    assert (wide.bits, wide.low, wide.high) == (8, -127, 127)
    inputs = {target: found.pop(target) for target in list(found) if target.endswith(":input")}
    assert {type(t) for t in found.values()} == {FineTernary}
    assert len(found) == len(before) - 1

    widths = {target: t.bits for target, t in inputs.items()}
    assert {widths.pop("conv1:input"), widths.pop("linear:input")} == {8}
    assert set(widths.values()) == {4}
    for target, quantizer in inputs.items():
        assert isinstance(quantizer, Uniform)
        largest, step = max(float(x.abs().max()) for x in seen[target.removesuffix(":input")]), float(quantizer.scale)
        assert math.frexp(step)[0] == 0.5
        assert step * quantizer.high / 2 < largest <= step * quantizer.high, target  # the smallest that reaches it
        assert (quantizer.low < 0) == (target == "conv1:input")  # pictures alone have no ReLU before them

    report = method.report(stage=stage)
    assert report["reestimated_norms_count"] == 7
    held = sum(latent.numel() for latent in before.values())
    assert report["reached_percent"] == pytest.approx(100 * held / sum(p.numel() for p in plain_parameters(stage)))


def plain_parameters(stage: Stage) -> list[Tensor]:
    """Return the net's own parameters; ternary groups and fixed grids bring none."""
    return list(stage.student.module.parameters())


def norm_inputs(stage: Stage, examples: int) -> dict[str, Tensor]:
    """Return each norm's mean input by channel, the mean of batches, where norms take the batch's own statistics."""
    net = clone(stage.student.module).eval()
    norms = {path: module for path, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    sums: dict[str, list[Tensor]] = {path: [] for path in norms}
    for path, norm in norms.items():
        norm.train()
        norm.register_forward_pre_hook(lambda _, given, path=path: sums[path].append(given[0].mean((0, 2, 3))))
    with torch.no_grad():
        for batch in stage.sample(examples):
            stage.task.outputs(net, batch)
    return {path: torch.stack(means).mean(0) for path, means in sums.items()}


def test_the_norms_follow_what_rounding_changed() -> None:
    """On the same examples each norm's statistics are those of its rounded inputs, and not those of its float ones."""
    stage = stage_of("resnet8", width=0.5)
    before = norm_inputs(stage, 64)
    FGQ(samples=64).prepare(stage=stage)
    rounded = norm_inputs(stage, 64)
    assert len(rounded) == 7
    for path, means in rounded.items():
        held = stage.student.module.get_submodule(path).running_mean
        torch.testing.assert_close(held, means, rtol=1e-3, atol=1e-5)
        assert float((means - before[path]).abs().max()) > 1e-3

    stage = stage_of("resnet8", width=0.5)
    FGQ(samples=64, reestimate_norms=False).prepare(stage=stage)
    untouched = [b for name, b in stage.student.module.named_buffers() if name.endswith("running_mean")]
    assert not torch.cat(untouched).any()  # as the net was made


def test_smaller_groups_are_nearer() -> None:
    torch.manual_seed(0)
    value = torch.randn(32, 64)
    errors = [float((FineTernary(size, 1)(value) - value).square().sum()) for size in (1, 4, 16, 64)]
    assert errors[0] < 0.01 * errors[1]  # but for the rounding of the scales
    assert all(small < large for small, large in pairwise(errors))


def test_no_example_means_no_grid() -> None:
    stage = stage_of("mlp", hidden=[20])
    stage.sample = lambda n: []  # type: ignore[method-assign]
    with pytest.raises(NotApplicable, match="the calibration set is empty"):
        FGQ().prepare(stage=stage)


def test_what_is_no_number_is_refused() -> None:
    stage = stage_of("mlp", hidden=[20])
    stage.weights().by_path["fc2"].latent.data[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="layer 'fc2' has weights that are not finite"):
        FGQ().prepare(stage=stage)


@pytest.mark.parametrize("bits", [0, 33])
def test_other_widths_are_refused_in_one_line(bits: int) -> None:
    with pytest.raises(UsageError, match=rf"fgq\.activation_bits must be >= 2 and <= 8, got {bits}"):
        build_method("fgq", FGQ, {"activation_bits": bits}, REGISTRY.card("fgq"))
