"""Rows along one dimension of a tensor: their order, the way back, and that what doesn't fit is refused."""

from __future__ import annotations

import pytest
import torch

from condensery import Registry
from condensery.nets import Coding
from condensery.storage import Source, decode
from condensery_plugins.codecs.moved import Moved, from_rows, rows_along


def test_neighbours_are_those_of_the_dimension() -> None:
    """Of (2, 3, 1, 2) the entries of dimension 1 lie two apart, and outputs and places count the rows."""
    values = torch.arange(12.0).view(2, 3, 1, 2)
    rows = rows_along(values, 1)
    assert rows.tolist() == [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    assert torch.equal(from_rows(rows, values.shape, 1), values)


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 1, 2), 1), ((4, 5), 1), ((4, 5), 0), ((3, 2, 4), 2), ((0, 3), 1)])
def test_it_comes_back_from_a_file(shape: tuple[int, ...], axis: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(shape)
    coding = Coding(Moved(axis))
    record, data = coding.encode(values)
    assert sum(part.numel() for part in data) == coding.cost(values).total
    assert torch.equal(decode(record, Source(torch.cat(data), "test"), Registry.open()), values)


def test_what_does_not_fit_is_refused() -> None:
    for shape, axis in (((3, 2), 2), ((3, 3), 1), ((3, 2), -1)):
        with pytest.raises(ValueError, match=r"moved: rows \(3, 2\) along dimension"):
            from_rows(torch.zeros(3, 2), shape, axis)
