"""Scaled signs and ternary values: forward, gradients and storage, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from condensery import Registry, Transform
from condensery.nets import Coding, Dense, attach, broken_promises
from condensery.storage import Source, bake, decode
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.quantization.signs import Groups, ScaledSign, ScaledTernary, best_threshold

REGISTRY = Registry.open()


def double(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64, requires_grad=True)


def gradient(transform: Transform, value: Tensor, g: list[float]) -> list[float]:
    """Return the gradient of sum(g * transform(value))."""
    (transform(value) * torch.tensor([g], dtype=value.dtype)).sum().backward()
    assert value.grad is not None
    found: list[float] = value.grad[0].tolist()
    return found


def stored(transform: Transform, final: Tensor) -> tuple[Tensor, int]:
    """Return what comes back of a tensor that is stored as a transform says, and its bytes."""
    coding = transform.code(Coding(Dense.of(final)), final)
    record, data = coding.encode(final)
    assert sum(part.numel() for part in data) == coding.cost(final).total
    return decode(record, Source(torch.cat(data), "test"), REGISTRY), coding.cost(final).payload


def test_zero_is_positive_in_all_its_forms() -> None:
    """``torch.sign`` gives 0 for 0, a third level."""
    values = torch.tensor([[-2.0, -0.0, 0.0, 1e-45]])
    assert ScaledSign()(values).tolist() == [[-1, 1, 1, 1]]


def test_scales_by_hand() -> None:
    """Mean sizes: 2 over all; 1 and 3 over rows; 3/2 and 5/2 over columns; over runs of two 1.5, 0 and 3.5, 2."""
    values = torch.tensor([[1.0, -2.0, 0.0], [-3.0, 4.0, 2.0]])
    assert ScaledSign(scaled=True)(values).tolist() == [[2, -2, 2], [-2, 2, 2]]
    assert ScaledSign(scaled=True, axis=0)(values).tolist() == [[1, -1, 1], [-3, 3, 3]]
    assert ScaledSign(scaled=True, axis=1)(values).tolist() == [[2, -3, 1], [-2, 3, 1]]
    assert ScaledSign(scaled=True, size=2)(values).tolist() == [[1.5, -1.5, 0], [-3.5, 3.5, 2]]


def test_gradients_without_a_scale() -> None:
    """All of it, or only where the latent is within -1 and 1, the ends included."""
    g = [1.0, 2.0, 3.0, 4.0]
    assert gradient(ScaledSign(), double(-3, -1, 0.5, 1.5), g) == [1, 2, 3, 4]
    assert gradient(ScaledSign(gradient="clip"), double(-3, -1, 0.5, 1.5), g) == [0, 2, 3, 0]


def test_the_two_gradients_through_the_mean() -> None:
    """w = -3, 0.5, 1, -0.5: a = 5/4, n = 4. Paper: g (1/4 + 5/4 [|w| <= 1]).

    Exact: sum of g sign(w) is -1 + 2 + 3 - 4 = 0 for g = 1, 2, 3, 4, and -1 for g = 1, 0, 0, 0.
    """
    w = (-3.0, 0.5, 1.0, -0.5)
    paper = ScaledSign(scaled=True, axis=0, gradient="paper")
    assert gradient(paper, double(*w), [1, 2, 3, 4]) == [0.25, 3, 4.5, 6]
    exact = ScaledSign(scaled=True, axis=0, gradient="exact")
    assert gradient(exact, double(*w), [1, 2, 3, 4]) == [0, 2.5, 3.75, 5]
    assert gradient(exact, double(*w), [1, 0, 0, 0]) == [0.25, -0.25, -0.25, 0.25]
    with pytest.raises(ValueError, match="there is none"):
        ScaledSign(gradient="paper")


def test_the_exact_gradient_is_that_of_differences() -> None:
    """Where no weight is beyond 1, what is left of it beside a's own gradient is the straight-through part."""
    torch.manual_seed(0)
    value = (torch.rand(3, 5, dtype=torch.float64) * 1.8 - 0.9).requires_grad_()
    weights = torch.randn(3, 5, dtype=torch.float64)
    (ScaledSign(scaled=True, axis=0, gradient="exact")(value) * weights).sum().backward()

    scale = value.detach().abs().mean(1, keepdim=True)
    signs = torch.where(value >= 0, 1.0, -1.0).double()
    through_scale = signs / 5 * (weights * signs).sum(1, keepdim=True)
    assert value.grad is not None
    torch.testing.assert_close(value.grad, through_scale + scale * weights)


def test_drawn_signs() -> None:
    """Probability 3/4 at 0.5, certain at the ends; out of training the sign, or the latent weight itself."""
    torch.manual_seed(0)
    values = torch.tensor([[0.5, 1.0, -1.0]]).expand(20_000, 3)
    drawn = ScaledSign(stochastic=True)(values)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean(0).tolist() == pytest.approx([0.5, 1, -1], abs=0.02)
    assert ScaledSign(stochastic=True).eval()(values[:1]).tolist() == [[1, 1, -1]]

    real = ScaledSign(stochastic=True, real=True).eval()
    assert real(values) is values
    assert real.bits is None
    assert real.holds(torch.arange(6.0).view(2, 3)) is None


def test_latent_weights_are_centred_over_the_inputs_and_kept() -> None:
    latent = torch.tensor([[3.0, -1.0, 1.0], [0.0, 0.5, 1.0]])
    ScaledSign(limited=True, centred=True).start(latent)
    assert latent.tolist() == [[1, -1, 0], [-0.5, 0, 0.5]]
    ScaledSign().start(latent.mul_(9))
    assert latent.abs().max() == 9  # kept by nothing


def test_centring_leaves_what_has_one_input_and_knows_the_axis_of_a_transposed_convolution() -> None:
    depthwise = torch.full((4, 1, 3, 3), 0.5)
    ScaledSign(scaled=True, axis=0, centred=True).start(depthwise)
    assert torch.equal(depthwise, torch.full((4, 1, 3, 3), 0.5))
    transposed = torch.tensor([[1.0, 3.0], [2.0, 7.0]])  # (inputs, outputs)
    ScaledSign(scaled=True, axis=1, centred=True).start(transposed)
    assert transposed.tolist() == [[-0.5, -2.0], [0.5, 2.0]]


def test_ternary_by_hand() -> None:
    """Mean size 1, threshold 0.7: 1.5, -2 and 1 stay, and their mean size is 1.5; 0.7 itself is zero."""
    values = torch.tensor([[0.1, 0.7, 1.5], [-2.0, 1.0, -0.7]])
    assert ScaledTernary()(values).tolist() == [[0, 0, 1.5], [-1.5, 1.5, 0]]
    # A row each, factor 0.75: thresholds 0.75 * 2.3 / 3 = 0.575 and 0.75 * 3.7 / 3 = 0.925.
    found = ScaledTernary(axis=0, factor=0.75)(values)
    torch.testing.assert_close(found, torch.tensor([[0, 1.1, 1.1], [-1.5, 1.5, 0]]))
    assert gradient(ScaledTernary(), double(0.1, 5.0, -3.0), [1, 2, 3]) == [1, 2, 3]


def test_without_a_threshold_ternary_weights_are_binary_ones() -> None:
    """TWN's BPWN: the mean size of all is (0.5 + 2 + 1 + 0.5) / 4 = 1; the gradient passes beyond 1 too."""
    made = ScaledTernary(factor=0.0)
    value = double(0.5, -2.0, 1.0, -0.5)
    assert made(value).tolist() == [[1, -1, 1, -1]]
    assert gradient(made, value, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert (made.bits, ScaledTernary().bits) == (1, 2)


def test_the_exact_threshold_is_the_best_of_all() -> None:
    """Sizes 4, 3, 1: the squared error falls by 16, 49/2, 64/3; so two stay. And against every choice there is."""
    assert best_threshold(torch.tensor([[1.0, 4.0, 3.0]])).tolist() == [[3]]
    torch.manual_seed(0)
    value = torch.randn(1, 50)
    error = float((ScaledTernary(factor=None)(value) - value).square().sum())
    every = []
    for limit in value.abs().flatten().tolist():
        kept = value.abs() >= limit
        every.append(float((value - value.sign() * kept * value.abs()[kept].mean()).square().sum()))
    assert error == pytest.approx(min(every))
    assert error <= float((ScaledTernary()(value) - value).square().sum())


@pytest.mark.parametrize("transform", [ScaledSign(scaled=True, axis=0), ScaledTernary(), ScaledTernary(factor=None)])
def test_nothing_but_zeros_stays_zero(transform: Transform) -> None:
    """The scale is zero; no division makes a number that is none."""
    zeros = torch.zeros(2, 3, requires_grad=True)
    out = transform(zeros)
    assert out.tolist() == [[0, 0, 0], [0, 0, 0]]
    out.sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()
    assert torch.equal(stored(transform, out.detach())[0], out.detach())


def test_a_constant_tensor() -> None:
    values = torch.full((2, 4), -0.3)
    for transform in (ScaledSign(scaled=True, axis=0), ScaledTernary(), ScaledTernary(factor=None)):
        torch.testing.assert_close(transform(values), values)
        assert transform.holds(transform(values)) is None


@pytest.mark.parametrize(
    ("transform", "payload"),
    [
        (ScaledSign(), 12),  # 96 signs in a bit each
        (ScaledSign(scaled=True, axis=0), 12),
        (ScaledSign(scaled=True, axis=1), 12),
        (ScaledSign(scaled=True, size=5), 12),
        (ScaledTernary(), 20),  # 96 codes, five to a byte
        (ScaledTernary(axis=1), 20),
        (ScaledTernary(size=7), 20),
        (ScaledTernary(factor=0.0), 12),
    ],
)
def test_it_is_stored_at_its_width(transform: Transform, payload: int) -> None:
    torch.manual_seed(1)
    final = transform(torch.randn(4, 3, 2, 4)).detach()
    assert transform.holds(final) is None
    back, size = stored(transform, final)
    assert torch.equal(back, final)
    assert size == payload


def test_huffmans_code_makes_ternary_codes_shorter() -> None:
    """900 zeros in one bit each and 100 others in two are 1100 bits, 138 bytes, where five to a byte are 200."""
    final = torch.zeros(10, 100)
    final[:, :5], final[:, 5:10] = 0.5, -0.5
    coding = EntropyCoded().code(ScaledTernary().code(Coding(Dense.of(final)), final), final)
    assert coding.cost(final).payload == 138


def test_the_promise() -> None:
    assert (
        ScaledSign(scaled=True).holds(torch.tensor([[1.0, -1.0, 2.0]]))
        == "1 groups of weights have two values of one sign"
    )
    assert ScaledSign(scaled=True, axis=0).holds(torch.tensor([[1.0, -1.0], [2.0, 0.0]])) is None


def test_groups_come_back() -> None:
    value = torch.arange(24.0).view(2, 3, 4)
    for groups in (Groups(), Groups(0), Groups(1), Groups(2), Groups(size=5), Groups(size=12)):
        assert torch.equal(groups.join(groups.split(value), value), value)
    assert Groups(size=5).counts(Groups(size=5).split(value), value).flatten().tolist() == [5, 5, 2, 5, 5, 2]


def test_a_mask_over_signs_survives() -> None:
    """The mask's zeros are a third value, which costs 1.6 bits, or a bitmap and the rest."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 8, bias=False))
    held = Mask((8, 40))
    held.keep.copy_(torch.rand(8, 40) < 0.1)
    attach(net, "0.weight", "mask", held)
    attach(net, "0.weight", "sign", ScaledSign(scaled=True, axis=0))
    assert broken_promises(net) == []

    baked = bake(net, REGISTRY)
    weight = baked.net[0].weight  # type: ignore[index]
    assert torch.equal(weight != 0, held.keep)
    assert held.keep.any()
    assert baked.stored["0.weight"].coding.cost(weight).payload < 64  # of 1280 bytes
