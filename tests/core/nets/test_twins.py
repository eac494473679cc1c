"""A copy of a net is what ``copy.deepcopy`` makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from condensery.nets import deep_copied


class Odd(nn.Module):
    """A child twice, a tied weight, lists and dicts of modules, a tensor that is no buffer, a shared setting."""

    def __init__(self) -> None:
        super().__init__()
        self.once = nn.Linear(2, 2)
        self.twice = self.once
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.once.weight
        self.listed = [self.once, nn.ReLU()]
        self.table = {"size": (1, 2), "parent": [self]}
        self.same_table = self.table
        self.loose = torch.ones(2)
        self.none = None
        self.register_buffer("kept", torch.arange(3), persistent=False)
        self.register_module("empty", None)


class Own(nn.Linear):
    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "told": True})  # type: ignore[no-untyped-call]


NETS: list[Callable[[], nn.Module]] = [
    Odd,
    lambda: Own(2, 3),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    lambda: nn.LSTM(3, 4, num_layers=2),
    lambda: nn.TransformerEncoderLayer(8, 2),
]


@pytest.mark.parametrize("build", NETS)
def test_it_holds_the_same_as_a_deep_copy(build: Callable[[], nn.Module]) -> None:
    net = build().eval()
    wanted, found = copy.deepcopy(net), deep_copied(net, {})
    for (path, a), (other, b) in zip(wanted.named_modules(), found.named_modules(), strict=True):
        assert (path, type(a), list(vars(a))) == (other, type(b), list(vars(b)))
        assert all(type(value) is type(vars(b)[name]) for name, value in vars(a).items())

    mine, theirs = dict(net.state_dict(keep_vars=True)), dict(found.state_dict(keep_vars=True))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name])
        assert value.data_ptr() != theirs[name].data_ptr()
        assert value.requires_grad == theirs[name].requires_grad


def test_what_is_one_thing_stays_one() -> None:
    net = Odd()
    twin = deep_copied(net, {})
    assert isinstance(twin, Odd)
    assert twin.twice is twin.once is twin.listed[0] is not net.once
    assert twin.tied.weight is twin.once.weight is not net.once.weight
    assert twin.same_table is twin.table
    assert twin.table["parent"] == [twin]
    assert twin.loose.data_ptr() != net.loose.data_ptr()
    twin.once.register_forward_hook(lambda *_: None)
    assert not net.once._forward_hooks


def test_what_stands_for_a_tensor_is_taken() -> None:
    net, other = Odd(), nn.Parameter(torch.zeros(2, 2))
    twin = deep_copied(net, {id(net.once.weight): other})
    assert isinstance(twin, Odd)
    assert twin.once.weight is twin.tied.weight is other
