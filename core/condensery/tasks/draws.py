"""What is drawn: torch's generators, numpy's and Python's, seeded, kept, and apart from each other."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed torch's generators, numpy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def rng_state() -> dict[str, Any]:
    """Return the state of torch's generators, numpy's and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy: Any = np.random.get_state()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "python": random.getstate(),
    }


def load_rng_state(state: Mapping[str, Any]) -> None:
    """Restore all these generators."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(state["cuda"]))
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


@contextlib.contextmanager
def generators_kept(*others: torch.Generator) -> Iterator[None]:
    """Let draws go on afterwards as if nothing had been drawn meanwhile.

    :param others: that are kept besides the global ones.
    """
    noted = _noted(others)
    try:
        yield
    finally:
        _restore(noted, others)


def drawn_apart(make: Callable[[], Iterator[Any]], seed: int, *others: torch.Generator) -> Iterator[Any]:
    """Yield what an iterator gives, whose draws depend on a seed alone and leave no trace in the caller's own.

    :param make: returns the iterator; what it draws at once depends on the seed too.
    :param others: generators that it draws from besides the global ones; they are the caller's as well.
    """
    with generators_kept(*others):
        seed_generators(seed)
        for other in others:
            other.manual_seed(seed)
        iterator = make()
        noted = _noted(others)

    while True:
        with generators_kept(*others):
            _restore(noted, others)
            try:
                item = next(iterator)
            except StopIteration:
                return
            noted = _noted(others)
        yield item


def _noted(others: Sequence[torch.Generator]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Return the states of the global generators and of others."""
    return rng_state(), [other.get_state() for other in others]


def _restore(noted: tuple[dict[str, Any], list[torch.Tensor]], others: Sequence[torch.Generator]) -> None:
    """Restore all of them."""
    state, theirs = noted
    load_rng_state(state)
    for other, its in zip(others, theirs, strict=True):
        other.set_state(its)
