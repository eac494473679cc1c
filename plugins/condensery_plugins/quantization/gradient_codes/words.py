"""Codes packed into bytes, so that what travels between workers is as small as it is said to be.

Every worker is a row. All of it is arithmetic of torch, on the device where the gradients are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TRITS = 5
"""Codes of three kinds in a byte: 3^5 = 243."""


def packed(codes: Tensor, bits: int) -> Tensor:
    """Return whole numbers in as few bits as said, uint8 of shape ``(workers, ceil(numbers * bits / 8))``.

    The first code has the lowest bits of the first byte.

    :param codes: 0 to 2^bits - 1, ``(workers, numbers)``.
    :param bits: 1 to 8.
    """
    places = torch.arange(bits, device=codes.device, dtype=torch.uint8)
    single = (codes.to(torch.uint8)[:, :, None] >> places & 1).flatten(1)
    return _weighed(single, 2, 8)


def unpacked(words: Tensor, bits: int, numbers: int) -> Tensor:
    """Return the whole numbers in some bytes again, uint8 of shape ``(workers, numbers)``."""
    single = words[:, :, None] >> torch.arange(8, device=words.device, dtype=torch.uint8) & 1
    single = single.flatten(1)[:, : numbers * bits]
    return _weighed(single, 2, bits)


def packed_trits(codes: Tensor) -> Tensor:
    """Return numbers 0, 1 and 2 five to a byte, uint8 of shape ``(workers, ceil(numbers / 5))``.

    :param codes: ``(workers, numbers)``.
    """
    return _weighed(codes.to(torch.uint8), 3, TRITS)


def unpacked_trits(words: Tensor, numbers: int) -> Tensor:
    """Return the numbers in some bytes again, uint8 of shape ``(workers, numbers)``."""
    places = 3 ** torch.arange(TRITS, device=words.device, dtype=torch.uint8)
    return (words[:, :, None] // places % 3).flatten(1)[:, :numbers]


def _weighed(digits: Tensor, base: int, group: int) -> Tensor:
    """Return each ``group`` of digits as one number, the first digit the lowest; the last group is filled with 0."""
    digits = F.pad(digits, (0, -digits.shape[1] % group)).view(len(digits), -1, group)
    weights = base ** torch.arange(group, device=digits.device, dtype=torch.uint8)
    return (digits * weights).sum(2, dtype=torch.uint8)


def with_floats(floats: Tensor, words: Tensor) -> Tensor:
    """Return float32 numbers and codes in one row of bytes for each worker.

    :param floats: ``(workers, n)``.
    :param words: uint8, ``(workers, bytes)``.
    """
    return torch.cat([floats.float().contiguous().view(torch.uint8), words], 1)


def parted(words: Tensor, floats: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`with_floats` put together.

    :param floats: how many of them each worker has.
    """
    # One row counts as contiguous whatever its stride, which floats can't have.
    head = words[:, : 4 * floats].clone(memory_format=torch.contiguous_format)
    return head.view(torch.float32), words[:, 4 * floats :]


def entropy_bytes(codes: Tensor, kinds: int) -> Tensor:
    """Return how many bytes an ideal entropy coder would need for the codes of one worker: the mean over the rows.

    Of d codes among which kind k occurs d_k times it is the sum of d_k log2(d / d_k) bits.

    :param codes: whole numbers below ``kinds``, ``(workers, numbers)``.
    """
    rows = torch.arange(len(codes), device=codes.device)[:, None] * kinds
    counts = torch.bincount((codes + rows).flatten(), minlength=len(codes) * kinds).double()
    counts = counts.view(len(codes), kinds)
    nats: Tensor = torch.special.entr(counts / codes.shape[1]).sum()
    return nats * codes.shape[1] / len(codes) / (8 * math.log(2))
