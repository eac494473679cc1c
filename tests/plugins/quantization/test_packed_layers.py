"""Layers on codes against the simulated ones, and against sums written out in whole numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensery import Registry, Transform
from condensery.nets import attach
from condensery.storage import bake
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.quantization.abc_net import BinaryActivations, ShiftedSigns
from condensery_plugins.quantization.bases_layer import BasesLayer
from condensery_plugins.quantization.lq_nets import LearnedBasis
from condensery_plugins.quantization.lsq import LearnedStep
from condensery_plugins.quantization.packed_bits import PackedBits, Prefer, packed_layer
from condensery_plugins.quantization.packed_layers import CodesLayer, Packed, SelectLayer, ShiftLayer, XnorLayer
from condensery_plugins.quantization.packed_words import whole_products
from condensery_plugins.quantization.signs import ScaledSign, ScaledTernary
from condensery_plugins.quantization.ttq import LearnedTernary
from condensery_plugins.quantization.uniform import for_unit_input

REGISTRY = Registry.open()
CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 1},
]


class Powers(Transform):
    """Rounds to the nearest power of two, or to zero."""

    def forward(self, value: Tensor) -> Tensor:
        return value.sign() * torch.where(value.abs() < 0.05, 0.0, 2.0 ** value.abs().log2().round())


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(70, 9), *(nn.Conv2d(6, 8, **settings) for settings in CONVS)]


def seen_by(layer: nn.Module) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 70) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 7, 9)


def made(layer: nn.Module, weight: Transform, inputs: Transform | None, prefer: Prefer) -> tuple[Packed, nn.Module]:
    """Return the packed layer in the place of a layer, and the net with the simulated one."""
    net = nn.Sequential(layer)
    attach(net, "0.weight", "quantizer", weight)
    if inputs is not None:
        attach(net, "0:input", "quantizer", inputs)
    found = packed_layer(net[0], prefer)
    assert found is not None
    return found, net


def parametrized(layer: Any) -> Tensor:
    """Return the weight as the layer uses it."""
    used: Tensor = layer.weight
    return used.detach()


def close(found: Tensor, expected: Tensor) -> None:
    """Assert that outputs are alive, and equal up to the rounding of a sum in float32."""
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", range(5))
def test_signs_times_signs_are_counts_of_bits(place: int) -> None:
    """With the scale 1 and no bias the simulated sums are whole, and equal bit for bit; what pads is real zero."""
    layer = layers()[place]
    found, net = made(layer, ScaledSign(), ScaledSign(gradient="clip"), "bits")
    assert isinstance(found, XnorLayer)
    x = seen_by(layer)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.zero_()  # type: ignore[operator]
            assert found.bias is not None
            found.bias.zero_()
        expected = net(x)
        assert expected.abs().max() > 3
        assert torch.equal(found(torch.where(x >= 0, 1.0, -1.0)), expected)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("weight", "inputs", "prefer", "kind"),
    [
        (ScaledSign(scaled=True, axis=0), ScaledSign(gradient="clip"), "bits", XnorLayer),
        (ScaledSign(scaled=True, axis=0), "one bit", "bits", CodesLayer),
        (ScaledSign(scaled=True, axis=0), None, "bits", SelectLayer),
        (ScaledTernary(), None, "bits", SelectLayer),
        (LearnedTernary(0.3), None, "bits", SelectLayer),
        (Powers(), None, "bits", ShiftLayer),
        (ScaledTernary(axis=0), "signed", "bits", CodesLayer),
        ("weight", "signed", "bits", CodesLayer),
        ("weight", "unsigned", "bits", CodesLayer),
        (Powers(), "unsigned", "bits", ShiftLayer),
    ],
)
def test_it_computes_what_the_simulated_layer_does(
    place: int, weight: Any, inputs: Any, prefer: Prefer, kind: type[Packed]
) -> None:
    layer = layers()[place]
    x = seen_by(layer)
    if weight == "weight":
        weight = LearnedStep(8).start(layer.weight.detach())  # type: ignore[operator]
    if isinstance(weight, LearnedTernary):
        with torch.no_grad():
            weight.positive.fill_(0.7)
    if inputs == "one bit":  # 0 and 1, as DoReFa-Net and WRPN have them, not -1 and 1
        x = x.abs()
        inputs = for_unit_input([x], 1)
    if isinstance(inputs, str):
        x = x if inputs == "signed" else x.abs()
        inputs = LearnedStep(8, signed=inputs == "signed", batched=True).start(x)

    found, net = made(layer, weight, inputs, prefer)
    assert type(found) is kind
    with torch.no_grad():
        expected = net(x)
        on_grid = x if inputs is None else inputs(x)
    close(found(on_grid), expected)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("kind", ["abc", "signed", "unsigned"])
def test_sums_of_signs_on_both_sides_are_counts_of_bits(place: int, kind: str) -> None:
    """Weights of three numbers, one set for the layer or for each output, times inputs of two; padding is real zero."""
    layer = layers()[place]
    latent, x = layer.weight.detach(), seen_by(layer)  # type: ignore[operator]
    x = x.abs() if kind == "unsigned" else x
    inputs: BinaryActivations | LearnedBasis
    if kind == "abc":
        weight, inputs = ShiftedSigns(3), BinaryActivations(2)
        with torch.no_grad():
            inputs.scales.copy_(torch.tensor([0.7, 0.4]))
    else:
        shape = [len(latent), *[1] * (latent.dim() - 1)]
        weight = LearnedBasis(3, shape, 0).start(latent.flatten(1).std(1) / 3, latent)  # type: ignore[assignment]
        inputs = LearnedBasis(2, [], signed=kind == "signed", activation=True).start(0.5, x)

    found, net = made(layer, weight, inputs, "bits")
    assert isinstance(found, BasesLayer)
    with torch.no_grad():
        expected = net.eval()(x)
        close(found(inputs(x)), expected)
        assert torch.equal(found.weight, parametrized(layer))
    assert found.work(x).bits == ((3, 2),)

    again = BasesLayer(**found.config())
    again.load_state_dict(found.state_dict())
    assert torch.equal(again(inputs(x)), found(inputs(x)))
    assert found.codings()["codes"].cost(found.codes).payload == -(-3 * found.codes.numel() // 8)


def test_a_sum_of_sums_by_hand() -> None:
    """Weights 2 + 1, 2 - 1 and -2 + 1, inputs 0.5 + 0.25, 0.5 - 0.25 and -0.5 - 0.25: 2.25 + 0.25 + 0.75."""
    made = BasesLayer.of(
        torch.tensor([[3, 2, 1]]), torch.tensor([[1.0], [2.0]]), torch.tensor([0.25, 0.5]), True, {"bias": None}
    )
    assert made.weight.tolist() == [[3, 1, -1]]
    assert made(torch.tensor([[0.75, 0.25, -0.75]])).tolist() == [[3.25]]

    # With numbers that are there or not: 3 x 0.75 + 0.5 - 0.
    made = BasesLayer.of(made.codes, torch.tensor([[1.0], [2.0]]), torch.tensor([0.25, 0.5]), False, {"bias": None})
    assert made(torch.tensor([[0.75, 0.5, 0.0]])).tolist() == [[2.75]]


def test_a_masked_sum_of_signs_stays_simulated() -> None:
    """Zero is no such sum, unless two numbers are the same."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 4)
    held = Mask((4, 16))
    held.keep[0, 0] = False
    net = nn.Sequential(layer)
    attach(net, "0.weight", "quantizer", ShiftedSigns(2))
    attach(net, "0:input", "quantizer", BinaryActivations(2))
    assert isinstance(packed_layer(layer, "bits"), BasesLayer)
    attach(net, "0.weight", "mask", held)
    assert packed_layer(layer, "bits") is None


def test_a_sum_of_int8_by_hand() -> None:
    """Codes 3, -2 and -4, 1 with scale 0.5; inputs 0, 1 .. 255 with scale 0.1: (3 * 200 - 2 * 10) * 0.05 = 29."""
    codes = torch.tensor([[3, -2], [-4, 1]])
    inputs = {"scale": 0.1, "low": 0, "high": 255, "bits": 8}
    layer = CodesLayer.filled(codes, torch.full((2, 2), 0.5), None, weight_bits=4, inputs=inputs)
    assert layer(torch.tensor([[20.0, 1.0]]))[0].tolist() == pytest.approx([29, -39.5])


def test_a_sum_of_shifts_by_hand() -> None:
    """Weights 2, -0.5, 0 and inputs 3, 4, 9: 6 - 2 = 4."""
    codes = torch.tensor([[3, -1, 0]])
    layer = ShiftLayer.filled(codes, torch.full((2, 1), 0.5), None, weight_bits=3)
    assert layer.weight.tolist() == [[2, -0.5, 0]]
    assert layer(torch.tensor([[3.0, 4.0, 9.0]])).tolist() == [[4]]


def test_sums_of_many_wide_codes_are_whole() -> None:
    """2,000 inputs of 99 and a half, in steps of 2^-16: their codes add up to 1.3e10, far beyond float32's 2^24."""
    inputs = {"scale": 2.0**-16, "low": -(2**31), "high": 2**31 - 1, "bits": 32}
    layer = ShiftLayer.filled(torch.ones(1, 2000).int(), torch.ones(2, 1), None, weight_bits=3, inputs=inputs)
    x = 99.5 + torch.arange(2000) % 7 * 2.0**-16
    assert layer.encoded(x[None])[0].sum().item() == 2**16 * 2000 * 99.5 + sum(n % 7 for n in range(2000))
    assert layer(x[None]).item() == pytest.approx(x.double().sum().item(), rel=2**-23)


@pytest.mark.parametrize("place", range(5))
def test_shapes_that_the_plain_layer_takes(place: int) -> None:
    """One example without a batch, and a batch of none."""
    layer = layers()[place]
    x = seen_by(layer)
    inputs = LearnedStep(8, batched=True).start(x)
    found, net = made(layer, ScaledTernary(axis=0), inputs, "bits")
    with torch.no_grad():
        on_grid = inputs(x)
        close(found(on_grid[0]), net(x)[0])
        assert found(on_grid[:0]).shape == net(x)[:0].shape


def test_what_is_not_a_number_has_no_code() -> None:
    layer = layers()[0]
    x = seen_by(layer)
    found, _ = made(layer, ScaledTernary(axis=0), LearnedStep(8, batched=True).start(x), "bits")
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match="codes-layer: an input is not a number"):
        found(x)


def test_whole_products_are_exact_at_the_ends_of_int8() -> None:
    """Where the processor's int8 product cuts off sums, another one is taken."""
    generator = torch.Generator().manual_seed(3)
    for rows, inputs, outputs in ((33, 70, 18), (1, 5, 3), (4, 4608, 9)):
        high = [torch.rand(n, inputs, generator=generator) < 0.9 for n in (rows, outputs)]
        left, right = (torch.where(which, 127, -128).to(torch.int8) for which in high)
        assert torch.equal(whole_products(left, right), (left.long() @ right.long().T).int())


def test_work_is_counted() -> None:
    """A convolution of 6 to 8 channels, 3x3, on 7x9: 63 outputs of 432 products each; one bit times one."""
    found, _ = made(nn.Conv2d(6, 8, 3, padding=1), ScaledSign(), ScaledSign(gradient="clip"), "bits")
    work = found.work(torch.randn(1, 6, 7, 9))
    assert (work.macs, work.effective_macs, work.bitops, work.bits) == (63 * 432, 63 * 432, 63 * 432, ((1, 1),))
    assert work.moved_bytes == 432 // 8 + 4 * (6 * 63 + 8 * 63)  # floats come in and go out
    ternary, _ = made(nn.Linear(70, 9), ScaledTernary(), None, "bits")
    work = ternary.work(torch.randn(4, 70))
    assert work.macs == 4 * 630
    assert work.effective_macs == 4 * int(ternary.codes.count_nonzero()) < work.macs
    assert work.bitops == 4 * 630 * 2 * 32
    assert work.moved_bytes == 158 + 4 * (4 * 70 + 4 * 9)  # 630 codes of two bits


def test_what_it_cannot_do_stays_simulated() -> None:
    def of(layer: nn.Module, weight: Transform, inputs: Transform | None = None, prefer: Prefer = "bits") -> Any:
        net = nn.Sequential(layer)
        attach(net, "0.weight", "quantizer", weight)
        if inputs is not None:
            attach(net, "0:input", "quantizer", inputs)
        return packed_layer(net[0], prefer)

    signs = ScaledSign(gradient="clip")
    assert of(nn.Linear(512, 256), ScaledTernary(), prefer="speed") is None  # slower than floats
    assert of(nn.Linear(512, 255), ScaledSign(), signs, prefer="speed") is None  # too small
    assert isinstance(of(nn.Linear(512, 256), ScaledSign(), signs, prefer="speed"), CodesLayer)
    assert of(nn.Linear(8, 8), ScaledSign(scaled=True, size=3)) is None  # several scales in a row
    assert of(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), ScaledSign()) is None
    assert of(nn.Conv2d(2, 2, 3, padding="same"), ScaledSign()) is None
    assert of(nn.ConvTranspose2d(2, 2, 3), ScaledSign()) is None
    fine = LearnedStep(8).start(torch.full((9,), 0.1))  # so that a row has many levels, whatever weights are drawn
    assert of(nn.Linear(8, 8), fine) is None  # inputs are floats
    assert packed_layer(nn.Linear(8, 8), "bits") is None


def test_masks_and_huffmans_code_survive_the_layer() -> None:
    """Nine of ten weights are masked: as many bits as without the layer, and the layer takes the place of the first."""
    torch.manual_seed(0)
    sizes = []
    for on_codes in (False, True):
        torch.manual_seed(0)
        first = nn.Linear(60, 40)
        net = nn.Sequential(first, nn.ReLU(), nn.Linear(40, 5))
        held = Mask((40, 60))
        held.keep.copy_(torch.rand(40, 60) < 0.1)
        attach(net, "0.weight", "quantizer", LearnedStep(4).start(first.weight.detach()))
        attach(net, "0:input", "quantizer", LearnedStep(8).start(torch.randn(99)))
        attach(net, "0.weight", "mask", held)
        attach(net, "0.weight", "coded", EntropyCoded())
        if on_codes:
            attach(net, "0.weight", "packed", PackedBits("bits"))
        x = torch.randn(9, 60)
        baked = bake(net, REGISTRY)
        with torch.no_grad():
            close(baked.net(x), net(x))
        name = "0.codes" if on_codes else "0.weight"
        values = dict(baked.net.named_buffers())[name] if on_codes else baked.net.get_parameter(name)
        sizes.append(baked.stored[name].coding.cost(values).payload)
    assert isinstance(baked.net[0], CodesLayer)  # type: ignore[index]
    assert sizes[0] == sizes[1] < 60 * 40 * 4 / 8 / 2
