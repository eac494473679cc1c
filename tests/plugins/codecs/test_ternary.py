from __future__ import annotations

import pytest
import torch

from condensery_plugins.codecs.ternary import Ternary


def test_by_hand() -> None:
    """Digits 0, 1, 2, 2, 1 from the lowest: 0 + 3 + 18 + 54 + 81 = 156; then the digit 2 alone."""
    codes = torch.tensor([-1, 0, 1, 1, 0, 1], dtype=torch.int32)
    streams = Ternary().encode(codes)
    assert streams["data"].tolist() == [156, 2]
    assert torch.equal(Ternary().decode(streams, (6,)), codes)
    assert Ternary().cost(torch.zeros(1000)).total == 200


def test_what_is_no_trit() -> None:
    with pytest.raises(ValueError, match="codes -1 to 2"):
        Ternary().encode(torch.tensor([-1, 2]))
    with pytest.raises(IndexError):
        Ternary().decode({"data": torch.tensor([243], dtype=torch.uint8)}, (5,))
