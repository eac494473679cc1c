from __future__ import annotations

import pytest
import torch
from tests.plugins.pruning.stages import Given, stage_of
from torch import nn

from condensery.nets import Weight, attach, broken_promises, latent_of
from condensery_plugins.pruning.masks import Mask, keep_above, keep_largest, sparsity

SCORES = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([10.0, 0.5, 20.0, 30.0])}


def test_global_ranks_all_together() -> None:
    keep = keep_largest(SCORES, 0.5, scope="global")
    assert keep["a"].tolist() == [False, False, False, True]
    assert keep["b"].tolist() == [True, False, True, True]


def test_local_ranks_each_by_itself() -> None:
    keep = keep_largest(SCORES, 0.5, scope="local")
    assert keep["a"].tolist() == [False, False, True, True]
    assert keep["b"].tolist() == [False, False, True, True]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.9])
def test_the_share_is_exact_also_among_equals(share: float) -> None:
    keep = keep_largest({"w": torch.ones(1000)}, share, scope="global")
    assert int((~keep["w"]).sum()) == round(1000 * share)


def test_what_has_gone_counts_and_stays_gone() -> None:
    scores = {"w": torch.tensor([float("-inf"), 1.0, 2.0, 3.0])}
    assert keep_largest(scores, 0.5, scope="global")["w"].tolist() == [False, False, True, True]
    assert keep_largest(scores, 0.0, scope="global")["w"].tolist() == [False, True, True, True]


def test_a_mask_holds_zeros_and_blocks_gradients() -> None:
    net = nn.Linear(4, 1, bias=False)
    mask = Mask((1, 4))
    mask.keep.copy_(torch.tensor([[True, False, True, False]]))
    attach(net, "weight", "mask", mask)
    net(torch.ones(1, 4)).sum().backward()
    grad = net.parametrizations.weight.original.grad  # type: ignore[union-attr]
    assert grad is not None
    assert grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]  # type: ignore[operator]
    assert not broken_promises(net)
    assert mask.holds(torch.ones(1, 4)) == "2 masked entries are not zero"
    with torch.no_grad():
        net.parametrizations.weight.original.fill_(float("inf"))  # type: ignore[union-attr, operator]
    assert torch.equal(net.weight == 0, ~mask.keep)


def test_zeros_of_the_whole_net_are_those_of_all_methods() -> None:
    """Of 20 parameters 4 weights of the first layer and a bias went before; the method takes 1 of the second's 6."""
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    gone = {"0.weight": 4, "0.bias": 1, "1.weight": 1}
    for target, count in gone.items():
        held = Mask(net.get_parameter(target).shape)
        held.keep.flatten()[:count] = False
        attach(net, target, "mask", held)

    stage = stage_of(net, Given(torch.zeros(2, 3), torch.zeros(2, 2)))
    found = sparsity(stage, [stage.weights().by_path["1"]])
    assert found == {
        "sparsity_percent": pytest.approx(100 / 6),
        "net_sparsity_percent": pytest.approx(30.0),
        "reached_percent": pytest.approx(30.0),
    }


def test_a_threshold_by_hand() -> None:
    """Of 1, -2, 3, -4 the 4 is gone: the deviation of 1, -2, 3 is sqrt(38) / 3 = 2.05; 0.9 of it is 1.85."""
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        latent_of(net, "weight").copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    made = Mask((1, 4))
    made.keep.copy_(torch.tensor([[True, True, True, False]]))
    attach(net, "weight", "mask", made)
    weight = Weight("", net, "weight")
    assert keep_above(weight, 0.9).tolist() == [[False, True, True, False]]
    assert keep_above(weight, 1.0).tolist() == [[False, False, True, False]]
    made.keep.zero_()
    assert not keep_above(weight, 1.0).any()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_selecting_keeps_what_sorting_kept(share: float, scope: str) -> None:
    """Many equal scores in several tensors, some gone before, one laid out channels-last."""
    draw = torch.Generator().manual_seed(0)
    scores = {n: torch.randint(0, 6, (8, 4, 3, 3), generator=draw).float() for n in "abc"}
    scores["a"][torch.rand(8, 4, 3, 3, generator=draw) < 0.1] = float("-inf")
    scores["b"] = scores["b"].to(memory_format=torch.channels_last)

    def sorted_out(names: str) -> dict[str, list[bool]]:
        flat = torch.cat([scores[n].flatten() for n in names])
        keep = flat > float("-inf")
        keep[flat.argsort(stable=True)[: round(share * len(flat))]] = False
        return {n: part.tolist() for n, part in zip(names, torch.split(keep, len(flat) // len(names)), strict=True)}

    wanted = sorted_out("abc") if scope == "global" else sorted_out("a") | sorted_out("b") | sorted_out("c")
    found = keep_largest(scores, share, scope=scope)
    assert {n: keep.flatten().tolist() for n, keep in found.items()} == wanted
