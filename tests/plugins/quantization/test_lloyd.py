from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from condensery_plugins.quantization.lloyd import Start, lloyd, start_centers


def test_two_clusters_by_hand() -> None:
    """0, 1, 2, 9, 11 from centers 0 and 2.

    Border 1, the value on it goes down: {0, 1} and {2, 9, 11}, means 1/2 and 22/3. Border 47/12 = 3.9: {0, 1, 2} and
    {9, 11}, means 1 and 10. Border 5.5: nothing moves. Inertia 1 + 0 + 1 + 1 + 1.
    """
    found = lloyd(torch.tensor([9.0, 0.0, 2.0, 11.0, 1.0]), torch.tensor([0.0, 2.0]), 100)
    assert found.centers.tolist() == [1.0, 10.0]
    assert found.members.tolist() == [1, 0, 0, 1, 0]
    assert found.inertia == 4.0
    assert found.rounds == 2


def test_one_round_by_hand() -> None:
    found = lloyd(torch.tensor([0.0, 1.0, 2.0, 9.0, 11.0]), torch.tensor([0.0, 2.0]), 1)
    assert found.centers.tolist() == pytest.approx([0.5, 22 / 3])
    assert found.members.tolist() == [0, 0, 0, 1, 1]  # of the centers as they are now


def test_an_empty_cluster_keeps_its_center() -> None:
    """Borders 2.5 and 7.5: nobody is nearest to 5."""
    found = lloyd(torch.tensor([0.0, 2.0, 8.0, 10.0]), torch.tensor([0.0, 5.0, 10.0]), 100)
    assert found.centers.tolist() == [1.0, 5.0, 9.0]
    assert found.members.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_inertia_is_that_of_another_library(start: Start) -> None:
    values = torch.randn(4000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    centers = start_centers(values, 15, start, seed=1)
    found = lloyd(values, centers, 1000)
    assert int(torch.bincount(found.members, minlength=15).min()) > 0  # else the libraries differ on purpose
    theirs = KMeans(15, init=centers.numpy()[:, None], n_init=1, max_iter=1000, tol=0, algorithm="lloyd")
    theirs.fit(values.numpy()[:, None])
    assert found.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
    assert np.allclose(np.sort(theirs.cluster_centers_[:, 0]), found.centers.numpy(), atol=1e-9)
    assert np.array_equal(theirs.labels_, found.members.numpy())


def test_linear_start_by_hand() -> None:
    values = torch.tensor([3.0, -1.0, 0.5, 0.6])
    assert start_centers(values, 5, "linear").tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]
    assert start_centers(values, 1, "linear").tolist() == [-1.0]


def test_density_start_by_hand() -> None:
    """Ten values in five parts of two; the middle of a part is its second value."""
    values = torch.tensor([0.0, 1, 2, 3, 4, 50, 60, 70, 80, 90])
    assert start_centers(values, 5, "density").tolist() == [1.0, 3.0, 50.0, 70.0, 90.0]


def test_random_start_draws_different_values_by_seed() -> None:
    values = torch.arange(100.0)
    first, same, other = (start_centers(values, 10, "random", seed=s).tolist() for s in (0, 0, 1))
    assert first == same == sorted(set(first))
    assert set(first) <= set(values.tolist())
    assert first != other


def test_no_values_and_all_equal_values() -> None:
    none = lloyd(torch.empty(0), torch.tensor([1.0, 2.0]), 10)
    assert none.centers.tolist() == [1.0, 2.0]
    assert none.members.tolist() == []
    assert none.inertia == 0.0
    same = lloyd(torch.full((6,), 2.0), start_centers(torch.full((6,), 2.0), 3, "linear"), 10)
    assert same.centers.tolist() == [2.0, 2.0, 2.0]
    assert same.inertia == 0.0
