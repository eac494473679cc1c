from __future__ import annotations

import pytest
import torch

from condensery.nets import Coding, Cost
from condensery_plugins.codecs.bitmap import Bitmap


def test_by_hand() -> None:
    """Positions 0, 3 and 9: bits 1 + 8 in the first byte, 2 in the second."""
    values = torch.zeros(2, 5)
    values.view(-1)[[0, 3, 9]] = torch.tensor([1.5, -2.0, 3.0])
    streams = Bitmap().encode(values)
    assert streams["values"].tolist() == [1.5, -2.0, 3.0]
    assert streams["bits"].tolist() == [9, 2]
    assert torch.equal(Bitmap().decode(streams, (2, 5)), values)
    assert Coding(Bitmap()).cost(values) == Cost(3 * 4 + 2)


def test_entries_must_fit_the_bits() -> None:
    streams = {"values": torch.ones(2), "bits": torch.tensor([9], dtype=torch.uint8)}
    assert Bitmap().decode(streams, (4,)).tolist() == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="2 entries for 1 set bits"):
        Bitmap().decode(streams, (3,))
