"""Arguments of ``compress``: a size to reach, what is said twice, and what is of another kind than it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.front.nets import Plain, loaders
from torch import nn

import condensery
from condensery import CondenseryError, NotApplicable, UsageError

# ------------------------------------------------------------------ a size to reach


@pytest.mark.parametrize("most", [0.5, 3000])
def test_a_target_finds_the_ratio(most: float) -> None:
    train, test = loaders()
    result = condensery.compress(
        Plain(), "l1-filter-pruning", train=train, test=test, target={"bytes": most}, quiet=True
    )
    before, after = result.report["before"]["bytes"], result.report["after"]["bytes"]
    limit = most * before if most <= 1 else most
    assert 0.5 * limit < after <= limit


def test_a_target_needs_one_number() -> None:
    train, _ = loaders()

    def ask(line: str, **target: float) -> None:
        condensery.compress(Plain(), line, train=train, target=target, quiet=True)

    with pytest.raises(UsageError, match="magnitude's sparsity, kmeans-sharing's bits"):
        ask("magnitude -> kmeans-sharing", bytes=0.5)
    with pytest.raises(UsageError, match="none of its methods has one"):
        ask("hinton-kd", bytes=0.5)
    with pytest.raises(CondenseryError, match=r"'byte'.*'bytes'"):
        ask("magnitude", byte=0.5)


@pytest.mark.parametrize(
    ("line", "target", "said"),
    [
        (
            "kmeans-sharing",
            {"bytes": 1e-5},
            r"the least is [\d,]+, 0.2\d* of the net's [\d,]+, which kmeans-sharing gives",
        ),
        ("magnitude", {"bytes": 10}, r"the least is .* which magnitude gives with sparsity 0\.\d+$"),
        ("magnitude", {"macs": 0.5}, r"magnitude takes nothing off the [\d,]+ of this net, whatever its sparsity"),
    ],
)
def test_a_target_out_of_reach_says_what_is_in_reach(line: str, target: Any, said: str) -> None:
    """Of magnitude the search ends where a layer would die, at a sparsity that nobody has asked for."""
    ((asked, most),) = target.items()
    with pytest.raises(UsageError, match=rf"^target: {asked} {most:g} can't be reached: {said}"):
        condensery.compress(Plain(), line, train=loaders()[0], target=target, quiet=True)


def test_a_target_that_the_net_meets_takes_as_little_as_can_be() -> None:
    """A sparsity of 0 is refused, which is no sign that it takes too much."""
    result = condensery.compress(Plain(), "magnitude", train=loaders()[0], target={"bytes": 1.0}, quiet=True)
    assert result.report["after"]["nonzeros"] > 0.98 * result.report["before"]["nonzeros"]


def test_what_is_wrong_with_the_composition_is_no_matter_of_the_target() -> None:
    with pytest.raises(NotApplicable, match="l1-filter-pruning is not applicable: the net has no convolution"):
        condensery.compress(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "l1-filter-pruning", train=loaders()[0],
            target={"macs": 0.5}, quiet=True,
        )  # fmt: skip


# ------------------------------------------------------------------ what is no setting


def test_settings_that_are_said_twice() -> None:
    train, _ = loaders()
    with pytest.raises(UsageError, match="epochs 1 and train_settings: epochs 4 are one setting; say it once"):
        condensery.compress(Plain(), "magnitude", train=train, epochs=1, train_settings={"epochs": 4})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"out": ""}, "out is empty: that would be the folder you are in; name one"),
        ({"out": 5}, "out: give the name of a folder, not 5"),
        ({"composition": None}, "composition: give a line, 'magnitude -> hinton-kd', or a list .*, not None"),
        ({"composition": {"methods": []}}, "composition: give a line, .*, not {'methods': \\[\\]}"),
        ({"train_settings": 5}, r"train_settings: give fields of a recipe's train, {'optimizer': .*}, not 5"),
        ({"registry": "mine"}, "registry: give a condensery.Registry, not 'mine'"),
        ({"device": "gpu"}, "unknown device 'gpu'; did you mean 'cuda'?"),
        ({"device": None}, "unknown device 'None'; known: auto, cpu, cuda"),
        ({"target": {}}, "target: give one figure and how much of it, such as {'bytes': 0.1}, not {}"),
        ({"target": 0.5}, "target: give one figure and how much of it, such as {'bytes': 0.1}, not 0.5"),
        ({"target": {"bytes": "0.1"}}, "target: bytes must be a number above 0, got '0.1'"),
        ({"target": {"bytes": True}}, "target: bytes must be a number above 0, got True"),
        ({"target": {1: 0.1}}, "unknown target '1'; known: bytes"),
    ],
)
def test_an_argument_of_another_kind_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}"):
        condensery.compress(Plain(), **{"composition": "magnitude", "train": loaders()[0], "quiet": True, **given})


def test_a_device_of_torch_is_one_too() -> None:
    condensery.compress(Plain(), "magnitude", train=loaders()[0], quiet=True, device=torch.device("cpu"))
