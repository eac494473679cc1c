from __future__ import annotations

import copy
import gc
import re
import weakref
from typing import Any

import pytest
import torch
from tests.core.helpers import Sign
from torch import nn
from torch.nn.utils import parametrizations, prune

from condensery.errors import UsageError
from condensery.nets import attach, clone, detach, latent_of, plain, same_numbers


def test_a_clone_shares_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    attach(net, "0.weight", "sign", Sign())
    attach(net, "0:output", "out", Sign())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    twin = clone(net)
    assert same_numbers(net, twin)
    assert twin[1].inplace is False  # type: ignore[index]
    detach(twin, "0.weight", "sign")
    detach(twin, "0:output", "out")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

    assert len(torch.unique(getattr(net[0], "weight"))) <= 3  # noqa: B009
    net(torch.randn(2, 4)).sum().backward()


def test_a_recurrent_layer_is_cloned_with_its_transforms_and_without_them() -> None:
    net, x = nn.Sequential(nn.LSTM(3, 4, 2, batch_first=True)), torch.randn(2, 5, 3)
    whole = net(x)[0]
    attach(net, "0.weight_hh_l0", "sign", Sign())
    signed = net(x)[0]  # with a gradient behind the weights that the layer holds
    assert not torch.equal(signed, whole)

    twin = clone(net)
    assert torch.equal(twin(x)[0], signed)
    assert torch.equal(clone(twin)(x)[0], signed)
    assert torch.equal(plain(net)(x)[0], whole)
    assert torch.equal(copy.deepcopy(plain(net))(x)[0], whole)

    with torch.no_grad():
        latent_of(twin.get_submodule("0"), "weight_ih_l0").zero_()
    assert not torch.equal(twin(x)[0], signed)
    assert torch.equal(net(x)[0], signed)


@pytest.mark.parametrize(
    ("wrap", "call"),
    [
        (parametrizations.weight_norm, "parametrize.remove_parametrizations"),
        (parametrizations.spectral_norm, "parametrize.remove_parametrizations"),
        (parametrizations.orthogonal, "parametrize.remove_parametrizations"),
        (nn.utils.spectral_norm, "remove_spectral_norm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove"),  # type: ignore[no-untyped-call]
    ],
)
def test_weights_that_others_make_are_refused_with_what_to_call(wrap: Any, call: str) -> None:
    net = nn.Sequential(wrap(nn.Linear(4, 4)))
    said = rf"^layer '0': its weight is made by .*; call (torch.nn.utils.{call}\(.*\)) before$"
    with pytest.raises(UsageError, match=said) as found:
        clone(net)
    eval(re.findall(said, str(found.value))[0], {"torch": torch, "net": net})
    assert clone(net)(torch.ones(1, 4)).equal(net(torch.ones(1, 4)))


def test_a_net_with_transforms_goes_as_soon_as_nobody_holds_it() -> None:
    net = nn.Linear(2, 2)
    attach(net, "weight", "sign", Sign())
    twin = clone(net)
    held = [weakref.ref(module) for module in (net, twin)]

    gc.collect()
    gc.disable()
    try:
        del net, twin
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
