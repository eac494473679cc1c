"""Deep Compression is no method of its own but three stages: prune, share weights, code."""

from __future__ import annotations

from pathlib import Path

import pytest

from condensery import Registry
from condensery.contract import Network
from condensery.testing import NETWORKS, check_artifact, different_tensors, play, play_killed, small_recipe

STAGES = [
    {"name": "prune", "methods": [{"magnitude": {"sparsity": 0.8}}], "epochs": 1},
    {"name": "share", "methods": ["kmeans-sharing"], "epochs": 2},
    {"name": "code", "methods": ["huffman"], "epochs": 0},
]


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_killed_while_it_shares_ends_as_if_it_had_not_been(network: Network, tmp_path: Path) -> None:
    """Of the weights that it prunes, four fifths are zero; norms and biases bring the net to more than a fifth."""
    registry, recipe = Registry.open(), small_recipe(network, STAGES)
    whole = play(recipe, registry, tmp_path / "whole")
    check_artifact(whole, registry)
    assert 0 < whole.report["after"]["nonzeros"] / whole.report["after"]["parameters"] < 0.5

    play_killed(recipe, registry, tmp_path / "killed", "share")
    again = play(recipe, registry, tmp_path / "killed", resume=True)
    assert different_tensors(whole.student, again.student) == []
