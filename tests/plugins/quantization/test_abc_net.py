"""Sums of shifted signs: scales by least squares, learned shifts, gradients, place in the block, storage."""

from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from tests.plugins.quantization.test_binarized import Called, own_stage
from torch import nn

from condensery import NotApplicable
from condensery.contract import build_method
from condensery.nets import Coding, Dense, attached
from condensery.storage import Source, decode
from condensery_plugins.quantization.abc_net import ABCNet, BinaryActivations, ShiftedSigns


def test_three_signs_by_hand() -> None:
    """3, -1, 0, 2: mean 1, deviation sqrt(2.5) = 1.58, so that the signs change at 2.58, 1 and -0.58.

    They are +---, +--+ and +-++. With S the sum of the scales the values are S, -S, q and r, with three free numbers:
    S = (3 + 1) / 2 = 2, q = 0 and r = 2. The scales are 0, 1 and 1, and the gradient is g S.
    """
    value = torch.tensor([3.0, -1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    out = ShiftedSigns(3)(value)
    assert out.tolist() == pytest.approx([2, -2, 0, 2], abs=1e-5)
    (out * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([2, 4, 6, 8], abs=1e-5)  # the scales are constants


def test_one_sign_and_scales_that_follow() -> None:
    """Signs of what is left without the mean, 1: +--+, scale (3 + 1 - 0 + 2) / 4; scaled anew with the weight."""
    value = torch.tensor([3.0, -1.0, 0.0, 2.0])
    made = ShiftedSigns(1)
    assert made(value).tolist() == pytest.approx([1.5, -1.5, -1.5, 1.5], abs=1e-5)
    assert made(3 * value).tolist() == pytest.approx([4.5, -4.5, -4.5, 4.5], abs=1e-5)


def test_more_signs_are_nearer() -> None:
    torch.manual_seed(0)
    value = torch.randn(16, 8, 3, 3)
    errors = [float((ShiftedSigns(bases)(value) - value).square().mean()) for bases in (1, 2, 3, 5, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == pytest.approx(1 - 2 / torch.pi, abs=0.05)  # of a normal weight: 1 - (E|w|)^2
    assert errors[3] < 0.15


@pytest.mark.parametrize("bases", [1, 3, 5])
def test_constant_and_zero_weights(bases: int) -> None:
    """All signs are the same there: the ridge shares the constant out."""
    assert ShiftedSigns(bases)(torch.full((4, 4), -0.7)).flatten().tolist() == pytest.approx([-0.7] * 16, abs=1e-5)
    assert ShiftedSigns(bases)(torch.zeros(4, 4)).flatten().tolist() == [0] * 16


def test_storage_is_one_code_for_each_sum() -> None:
    """Five signs make six sums, as each changes at a place of its own: three bits."""
    torch.manual_seed(0)
    value = torch.randn(16, 8, 3, 3)
    made = ShiftedSigns(5)
    final = made(value)
    assert len(final.unique()) == 6
    assert made.holds(final) is None
    assert made.holds(value) is not None

    coding = made.code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    assert torch.equal(decode(record, Source(torch.cat(data), "test"), REGISTRY), final)
    assert coding.cost(final).payload == 3 * value.numel() / 8


def test_an_input_by_hand() -> None:
    """Shift 1/8, scale 2: 1 above 3/8, and the gradient passes where x + 1/8 is within 0 and 1, the ends included."""
    made = BinaryActivations(1).double()
    with torch.no_grad():
        made.shifts.fill_(0.125)
        made.scales.fill_(2)
    x = torch.tensor([-0.5, -0.125, 0.375, 0.4, 0.875, 1.5], dtype=torch.float64, requires_grad=True)
    out = made(x)
    assert out.tolist() == [-2, -2, -2, 2, 2, 2]

    (out * torch.arange(1.0, 7)).sum().backward()
    assert x.grad is not None
    assert made.shifts.grad is not None
    assert made.scales.grad is not None
    assert x.grad.tolist() == [0, 4, 6, 8, 10, 0]
    assert made.shifts.grad.tolist() == [28]
    assert made.scales.grad.tolist() == [9]  # -1 - 2 - 3 + 4 + 5 + 6


def test_several_signs_of_an_input_start_spread_out() -> None:
    """Three change at 1, 1/2 and 0; a third each."""
    out = BinaryActivations(3)(torch.tensor([-0.1, 0.1, 0.6, 1.1]))
    assert out.tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert BinaryActivations.settings == {"weight_decay": 0.0}


def test_signs_stand_behind_batch_normalization_and_the_edges_stay_float() -> None:
    stage = stage_of("resnet8", width=0.5)
    ABCNet().prepare(stage=stage)
    net = stage.student.module
    assert len([m for m in net.modules() if isinstance(m, nn.ReLU)]) == 1  # before the last layer, which stays float
    found = {item.target for item in attached(net)}
    assert not {"conv1.weight", "linear.weight", "conv1:input", "linear:input"} & found
    assert {"layer1.0.conv1.weight", "layer1.0.conv1:input"} < found

    stage = stage_of("resnet8", width=0.5)
    ABCNet(activation_bases=None).prepare(stage=stage)
    assert len([m for m in stage.student.module.modules() if isinstance(m, nn.ReLU)]) == 7


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(NotApplicable, match=r"the input of layer 'fc2' is never negative.*no ReLU module"):
        ABCNet().prepare(stage=own_stage(Called()))
    with pytest.raises(NotApplicable, match="no layers between"):
        ABCNet().prepare(stage=stage_of("mlp", hidden=[8]))
    for bases in (0, 33):
        with pytest.raises(Exception, match=r"abc-net.weight_bases must be >= 1 and <= 8"):
            build_method("abc-net", ABCNet, {"weight_bases": bases}, REGISTRY.card("abc-net"))
