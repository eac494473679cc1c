"""Nets of every make: those that are taken, what is taken off them, and what the others are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.core.front.nets import SIDE, Plain, loaders
from torch import Tensor, nn

import condensery
from condensery import NotApplicable, Result, UsageError
from condensery.nets import clone


def compressed(net: Any, line: str = "network-slimming(ratio=0.25)", **more: Any) -> Result:
    train, test = loaders()
    return condensery.compress(net, line, train=train, test=test, quiet=True, **more)


# ------------------------------------------------------------------ what is taken off


class Whole(nn.Module):
    """A net whose body alone is wrapped."""

    def __init__(self, wrap: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.inner = wrap(Plain())

    def forward(self, images: Tensor) -> Any:
        return self.inner(images)


WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "OptimizedModule": torch.compile,
    "both": lambda net: nn.DataParallel(torch.compile(net)),
}


@pytest.mark.parametrize("name", WRAPS)
def test_a_wrapper_is_taken_off_and_a_plain_net_comes_back(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    train, test = loaders()
    wrapped = WRAPS[name](Plain())
    result = condensery.compress(wrapped, "network-slimming(ratio=0.25)", train=train, test=test)
    assert type(result.net) is Plain
    assert result.report["after"]["parameters"] < result.report["before"]["parameters"]
    said = capfd.readouterr().err
    assert f"{'DataParallel' if name == 'both' else name} around the net is taken off" in said
    assert ("OptimizedModule around layer 'module' is taken off" in said) == (name == "both")

    like = condensery.load(result.artifact, into=WRAPS[name](Plain(seed=3)))
    images = next(iter(test))[0]
    assert type(like) is Plain
    assert torch.equal(like(images), result.net(images))
    assert torch.equal(condensery.load(result.artifact, into=Plain(seed=4))(images), result.net(images))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapper_inside_of_a_net_is_taken_off(wrap: Any) -> None:
    net = Whole(wrap)
    inner: Any = compressed(net).net.get_submodule("inner")
    assert type(inner) is Plain
    assert type(net.inner) is not Plain
    assert [layer.out_channels for layer in (inner.body[0], inner.body[3])] == [7, 11]


def test_a_copy_of_a_net_that_was_compiled_in_place_calls_itself() -> None:
    net, images = Plain(), torch.randn(3, 1, SIDE, SIDE)
    net.compile(backend="eager")
    twin = clone(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(images).any()
    assert net(images).any()


# ------------------------------------------------------------------ what is taken


@pytest.mark.parametrize("line", ["network-slimming(ratio=0.25)", "lsq(weight_bits=4)"])
def test_a_net_that_torch_fx_traced(line: str) -> None:
    net = torch.fx.symbolic_trace(Plain())
    result = compressed(net, line)
    again = condensery.load(result.artifact, into=torch.fx.symbolic_trace(Plain(seed=2)))
    images = next(iter(loaders()[1]))[0]
    assert isinstance(again, torch.fx.GraphModule)
    assert torch.equal(again(images), result.net(images))
    assert result.report["ratios"]["compression_rate"] > 1


class Noisy(Plain):
    """Adds noise to its outputs, in eval mode too."""

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = super().forward(images)
        return scores + 0.1 * torch.randn_like(scores)


@pytest.mark.parametrize("line", ["network-slimming(ratio=0.25)", "l1-filter-pruning(ratio=0.5)"])
def test_a_net_that_draws_can_be_cut(line: str) -> None:
    """Whether a cut net does what the masked one did is seen where both draw the same."""
    result = compressed(Noisy(), line)
    assert result.report["after"]["parameters"] < result.report["before"]["parameters"]


class Named(nn.Module):
    """Has one net under two names, numbers that are no floats among its parameters, and a state of its own kind."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.one = self.two = Plain(seed)
        self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.two(images)[:, self.order]
        return scores

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}


@pytest.mark.parametrize("line", ["network-slimming(ratio=0.25)", "lsq(weight_bits=4)", "magnitude(sparsity=0.5)"])
def test_two_names_whole_numbers_and_a_state_of_ones_own(line: str) -> None:
    result = compressed(Named(), line)
    again: Any = condensery.load(result.artifact, into=Named(seed=2))
    images = next(iter(loaders()[1]))[0]
    assert again.one is again.two
    assert again.order.tolist() == [2, 0, 1]
    assert torch.equal(again(images), result.net(images))
    assert result.report["ratios"]["compression_rate"] > 1


# ------------------------------------------------------------------ what is refused


class Locked(Plain):
    """Holds what can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def quantized() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 16), nn.ReLU(), nn.Linear(16, 3))
    made: nn.Module = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})  # type: ignore[no-untyped-call]
    return made


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(Plain()), "the net is TorchScript, .*give the net that it was made of"),
    "traced": (
        lambda: nn.Sequential(torch.jit.trace(nn.Linear(2, 3), torch.zeros(2, 2))),  # type: ignore[no-untyped-call]
        "layer '0' is TorchScript, .*give the net that it was made of",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        "layer '1': LazyLinear has no shape before it is called; call the net on a batch before",
    ),
    "quantized": (quantized, "layer '1': Linear is quantized by torch already; give the net as it was before"),
    "locked": (Locked, "attribute 'lock' of the net's Locked can't be copied, .*TypeError: cannot pickle"),
    "without memory": (
        lambda: Plain().to("meta"),
        "net: body.0.weight is on the meta device, without numbers; build the net on another device",
    ),
    "class": (lambda: Plain, r"net: Plain is a class; give a net that was made of it, Plain\(...\)"),
    "state": (lambda: Plain().state_dict(), "net: give a net, a torch.nn.Module, not OrderedDict"),
    "function": (lambda: len, "net: give a net, a torch.nn.Module, not <built-in function len>"),
}


class Scales(nn.Module):
    """Has parameters, and none that is a layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = nn.BatchNorm2d(1), nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.norm(images).mean((1, 2, 3))[:, None] * self.scale
        return scores


@pytest.mark.parametrize("method", ["lsq", "twn", "fgq", "ssl", "gradual-magnitude-pruning", "kmeans-sharing"])
def test_a_net_without_a_layer_that_has_weights(method: str) -> None:
    with pytest.raises(NotApplicable, match=f"^{method} is not applicable: the net .* no layer that has weights$"):
        compressed(Scales(), method)
    with pytest.raises(UsageError, match=r"^net: this Sequential has no parameters: there is nothing to compress$"):
        compressed(nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(3)), method)


class Lost(Plain):
    """Gives its outputs without a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Wordy(Plain):
    """Gives what holds no tensor."""

    def forward(self, images: Tensor) -> Any:
        return {"answer": str(super().forward(images))}


def test_a_net_that_gives_nothing_to_learn_from() -> None:
    said = "stage 'magnitude': player 'student' trains, but its loss carries no gradient: the net or the loss detaches"
    with pytest.raises(UsageError, match=f"^{said}"):
        compressed(Lost(), "magnitude")
    compressed(Lost(), "magnitude", epochs=0)
    with pytest.raises(
        UsageError, match=r"^the net returns a mapping of answer: str: let it return a tensor, or a tup"
    ):
        compressed(Wordy(), "magnitude")


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_net_that_can_not_be_treated_says_why(kind: str, tmp_path: Any) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(UsageError, match=f"^{said}"):
        compressed(make(), "magnitude")
    if kind != "locked":  # it is copied only once the file was found to hold a net
        with pytest.raises(UsageError, match=f"^{said}"):
            condensery.load(tmp_path / "no.safetensors", into=make())
