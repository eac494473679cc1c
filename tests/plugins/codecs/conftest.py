from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from condensery import Registry
from condensery.nets import Coding
from condensery.storage import Source, decode

RoundTrip = Callable[[Coding, Tensor], Tensor]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.open()


@pytest.fixture(scope="session")
def round_trip(registry: Registry) -> RoundTrip:
    """Bytes and a record as JSON text, then read again; the bytes must be as many as the coding's cost says."""

    def through(coding: Coding, values: Tensor) -> Tensor:
        record, data = coding.encode(values)
        assert sum(len(d) for d in data) == coding.cost(values).total
        source = Source(torch.cat([torch.zeros(0, dtype=torch.uint8), *data]), "test")
        return decode(json.loads(json.dumps(record)), source, registry)

    return through
