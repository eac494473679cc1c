"""Which tensors are weights: of torch's own classes, of a stranger's, and how their rows lie."""

from __future__ import annotations

import pytest
import torch
from tests.core.helpers import Sign, offering
from torch import Tensor, nn

from condensery import Registry
from condensery.nets import Reach, attach, weights_of


class Scaled(nn.Module):
    """A stranger's layer: ``y = x kernel``, so that inputs come first."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel * self.scale


@pytest.mark.parametrize(
    ("layer", "names"),
    [
        (nn.Linear(2, 3), ["weight"]),
        (nn.Conv1d(2, 3, 1), ["weight"]),
        (nn.ConvTranspose2d(2, 3, 1), ["weight"]),
        (nn.LSTM(2, 3, 2), ["weight_hh_l0", "weight_hh_l1", "weight_ih_l0", "weight_ih_l1"]),
        (nn.GRU(2, 3, bidirectional=True), [f"weight_{of}_l0{way}" for of in ("hh", "ih") for way in ("", "_reverse")]),
        (nn.LSTM(2, 4, proj_size=3), ["weight_hh_l0", "weight_hr_l0", "weight_ih_l0"]),
        (nn.LSTMCell(2, 3), ["weight_hh", "weight_ih"]),
        (nn.MultiheadAttention(4, 2), ["in_proj_weight", "out_proj.weight"]),
        (nn.MultiheadAttention(4, 2, kdim=3), ["k_proj_weight", "q_proj_weight", "v_proj_weight", "out_proj.weight"]),
        (nn.Sequential(nn.Embedding(5, 2), nn.LayerNorm(2)), []),
    ],
)  # fmt: skip
def test_the_weights_of_torchs_own_layers(layer: nn.Module, names: list[str]) -> None:
    assert [w.name for w in weights_of(layer)] == names


def test_embeddings_come_on_request_and_biases_by_their_weights_names() -> None:
    net = nn.Sequential(nn.Embedding(5, 2), nn.LSTM(2, 3), nn.Linear(3, 4), nn.LayerNorm(4))
    assert [w.name for w in weights_of(net)] == ["1.weight_hh_l0", "1.weight_ih_l0", "2.weight"]
    assert [w.name for w in weights_of(net, (nn.Embedding,))] == ["0.weight"]
    assert [w.name for w in weights_of(net, tensor="bias")] == ["1.bias_hh_l0", "1.bias_ih_l0", "2.bias"]
    assert [w.name for w in weights_of(net, (nn.LayerNorm,))] == ["3.weight"]
    assert list(weights_of(net).by_path) == ["2"]


def test_names_and_order_stay_when_something_is_attached() -> None:
    net = nn.Sequential(nn.LSTM(2, 3))
    attach(net, "0.weight_hh_l0", "sign", Sign())
    assert [w.name for w in weights_of(net)] == ["0.weight_hh_l0", "0.weight_ih_l0"]


def test_a_stranger_says_which_tensors_of_a_class_are_weights() -> None:
    key = f"{Scaled.__module__}.Scaled"
    registry = Registry.open([("given", offering(weighted={key: {"kernel": (1, 0)}}))])
    assert registry.problems == []
    (weight,) = weights_of(nn.Sequential(Scaled()), reach=Reach.of(registry))
    assert weight.name == "0.kernel"
    assert weight.rows(weight.latent).tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize("target", [{}, {"kernel": (0, 2)}, {"kernel": 1}, {1: (0, 1)}, "package:Row"])
def test_what_says_no_axes_is_refused(target: object) -> None:
    registry = Registry.open([("given", offering(weighted={"a.B": target}))], entry_points=False)
    (problem,) = registry.problems
    assert "weighted 'a.B': say each weight's axes of outputs and inputs, {'weight': (0, 1)}" in problem
    assert registry.keys("weighted") == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose1d(4, 6, 3, groups=2),
        nn.Linear(4, 6),
        nn.Embedding(4, 6),
    ],
)
def test_a_row_holds_what_makes_one_output(layer: nn.Module) -> None:
    """A layer whose weight is zero but for one row writes that output alone."""
    (weight,) = weights_of(nn.Sequential(layer), (type(layer),))
    x = (
        torch.randint(4, (3,))
        if isinstance(layer, nn.Embedding)
        else torch.randn(2, 4, 5, 5)[..., : 4 if isinstance(layer, nn.Linear) else 5]
    )
    x = x[..., 0] if isinstance(layer, nn.ConvTranspose1d) else x
    axis = -1 if isinstance(layer, nn.Linear | nn.Embedding) else 1
    bias = weights_of(nn.Sequential(layer), (type(layer),), "bias")
    rows = torch.zeros_like(weight.rows(weight.latent.detach()))
    assert rows.shape[0] == 6

    rows[4] = 1.0
    with torch.no_grad():
        weight.latent.copy_(weight.from_rows(rows))
        for held in bias:
            held.latent.zero_()
        out = layer(x)
    assert weight.rows(weight.latent.detach()).equal(rows)
    written = [bool(part.any()) for part in out.unbind(axis)]
    assert written == [False, False, False, False, True, False]
