from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.core.helpers import Act, Sign, recipe, registry
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from condensery import Run, UsageError, hookimpl
from condensery.nets import attach, attached, broken_promises, clone, detach, plain_name, straight_through
from condensery.run import Player, Stage
from condensery.tasks import map_tensors
from condensery_plugins.pruning.masks import Mask


def test_straight_through_is_exact() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = straight_through(x.sign() * 0.3, x)
    assert torch.equal(out, x.sign() * 0.3)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("order", ["mask first", "sign first"])
def test_zeros_survive_a_sign_quantizer_in_both_orders(order: str) -> None:
    net = nn.Linear(8, 4)
    keep = torch.arange(32).reshape(4, 8) % 2 == 0
    mask = Mask((4, 8))
    mask.keep.copy_(keep)
    parts = [("mask", mask), ("sign", Sign())]
    for name, part in parts if order == "mask first" else parts[::-1]:
        attach(net, "weight", name, part)
    assert [a.name for a in attached(net)] == ["sign", "mask"]  # rank order, whatever came first
    assert float((net.weight == 0).float().mean()) == 0.5
    assert len(net.weight.unique()) == 3  # type: ignore[no-untyped-call]
    assert not broken_promises(net)
    mask.keep.fill_(True)
    net.weight.sum().backward()  # type: ignore[no-untyped-call]


def test_a_broken_promise_is_named() -> None:
    class Liar(Sign):
        def forward(self, value: Tensor) -> Tensor:
            return value

    net = nn.Linear(8, 4)
    attach(net, "weight", "liar", Liar())
    assert broken_promises(net) == ["weight: liar: 32 levels"]


def test_activation_sites_survive_copies_and_export() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    attach(net, "0:input", "in", Sign())
    attach(net, "0:output", "out", Sign())
    x = torch.randn(3, 4)
    expected = net(x)
    assert len(expected.unique()) <= 3
    assert torch.equal(clone(net)(x), expected)
    exported = torch.export.export(net, (x,), strict=False).module()
    assert torch.equal(exported(x), expected)


class Halves(nn.Module):
    """Gives half of each input by name; a module that is called by keyword, with token ids beside its floats."""

    def forward(self, *, x: Any, ids: Tensor) -> dict[str, Any]:
        return {"half": map_tensors(lambda tensor: tensor / 2, x), "ids": ids}


@pytest.mark.parametrize("site", ["input", "output"])
def test_floats_of_a_tree_are_transformed_and_nothing_else(site: str) -> None:
    """A sign of size 0.5 before the halves, or behind them; packed sequences, arguments by name, dicts as outputs."""
    net = nn.ModuleDict({"halves": Halves()})
    attach(net, f"halves:{site}", "given", Sign())
    ids, packed = torch.tensor([7, 8, 9]), pack_sequence([torch.tensor([3.0, -4.0]), torch.tensor([5.0])])
    found = net["halves"](x=packed, ids=ids)
    size = 0.25 if site == "input" else 0.5
    assert found["half"].data.tolist() == [size, size, -size]
    assert found["half"].batch_sizes.tolist() == [2, 1]
    assert torch.equal(found["ids"], ids)
    assert len(copy.deepcopy(net)["halves"](x=(torch.tensor([-2.0]), ids), ids=ids)["half"]) == 2

    detach(net, f"halves:{site}", "given")
    assert net["halves"](x=torch.tensor([3.0]), ids=ids)["half"].tolist() == [1.5]
    assert not net["halves"]._forward_pre_hooks_with_kwargs


def test_the_states_behind_a_recurrent_layers_outputs_stay() -> None:
    net = nn.Sequential(nn.LSTM(2, 3))
    packed = pack_sequence([torch.ones(2, 2)])
    plain, (state, _) = net(packed)
    attach(net, "0:output", "given", Sign())
    found, (again, _) = net(packed)
    assert plain.data.abs().min() > 0
    assert torch.equal(found.data, plain.data.sign() / 2)
    assert torch.equal(state, again)


def test_tied_weights_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    with pytest.raises(UsageError, match=r"0\.weight' is shared with 1\.weight"):
        attach(net, "0.weight", "sign", Sign())


@pytest.mark.parametrize(
    ("name", "better"), [("half", "half"), ("items", "items"), ("training", "training"), ("a.b", "a-b"), ("", "")]
)
@pytest.mark.parametrize("target", ["0.weight", "0:input"])
def test_names_that_torch_cannot_give_are_refused(name: str, better: str, target: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    better = f"{better}-transform".lstrip("-")
    says = f"target {target!r}: transform Sign can't be named {name!r}: .*; {better!r} would do"
    with pytest.raises(UsageError, match=says):
        attach(net, target, name, Sign())
    assert [n for n, _ in net.named_modules()] == ["", "0"], "nothing is left of the attempt"
    attach(net, target, better, Sign())
    attach(net, target, "weight", Sign())  # a tensor's name is as good as any
    assert [a.name for a in attached(net)] == [better, "weight"]


@pytest.mark.parametrize("hook", ["prepare", "end_stage"])
def test_a_name_that_torch_cannot_give_is_refused_before_training(hook: str, tmp_path: Path) -> None:
    def attaches(self: Act, stage: Stage) -> None:
        stage.attach(stage.weights()[1].name, "half", Sign())

    def steps(self: Act, stage: Stage, player: Player) -> None:
        assert stage.dry, "a step was taken"

    hooks = {hook: hookimpl(attaches), "after_step": hookimpl(steps)}
    run = Run(recipe(["strange"]), registry(strange=type("Strange", (Act,), hooks)), out=tmp_path / "o")
    with pytest.raises(UsageError, match="transform Sign can't be named 'half'"):
        run.execute()


def test_plain_names() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    attach(net, "0.weight", "sign", Sign())
    assert {plain_name(n) for n, _ in net.named_parameters()} == {"0.weight", "0.bias"}


class Levels(Act):
    """Counts a weight's levels after every step."""

    counts: ClassVar[list[int]] = []
    steps: ClassVar[list[float]] = []

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        weight = stage.weights()[2]
        Levels.counts.append(len(weight.value.unique()))  # type: ignore[no-untyped-call]
        assert weight.stack is not None
        Levels.steps.append(float(weight.stack.transforms["lsq"].step.detach()))  # type: ignore[operator]


def test_quantize_then_distil_keeps_the_levels(tmp_path: Path) -> None:
    Levels.counts.clear()
    Levels.steps.clear()
    stages = [
        {"methods": [{"lsq": {"weight_bits": 3}}]},
        {"methods": ["hinton-kd", "levels"], "teacher": "original", "epochs": 3},
    ]
    Run(recipe(stages), registry(levels=Levels), out=tmp_path / "o").execute()
    assert len(Levels.counts) >= 6
    assert max(Levels.counts) <= 8
    assert len(set(Levels.steps)) > 3  # the step size keeps moving in the later stage


def test_a_mask_holds_through_later_stages(tmp_path: Path) -> None:
    report = Run(recipe(["magnitude", {"name": "plain", "epochs": 2}]), registry(), out=tmp_path / "o").execute()
    assert report["stages"][-1]["name"] == "plain"
    zeros = 1 - report["after"]["nonzeros"] / report["after"]["parameters"]
    assert 0.45 < zeros < 0.52
