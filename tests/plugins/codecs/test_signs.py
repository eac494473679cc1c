from __future__ import annotations

import pytest
import torch

from condensery_plugins.codecs.signs import Signs
from condensery_plugins.codecs.ternary import Ternary


def test_by_hand() -> None:
    """Bits from the lowest: 1 + 4 + 8 = 13; then one bit alone."""
    codes = torch.tensor([1, -1, 1, 1, -1, -1, -1, -1, 1], dtype=torch.int32)
    streams = Signs().encode(codes)
    assert streams["data"].tolist() == [13, 1]
    assert torch.equal(Signs().decode(streams, (9,)), codes)
    assert Signs().cost(torch.ones(1000)).total == 125


def test_what_is_no_sign() -> None:
    with pytest.raises(ValueError, match="codes -1 to 1 are not all -1 or 1"):
        Signs().encode(torch.tensor([-1, 0, 1]))
    with pytest.raises(ValueError, match="2 bytes for 5 signs"):
        Signs().decode({"data": torch.zeros(2, dtype=torch.uint8)}, (5,))


def test_three_codes_from_zero() -> None:
    """Digits 0, 1, 2: 0 + 3 + 18 = 21."""
    codes = torch.tensor([0, 1, 2], dtype=torch.int32)
    assert Ternary(0).encode(codes)["data"].tolist() == [21]
    assert torch.equal(Ternary(**Ternary(0).config()).decode(Ternary(0).encode(codes), (3,)), codes)
    with pytest.raises(ValueError, match="codes -1 to 1 are not all 0, 1 or 2"):
        Ternary(0).encode(torch.tensor([-1, 0, 1]))
