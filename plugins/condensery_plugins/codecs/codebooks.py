from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condensery.nets import Branch, Coding, Dense
from condensery_plugins.codecs.places import check_places, packed_places


class _Codebooks(Branch):
    """Whole sub-vectors by their place in codebooks.

    :param codebooks: float32 ``(codebooks, entries, length of a sub-vector)``; ``None`` to decode.
    :param across: the tensor is a matrix, and what is cut into sub-vectors is its transpose.
    """

    main = "codes"
    tables = frozenset({"codebooks"})

    def __init__(self, codebooks: Tensor | None = None, across: bool = False) -> None:
        self.across = across
        self.codebooks = torch.zeros(0, 0, 1) if codebooks is None else codebooks.detach().cpu().to(torch.float32)
        if self.codebooks.dim() != 3:
            raise ValueError(f"{self.key}: codebooks have 3 dimensions, not {self.codebooks.dim()}")

    @abstractmethod
    def assign(self, values: Tensor) -> Tensor:
        """Return the codes of a tensor, ``(sub-vectors, codebooks)`` or, row by row, ``(rows, codebooks)``.

        :raises ValueError: if the tensor can't be cut into such sub-vectors.
        """

    @abstractmethod
    def assemble(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Return the sub-vectors of some codes, one after the other: the numbers of the tensor in its order.

        :raises ValueError: if there isn't a code for each codebook.
        """

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return codes and codebooks; what is stored is the decoded value, which a baked weight must be set to.

        :raises ValueError: if the tensor can't be cut into such sub-vectors.
        """
        values = values.T if self.across else values
        codes = self.assign(values.detach().cpu().to(torch.float32))
        return {"codes": codes.to(torch.int32), "codebooks": self.codebooks}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the values that the codes stand for."""
        codes, codebooks = streams["codes"], streams["codebooks"]
        check_places(codes, codebooks.shape[1])
        numbers = self.assemble(codes, codebooks)
        return numbers.reshape(*reversed(shape)).T.contiguous() if self.across else numbers.reshape(list(shape))

    def config(self) -> dict[str, Any]:
        """Return whether the matrix is transposed."""
        return {"across": True} if self.across else {}

    def parts(self) -> dict[str, Coding]:
        """Return codes as wide as a codebook needs, and float32 entries."""
        return {"codes": packed_places(self.codebooks.shape[1]), "codebooks": Coding(Dense())}


class ProductCodebook(_Codebooks):
    """Rows cut into sub-vectors, those at the same place in their rows with a codebook of their own.

    Gong, Liu, Yang, Bourdev: "Compressing Deep Convolutional Networks using Vector Quantization", 2014 [35], PQ.
    Lossy: each sub-vector becomes the nearest entry; exact for sub-vectors that are entries. A row is what one index
    of dimension 0 selects; a tensor of fewer than two dimensions is one row.
    """

    key = "product-codebook"

    def assign(self, values: Tensor) -> Tensor:
        """Return the nearest entries, ``(rows, sub-vectors of a row)``."""
        spaces, _, length = self.codebooks.shape
        rows = values.shape[0] if values.dim() > 1 else 1
        if values.numel() != rows * spaces * length:
            raise ValueError(f"{self.key}: {values.numel()} values, {rows} rows of {spaces} x {length}")

        cut = values.reshape(rows, spaces, length)
        nearest = [_nearest(cut[:, place], book) for place, book in enumerate(self.codebooks)]
        return torch.stack(nearest, 1) if nearest else torch.zeros(rows, 0, dtype=torch.long)

    def assemble(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Return the entry of each code."""
        if codes.shape[1] != len(codebooks):
            raise ValueError(f"{codes.shape[1]} codes a row for {len(codebooks)} codebooks")
        return codebooks[torch.arange(len(codebooks), device=codes.device), codes]


class ResidualCodebook(_Codebooks):
    """Sub-vectors as sums of entries, one of each codebook, in the order of the codebooks.

    Gong et al. [35], RQ, whose sub-vectors are whole rows. Lossy: each codebook takes the nearest entry to what the
    ones before it left. That choice needn't find the entries that a sum was made of, so give their codes to store a
    fitted value exactly.

    :param codes: ``(sub-vectors, codebooks)``, as fitted.
    """

    key = "residual-codebook"

    def __init__(self, codebooks: Tensor | None = None, codes: Tensor | None = None, across: bool = False) -> None:
        super().__init__(codebooks, across)
        self.codes = None if codes is None else codes.detach().cpu()

    def assign(self, values: Tensor) -> Tensor:
        """Return the fitted codes if they give these values, otherwise the nearest entries stage by stage."""
        length = self.codebooks.shape[2]
        if values.numel() % length:
            raise ValueError(f"{self.key}: {values.numel()} values don't divide into sub-vectors of {length}")
        left = values.reshape(-1, length)
        if self.codes is not None:
            if not torch.equal(self.assemble(self.codes, self.codebooks), left):
                raise ValueError(f"{self.key}: the values are not what the codes stand for")
            return self.codes

        codes = torch.zeros(len(left), len(self.codebooks), dtype=torch.long)
        for stage, book in enumerate(self.codebooks):
            codes[:, stage] = _nearest(left, book)
            left = left - book[codes[:, stage]]
        return codes

    def assemble(self, codes: Tensor, codebooks: Tensor) -> Tensor:
        """Return the sums, the first codebook first."""
        if codes.shape[1] != len(codebooks):
            raise ValueError(f"{codes.shape[1]} codes a sub-vector for {len(codebooks)} codebooks")

        total = codebooks.new_zeros(len(codes), codebooks.shape[2])
        for stage, book in enumerate(codebooks):
            total += book[codes[:, stage]]
        return total


def _nearest(vectors: Tensor, book: Tensor) -> Tensor:
    """Return the place of the nearest entry, ``(vectors,)``.

    :param vectors: ``(vectors, length)``.
    :param book: ``(entries, length)``.
    """
    lot = max(2**22 // len(book), 1)  # as many vectors at once as keep the distances small
    found = torch.zeros(len(vectors), dtype=torch.long)
    for start in range(0, len(vectors), lot):
        # From differences and not from products, so that an entry finds itself.
        distances = torch.cdist(vectors[start : start + lot], book, compute_mode="donot_use_mm_for_euclid_dist")
        found[start : start + lot] = distances.argmin(1)
    return found
