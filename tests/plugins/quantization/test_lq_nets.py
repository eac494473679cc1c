"""Levels that are sums of a learned basis: assignment, least squares, gradients, starts, cuts, storage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import NotApplicable
from condensery.contract import build_method
from condensery.nets import Coding, Dense, attached
from condensery.recipe import parse_recipe
from condensery.storage import Source, decode
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.codecs.binary_basis import BinaryBasis
from condensery_plugins.quantization.lq_nets import LearnedBasis, LQNets


def basis(*numbers: float, signed: bool = True, activation: bool = False) -> LearnedBasis:
    made = LearnedBasis(len(numbers), [], signed=signed, activation=activation)
    made.basis.copy_(torch.tensor(numbers))
    return made


def best(value: Tensor, factors: list[list[float]]) -> Tensor:
    """Return the basis that is nearest by least squares without a ridge, in float64."""
    found: Tensor = torch.linalg.lstsq(torch.tensor(factors, dtype=torch.float64), value.double()[:, None]).solution
    return found[:, 0]


def test_levels_by_hand() -> None:
    """1 and 2 with signs: -3, -1, 1, 3, parted at -2, 0 and 2; with factors 0 and 1: 0, 1, 2, 3. Halves go up."""
    value = torch.tensor([-9.0, -2.1, -2.0, -0.1, 0.0, 1.9, 2.0, 9.0])
    assert basis(1, 2)(value).tolist() == [-3, -3, -1, -1, 1, 1, 3, 3]
    assert basis(1, 2, signed=False, activation=True).eval()(value).tolist() == [0, 0, 0, 0, 0, 2, 2, 3]


def test_levels_that_change_places_are_sorted() -> None:
    """The second number is the smaller one: with signs -3, 1, -1, 3 in the order of the codes."""
    assert basis(2, 1).levels().tolist() == [[-3, 1, -1, 3]]
    assert basis(2, 1)(torch.tensor([-0.9, 0.9])).tolist() == [-1, 1]
    assert basis(1, -2)(torch.tensor([-4.0, -0.9, 0.9, 4.0])).tolist() == [-3, -1, 1, 3]


def test_one_round_of_least_squares() -> None:
    """Codes of -3.2, -0.8, 1.4 and 2.6 are (-,-), (+,-), (-,+), (+,+); a step goes a tenth of the way."""
    value = torch.tensor([-3.2, -0.8, 1.4, 2.6])
    expected = best(value, [[-1, -1], [1, -1], [-1, 1], [1, 1]])
    assert expected.tolist() == pytest.approx([0.9, 2.0])

    made = basis(1, 2)
    rows = value.view(1, -1)
    found = made.fitted(rows, made.nearest(rows)[1])
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    made.settle(value)
    assert made.basis.tolist() == pytest.approx([0.99, 2.0], abs=1e-5)


def test_one_bit_is_the_sign_times_the_mean_size() -> None:
    """Each row by itself: 2 and 1; moved a tenth of the way there from 1."""
    weight = torch.tensor([[1.0, -3.0], [-1.0, 1.0]])
    made = LearnedBasis(1, [2, 1], axis=0).start(1.0)
    assert made(weight).tolist() == [[1, -1], [-1, 1]]
    made.settle(weight)
    assert made.basis.flatten().tolist() == pytest.approx([1.1, 1.0], abs=1e-4)
    made = LearnedBasis(1, [2, 1], axis=0).start(torch.ones(2), weight)
    assert made.basis.flatten().tolist() == pytest.approx([2, 1], abs=1e-4)


def test_a_level_that_does_not_occur_leaves_its_number_alone() -> None:
    """All inputs are at level 1, with factors (1, 0): the second number stays, though the equations are singular."""
    made = basis(1, 2, signed=False, activation=True)
    made(torch.full((50,), 1.2))
    assert made.basis.tolist() == pytest.approx([1.02, 2], abs=1e-5)


def test_activations_follow_in_training_only_and_by_the_old_basis() -> None:
    value = torch.tensor([0.1, 0.9, 2.2, 3.3])
    made = basis(1, 2, signed=False, activation=True)
    made.eval()(value)
    with torch.no_grad():
        made.train()(value)
    assert made.basis.tolist() == [1, 2]

    assert made(value).tolist() == [0, 1, 2, 3]
    expected = 0.9 * torch.tensor([1.0, 2.0]) + 0.1 * best(value, [[0, 0], [1, 0], [0, 1], [1, 1]])
    torch.testing.assert_close(made.basis.double(), expected.double(), atol=1e-4, rtol=0)
    made.settle(None)
    assert next(made.parameters(), None) is None  # the basis has no gradient


def test_gradients() -> None:
    """Of a weight all of it; of an activation what is not above the largest level, which is 3; below zero it passes."""
    value = torch.tensor([-9.0, -1.0, 1.2, 3.0, 3.1], requires_grad=True)
    for made, expected in (
        (basis(1, 2), [1, 1, 1, 1, 1]),
        (basis(1, 2, signed=False, activation=True), [1, 1, 1, 1, 0]),
        (basis(1, 2, activation=True), [0, 1, 1, 1, 0]),
    ):
        value.grad = None
        made(value).sum().backward()
        assert value.grad is not None
        assert value.grad.tolist() == expected


def test_starts_by_the_papers_formula() -> None:
    """A convolution of 4 to 2 channels, 3x3: n = 18, 0.6745 sqrt(2/18) / 2 = 0.1124; activations 2 * 0.6745 / 3."""
    stage = stage_of("mlp", hidden=[8])
    weight = stage.weights()[0]
    weight.module.weight = nn.Parameter(torch.randn(2, 4, 3, 3))
    made = LQNets(start="paper").weight_quantizer(weight, 2)
    assert made.basis.shape == (2, 2, 1, 1, 1)
    assert made.basis.flatten(1).tolist() == [
        [pytest.approx(0.11242, abs=1e-5)] * 2,
        [pytest.approx(0.22483, abs=1e-5)] * 2,
    ]
    made = LQNets(start="paper").input_quantizer([torch.tensor([0.0, 5.0])], 2)
    assert made.basis.tolist() == pytest.approx([0.44967, 0.89933], abs=1e-5)
    assert not made.signed
    assert LQNets().input_quantizer([torch.tensor([-1.0, 5.0])], 2).signed


def test_a_fitted_start_is_better_than_even_levels() -> None:
    """And for normal weights it is near Lloyd and Max's four levels, 0.4528 and 1.510."""
    torch.manual_seed(0)
    weight = torch.randn(2, 40_000) * torch.tensor([[1.0], [5.0]])
    made = LearnedBasis(2, [2, 1], axis=0)
    even = made.start(0.3372 * torch.tensor([1.0, 5.0]))(weight)
    fitted = made.start(0.3372 * torch.tensor([1.0, 5.0]), weight)(weight)
    assert ((fitted - weight) ** 2).mean() < ((even - weight) ** 2).mean()
    levels = made.levels().sort(1).values / torch.tensor([[1.0], [5.0]])
    torch.testing.assert_close(levels, torch.tensor([-1.510, -0.4528, 0.4528, 1.510]).expand(2, 4), atol=0.03, rtol=0)


def test_zero_and_constant_channels() -> None:
    weight = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    made = LearnedBasis(2, [2, 1], axis=0).start(torch.tensor([0.0, 1.0]), weight)
    assert made(weight)[0].tolist() == [0, 0]
    assert made(weight)[1].tolist() == pytest.approx([3, 3], abs=1e-4)
    made.settle(weight)
    assert made.basis.isfinite().all()


def test_cut_channels_take_their_bases_along() -> None:
    made = LearnedBasis(2, [3, 1], axis=0).start(torch.tensor([1.0, 2.0, 3.0]))
    made.resize(lambda tensor: tensor[[0, 2]])
    assert made.basis.flatten(1).tolist() == [[1, 3], [2, 6]]
    assert LearnedBasis(**made.config()).basis.shape == made.basis.shape


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_storage_is_exact_and_as_wide_as_it_says(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 8, 3, 3)
    made = LearnedBasis(bits, [16, 1, 1, 1], axis=0).start(torch.full((16,), 0.1), weight)
    final = made(weight)
    assert max(len(torch.unique(row)) for row in final) == 2**bits
    assert made.holds(final) is None
    assert made.holds(final * 2) is not None

    for stored, width in ((final, bits), (final * (torch.rand(final.shape) < 0.5), bits + 1)):
        assert made.holds(stored) is None
        coding = made.code(Coding(Dense.of(stored)), stored)
        record, data = coding.encode(stored)
        assert torch.equal(decode(record, Source(torch.cat(data), "test"), REGISTRY), stored)
        assert coding.cost(stored).payload == width * 16 * 72 / 8
        assert coding.cost(stored).tables == 4 * bits * 16
    with pytest.raises(ValueError, match="1 values are no sums of the basis"):
        BinaryBasis(torch.tensor([1.0, 2.0])).encode(torch.tensor([3.0, 2.0]))


def test_the_edges_stay_float() -> None:
    stage = stage_of("resnet8", width=0.5)
    LQNets().prepare(stage=stage)
    found = {item.target for item in attached(stage.student.module)}
    assert not {"conv1.weight", "linear.weight", "conv1:input", "linear:input"} & found
    assert {"layer1.0.conv1.weight", "layer1.0.conv1:input"} < found
    with pytest.raises(NotApplicable, match="no layers between"):
        LQNets().prepare(stage=stage_of("mlp", hidden=[8]))
    for bits in (0, 33):
        with pytest.raises(Exception, match=r"lq-nets.weight_bits must be >= 1 and <= 4"):
            build_method("lq-nets", LQNets, {"weight_bits": bits}, REGISTRY.card("lq-nets"))


def test_a_run_after_pruning_keeps_zeros(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "model": {"key": "mlp", "hidden": [64, 64, 32], "batch_norm": True},
            "task": "digits",
            "base": "none",
            "data": {"subset": {"size": 64}},
            "train": {"batch_size": 16, "optimizer": {"lr": 0.05}},
            "stages": [{"methods": ["magnitude"], "epochs": 1}, {"methods": ["lq-nets"], "epochs": 1}],
        }
    )
    done = play(recipe, REGISTRY, tmp_path / "run")
    check_artifact(done, REGISTRY)
    value = done.student.get_submodule("fc2").weight
    assert isinstance(value, Tensor)
    assert 0.1 < float((value == 0).float().mean()) < 0.95
    assert max(len(torch.unique(row)) for row in value) == 5
