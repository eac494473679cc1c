"""How a tensor is stored: codecs, each turning a tensor into named streams and back, and trees of them.

The coding of a tensor is a tree. A codec's streams are stored by further codecs, down to leaves whose streams are
bytes. The chain from the root along each codec's ``main`` stream is what people write: ``palette | sparse-index |
huffman``; the other streams (a codebook, gaps between entries) have codings of their own.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Record = dict[str, Any]
"""A coding as JSON data: codec, config, shape, and the parts or the lengths of the bytes."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes of one stored tensor.

    :param payload: of the values themselves, indices of sparse ones included.
    :param tables: of what is needed to read them: codebooks, scales, code lengths.
    """

    payload: int = 0
    tables: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.payload + other.payload, self.tables + other.tables)

    @property
    def total(self) -> int:
        """All bytes."""
        return self.payload + self.tables

    def as_tables(self) -> Cost:
        """Return the same bytes, all counted as tables."""
        return Cost(0, self.total)


class Codec(ABC):
    """One way to turn a tensor into named streams and back: a :class:`Leaf` or a :class:`Branch`.

    For encoding it is built with all it needs (a scale, a codebook); for decoding from :meth:`config` alone, so what
    isn't in there must be in its streams.
    """

    key: ClassVar[str] = ""
    """As it is registered; how a manifest names it."""
    tables: ClassVar[frozenset[str]] = frozenset()
    """The streams that count as tables and not as payload."""

    @abstractmethod
    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the streams of a tensor.

        :raises ValueError: if the values are not of the kind that the codec stores.
        """

    @abstractmethod
    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the tensor again.

        :param shape: of the tensor that was encoded.
        """

    def config(self) -> dict[str, Any]:
        """Return the JSON arguments that build a codec which can decode."""
        return {}

    def spelled(self) -> str:
        """Return how people write it: ``affine(4)``."""
        return self.key


class Leaf(Codec):
    """A codec whose streams are bytes: one-dimensional, uint8."""

    by_count: ClassVar[bool] = False
    """Its cost depends on how many values there are and on nothing else, so that a tensor on ``meta`` tells it."""

    @abstractmethod
    def cost(self, values: Tensor) -> Cost:
        """Return the bytes that it needs, by its formula and without encoding."""


class Branch(Codec):
    """A codec whose streams are stored by further codecs."""

    main: ClassVar[str]
    """The stream that the next codec of the chain takes."""

    @abstractmethod
    def parts(self) -> dict[str, Coding]:
        """Return how its streams are stored where nothing else is said."""


@dataclasses.dataclass(frozen=True)
class Coding:
    """A codec, and the codings of its streams.

    :param parts: by stream; what isn't given is stored as the codec says.
    """

    codec: Leaf | Branch
    parts: Mapping[str, Coding] = dataclasses.field(default_factory=dict)

    def part(self, stream: str) -> Coding:
        """Return the coding of one stream."""
        return self.parts[stream] if stream in self.parts else self.streams()[stream]

    def streams(self) -> dict[str, Coding]:
        """Return the codings of all streams, the codec's own choice where none is given; a leaf has none."""
        return {} if isinstance(self.codec, Leaf) else {**self.codec.parts(), **self.parts}

    def map_main(self, change: Callable[[Coding], Coding]) -> Coding:
        """Return the same tree with another leaf at the end of the chain: where a codec is put in."""
        if isinstance(self.codec, Leaf):
            return change(self)
        main = self.codec.main
        return Coding(self.codec, {**self.streams(), main: self.part(main).map_main(change)})

    def spelled(self) -> str:
        """Return the chain as people write it."""
        own = self.codec.spelled()
        return own if isinstance(self.codec, Leaf) else f"{own} | {self.part(self.codec.main).spelled()}"

    def cost(self, values: Tensor) -> Cost:
        """Return the bytes of a tensor under this coding, leaves by their formulas."""
        if isinstance(self.codec, Leaf):
            return self.codec.cost(values)
        total = Cost()
        for name, stream in self.codec.encode(values).items():
            part = self.part(name).cost(stream)
            total += part.as_tables() if name in self.codec.tables else part
        return total

    def encode(self, values: Tensor) -> tuple[Record, list[Tensor]]:
        """Return the record of a tensor, and its bytes in the record's order."""
        record: Record = {"codec": self.codec.key, "shape": list(values.shape)}
        config = self.codec.config()
        if config:
            record["config"] = config

        streams = self.codec.encode(values)
        if isinstance(self.codec, Leaf):
            record["bytes"] = {n: s.numel() for n, s in streams.items()}
            return record, [s.contiguous() for s in streams.values()]

        record["parts"] = {}
        data: list[Tensor] = []
        for name, stream in streams.items():
            record["parts"][name], more = self.part(name).encode(stream)
            data += more
        return record, data


def to_bytes(array: NDArray[Any]) -> Tensor:
    """Return an array's bytes as a uint8 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())


def whole_numbers(values: Tensor, who: str) -> NDArray[Any]:
    """Return whole numbers as a flat array, without a copy where there needn't be one.

    :param who: for the message.
    :raises ValueError: if the type of the tensor isn't one of whole numbers.
    """
    if values.is_floating_point() or values.is_complex():
        raise ValueError(f"{who}: {values.dtype} are not whole numbers")
    flat: NDArray[Any] = values.detach().cpu().flatten().numpy()
    return flat


DTYPES: dict[str, torch.dtype] = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip


class Dense(Leaf):
    """Every number as it is in memory, little-endian.

    :param dtype: name of the type: ``float32``.
    """

    key = "dense"
    by_count = True

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype = dtype

    @classmethod
    def of(cls, values: Tensor) -> Dense:
        """Return the codec for a tensor's own type."""
        return cls(str(values.dtype).removeprefix("torch."))

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the bytes, which are the tensor's own where it lies in memory as it is stored."""
        flat = values.detach().cpu().contiguous().flatten()
        if str(flat.dtype).removeprefix("torch.") != self.dtype:
            raise ValueError(f"dense: {flat.dtype} is not {self.dtype}")
        return {"data": flat.view(torch.uint8)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the numbers."""
        # Cloned, because a view of another type must begin at an aligned address.
        return streams["data"].clone().view(DTYPES[self.dtype]).view(list(shape))

    def config(self) -> dict[str, Any]:
        """Return the type, where it isn't float32."""
        return {} if self.dtype == "float32" else {"dtype": self.dtype}

    def cost(self, values: Tensor) -> Cost:
        """Return numbers times size."""
        return Cost(values.numel() * DTYPES[self.dtype].itemsize)

    def spelled(self) -> str:
        """Return the type."""
        return self.dtype


_CHUNK = 2**18
"""Numbers packed at once: a multiple of 8, so that each lot starts at a whole byte."""


def joined(numbers: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return each two neighbours as one number of twice as many bits, the first in the lower half.

    :param numbers: unsigned and contiguous, an even count of them.
    :param bits: that are used of each.
    """
    width = 8 * numbers.itemsize
    wide = numbers.view(f"<u{2 * numbers.itemsize}")
    upper: NDArray[Any] = (wide >> width) << bits
    upper |= wide & ((1 << width) - 1)
    return upper


def _parted(numbers: NDArray[Any], bits: int) -> NDArray[Any]:
    """Undo :func:`joined`: two numbers of ``bits`` bits for each one."""
    half = numbers.itemsize // 2
    upper: NDArray[Any] = (numbers >> bits) << (8 * half)
    upper |= numbers & ((1 << bits) - 1)
    return upper.view(f"<u{half}")


class BitPack(Leaf):
    """Whole numbers from ``low`` to ``low + 2^bits - 1``, each in ``bits`` bits, the first in the lowest bits.

    :param bits: 0 to 31; 0 where all are ``low``.
    """

    key = "bitpack"
    by_count = True

    def __init__(self, bits: int, low: int = 0) -> None:
        if not (0 <= bits <= 32 and abs(low) < 2**40):
            raise ValueError(f"{self.key}: {bits} bits from {low}")
        self.bits, self.low = bits, low

    @classmethod
    def of(cls, values: Tensor) -> BitPack:
        """Return the narrowest codec that holds all of some numbers."""
        if not values.numel():
            return cls(0)
        low, high = int(values.min()), int(values.max())
        return cls((high - low).bit_length(), low)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the packed bytes.

        :raises ValueError: if a number doesn't fit.
        """
        numbers = whole_numbers(values, "bitpack")
        if numbers.size:
            low, high = int(numbers.min()), int(numbers.max())
            if low < max(self.low, -(2**31)) or high >= min(self.low + 2**self.bits, 2**31):
                raise ValueError(f"bitpack: numbers {low} to {high} don't fit {self.bits} bits from {self.low}")

        # Unsigned numbers that are too narrow for ``low`` itself still hold what lies between it and a number.
        kind = np.dtype(np.uint8 if self.bits <= 8 else np.uint32)
        origin = np.array(self.low % 256**kind.itemsize, kind)
        data = np.empty(self._bytes(numbers.size), np.uint8)
        for start in range(0, numbers.size, _CHUNK):
            part = numbers[start : start + _CHUNK].astype(kind) - origin
            data[self._bytes(start) : self._bytes(start + len(part))] = self._pack(part)
        return {"data": torch.from_numpy(data)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the numbers as int32."""
        count = int(np.prod(shape))
        data = streams["data"].numpy()
        if data.size != self._bytes(count):
            raise ValueError(f"{data.size} bytes for {count} numbers of {self.bits} bits")
        numbers = np.empty(count, np.int32)
        for start in range(0, count, _CHUNK):
            part = numbers[start : start + _CHUNK]
            part[:] = self._unpack(data[self._bytes(start) : self._bytes(start + len(part))], len(part))
            if self.low:
                part += np.int32(self.low)
        return torch.from_numpy(numbers).view(list(shape))

    def _pack(self, numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """Eight numbers fill ``bits`` bytes; all eights are packed at once."""
        eights = -(-len(numbers) // 8)
        padded = np.zeros(8 * eights, numbers.dtype)
        padded[: len(numbers)] = numbers

        if self.bits <= 8:
            used = self.bits
            while used % 8:
                padded, used = joined(padded, used), 2 * used
            packed = padded.view(np.uint8).reshape(-1, padded.itemsize)[:, : used // 8]
            return packed.reshape(-1)[: self._bytes(len(numbers))]

        columns = np.ascontiguousarray(padded.reshape(eights, 8).T)
        rows = np.zeros((self.bits, eights), np.uint8)
        for place, byte, shift in self._overlaps():
            moved = columns[place] >> shift if shift >= 0 else columns[place] << -shift
            rows[byte] |= moved.astype(np.uint8)
        return rows.T.reshape(-1)[: self._bytes(len(numbers))]

    def _unpack(self, data: NDArray[np.uint8], count: int) -> NDArray[Any]:
        """Return the numbers above ``low``, ``(count,)``."""
        eights = -(-count // 8)
        padded = np.zeros(eights * self.bits, np.uint8)
        padded[: data.size] = data
        rows = padded.reshape(eights, self.bits)

        if self.bits <= 8:
            times = 8 // math.gcd(self.bits, 8)  # as many numbers fill whole bytes
            wide = np.zeros((8 * eights // times, times), np.uint8)
            wide[:, : times * self.bits // 8] = rows.reshape(len(wide), -1)
            numbers = wide.reshape(-1).view(f"<u{times}")
            while times > 1:
                times //= 2
                numbers = _parted(numbers, times * self.bits)
            return numbers[:count]

        packed = rows.T.astype(np.uint32, order="C")
        columns = np.zeros((8, eights), np.uint32)
        for place, byte, shift in self._overlaps():
            columns[place] |= packed[byte] << shift if shift >= 0 else packed[byte] >> -shift
        columns &= np.uint32(2**self.bits - 1)
        return columns.T.reshape(-1)[:count]

    def _overlaps(self) -> list[tuple[int, int, int]]:
        """Which of eight numbers has bits in which byte, and how far the number is shifted down for it."""
        bits = self.bits
        return [(p, b, 8 * b - p * bits) for p in range(8) for b in range(p * bits // 8, -(-(p + 1) * bits // 8))]

    def _bytes(self, count: int) -> int:
        return -(-count * self.bits // 8)

    def config(self) -> dict[str, Any]:
        """Return width and lowest number."""
        return {"bits": self.bits, "low": self.low} if self.low else {"bits": self.bits}

    def cost(self, values: Tensor) -> Cost:
        """Return numbers times bits, in whole bytes."""
        return Cost(self._bytes(values.numel()))

    def spelled(self) -> str:
        """Return the width."""
        return f"bitpack({self.bits})"
