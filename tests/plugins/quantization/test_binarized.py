"""The methods with one bit and with three values: which layers they take, their gradients, their latent weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Stage, load
from condensery.contract import build_method
from condensery.nets import attached
from condensery.recipe import parse_recipe
from condensery.run import Player
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.binaryconnect import BinaryConnect
from condensery_plugins.quantization.bnn import BNN
from condensery_plugins.quantization.bwn import BWN
from condensery_plugins.quantization.fgq import FGQ
from condensery_plugins.quantization.packed_bits import PackedArithmetic
from condensery_plugins.quantization.packed_layers import CodesLayer, Packed, SelectLayer, XnorLayer
from condensery_plugins.quantization.ttq import TTQ, LearnedTernary
from condensery_plugins.quantization.twn import TWN
from condensery_plugins.quantization.wrpn import WRPN
from condensery_plugins.quantization.xnor_net import InputScaledConv2d, XNORNet


class Called(nn.Module):
    """A net that calls its ReLU as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))
        return out


def own_stage(net: nn.Module) -> Stage:
    stage = stage_of("mlp")
    stage.players["student"] = Player("student", net, spec=stage.student.spec, trains=True)
    return stage


def targets(stage: Stage) -> set[str]:
    return {item.target for item in attached(stage.student.module)}


def test_a_bnn_sees_signs_in_all_layers_but_the_first() -> None:
    stage = stage_of("resnet8", width=0.5)
    relus = [p for p, m in stage.student.module.named_modules() if isinstance(m, nn.ReLU)]
    assert len(relus) == 7
    BNN().prepare(stage=stage)

    paths = stage.weights().paths
    assert targets(stage) == {f"{p}.weight" for p in paths} | {f"{p}:input" for p in paths if p != "conv1"}
    assert not [p for p, m in stage.student.module.named_modules() if isinstance(m, nn.ReLU)]
    assert all(set(weight.value.flatten().tolist()) == {-1, 1} for weight in stage.weights())

    stage = stage_of("resnet8", width=0.5)
    BNN().prepare(stage=stage)
    seen = stage.record_inputs(["layer1.0.conv2"], 8)["layer1.0.conv2"][0]
    assert seen.min() < 0  # what batch normalization gives; the sign comes after this look


def test_a_bnns_neurons_may_be_drawn_in_training() -> None:
    """An activation of 0.5 is 1 with probability 3/4, so that its mean is 0.5; out of training its sign is 1."""
    stage = stage_of("mlp", hidden=[8, 8], activation="hardtanh")
    BNN(neurons="stochastic").prepare(stage=stage)
    sign = next(a.transform for a in attached(stage.student.module) if a.target == "fc2:input")
    halves = torch.full((20_000,), 0.5)
    drawn = sign.train()(halves)
    assert set(drawn.tolist()) == {-1.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.02)
    assert bool((sign.eval()(halves) == 1).all())


def test_normalized_outputs_let_a_bnns_loss_start_where_losses_do() -> None:
    """A sum of 256 signs deviates by 16, so that the loss is about as large; each normalized output deviates by 1."""
    losses = []
    for output_norm in (False, True):
        stage = stage_of("mlp", hidden=[256], batch_norm=True, output_norm=output_norm, activation="hardtanh")
        BNN(restart=True).prepare(stage=stage)
        batch = stage.sample(200)[0]
        stage.student.module.train()
        outputs = stage.task.outputs(stage.student.module, batch)
        loss = stage.task.loss(outputs, batch)
        assert loss is not None
        losses.append(loss.item())
    assert outputs.mean(0).tolist() == pytest.approx([0] * 10, abs=1e-4)
    assert outputs.std(0, correction=0).tolist() == pytest.approx([1] * 10, abs=1e-3)
    assert losses[0] > 10
    assert 2 < losses[1] < 4


def test_an_activation_that_is_a_function_is_named() -> None:
    with pytest.raises(NotApplicable, match=r"the input of layer 'fc2' is never negative.*no ReLU module"):
        BNN().prepare(stage=own_stage(Called()))
    with pytest.raises(NotApplicable, match="layer 'fc2'"):
        XNORNet().prepare(stage=own_stage(Called()))
    BNN().prepare(stage=stage_of("mlp", hidden=[8, 8], activation="hardtanh"))


def test_the_first_and_the_last_layer_stay_float() -> None:
    for method in (BWN(), XNORNet(), TTQ()):
        stage = stage_of("resnet8", width=0.5)
        method.prepare(stage=stage)
        assert not {"conv1.weight", "linear.weight", "conv1:input", "linear:input"} & targets(stage)
        assert "layer1.0.conv1.weight" in targets(stage)
        with pytest.raises(NotApplicable, match="no layers between"):
            method.prepare(stage=stage_of("mlp", hidden=[8]))
    stage = stage_of("resnet8", width=0.5)
    TWN().prepare(stage=stage)
    assert {"conv1.weight", "linear.weight"} < targets(stage)


def test_weights_that_are_no_numbers_are_named() -> None:
    stage = stage_of("mlp", hidden=[8])
    with torch.no_grad():
        stage.weights().by_path["fc2"].latent[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="'fc2' has weights that are not finite"):
        BinaryConnect().prepare(stage=stage)


def test_a_binary_weights_step_has_glorots_factor_and_no_decay() -> None:
    """64 inputs and 6 outputs: sqrt(70 / 1.5) times the rate; a convolution of 1 to 4 channels, 3x3: sqrt(45 / 1.5)."""
    stage = stage_of("mlp", hidden=[6])
    method = BinaryConnect()
    method.prepare(stage=stage)
    everything = list(stage.student.module.parameters())
    groups = [{"params": everything, "lr": 0.1, "weight_decay": 0.2}]
    made = method.optimizer(stage=stage, player=stage.student, groups=groups)

    by_parameter = {id(p): group for group in made.param_groups for p in group["params"]}
    assert len(by_parameter) == len(everything) == 4
    first = stage.weights().by_path["fc1"]
    assert by_parameter[id(first.latent)]["lr"] == pytest.approx(0.1 * (70 / 1.5) ** 0.5)
    assert by_parameter[id(first.latent)]["weight_decay"] == 0
    rest = by_parameter[id(first.module.bias)]
    assert (rest["lr"], rest["weight_decay"]) == (0.1, 0.2)

    stage = own_stage(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)))
    method = BinaryConnect()
    method.prepare(stage=stage)
    everything = list(stage.student.module.parameters())
    groups = [{"params": everything, "lr": 0.1, "weight_decay": 0.2}]
    made = method.optimizer(stage=stage, player=stage.student, groups=groups)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert rates[id(stage.weights().by_path["0"].latent)] == pytest.approx(0.1 * (45 / 1.5) ** 0.5)

    plain = BinaryConnect(glorot=False).optimizer(stage=stage, player=stage.student, groups=groups)
    assert {group["lr"] for group in plain.param_groups} == {0.1}


def test_latent_weights_may_start_anew() -> None:
    stage = stage_of("mlp", hidden=[50])
    before = stage.weights().by_path["fc1"].latent.detach().clone()
    BinaryConnect(restart=True).prepare(stage=stage)
    latent = stage.weights().by_path["fc1"].latent
    assert not torch.equal(latent, before)
    assert -1 <= latent.min() < -0.99
    assert 0.99 < latent.max() <= 1


def test_ttq_by_hand() -> None:
    """Largest size 2, threshold 0.25: it cuts at 0.5, ends included. Wp = 3, Wn = 0.5, gradients 1 to 5.

    Wp's: 1 + 4 = 5. Wn's: -(2) . Latent: 3 * 1, 0.5 * 2, 3, 3 * 4, 5.
    """
    made = LearnedTernary(0.25).double()
    with torch.no_grad():
        made.positive.fill_(3)
        made.negative.fill_(0.5)
    values = torch.tensor([0.6, -2.0, 0.5, 1.0, -0.5], dtype=torch.float64, requires_grad=True)
    out = made(values)
    assert out.tolist() == [3, -0.5, 0, 3, 0]

    (out * torch.arange(1.0, 6)).sum().backward()
    assert made.positive.grad is not None
    assert made.negative.grad is not None
    assert values.grad is not None
    assert (float(made.positive.grad), float(made.negative.grad)) == (5, -2)
    assert values.grad.tolist() == [3, 1, 3, 12, 5]

    with torch.no_grad():
        made.negative.fill_(-0.25)
        made.settle(None)
    assert made.negative.item() == 0.25
    assert LearnedTernary(0.25).start(values.detach().float()).positive.item() == pytest.approx(0.8)
    assert LearnedTernary(0.05)(torch.zeros(3)).tolist() == [0, 0, 0]


def test_input_scales_by_hand() -> None:
    """Two channels, sizes 1 to 4 and 3 to 6: means 2 to 5; a 2x2 kernel sees their mean, 3.5. Signs give 1 + 1 - 2."""
    layer = InputScaledConv2d({"in_channels": 2, "out_channels": 1, "kernel_size": 2, "bias": True})
    with torch.no_grad():
        layer.weight[:] = torch.tensor([[[1.0, 1], [1, 0]], [[-1, 0], [0, -1]]])
        assert layer.bias is not None
        layer.bias.fill_(0.25)
    x = torch.tensor([[[[1.0, -2], [3, 4]], [[3, 4], [-5, 6]]]])
    assert layer.scales(x).tolist() == [[[[3.5]]]]
    # Channel 1: 1 - 1 + 1, channel 2: -1 - 1.
    assert layer(x).tolist() == [[[[-1 * 3.5 + 0.25]]]]

    inside = (x / 4).requires_grad_()
    layer(inside).sum().backward()
    assert inside.grad is not None
    assert inside.grad[0, 0].flatten().tolist() == pytest.approx([0.875, 0.875, 0.875, 0])
    assert inside.grad[0, 1].flatten().tolist() == pytest.approx([-0.875, 0, 0, 0])  # 6 / 4 is beyond 1


def test_each_group_of_a_convolution_has_the_scale_of_its_own_channels() -> None:
    """Two groups of two channels, kernels of one place and weights of 1: sizes 3, 1 and 5, 7 have means 2 and 6.

    Signs + - sum to 0 and - - to -2, in each of a group's two filters: 0, 0, -12, -12.
    """
    layer = InputScaledConv2d({"in_channels": 4, "out_channels": 4, "kernel_size": 1, "groups": 2, "bias": False})
    torch.nn.init.ones_(layer.weight)
    x = torch.tensor([3.0, -1, -5, -7]).view(1, 4, 1, 1)
    assert layer.scales(x).flatten().tolist() == [2, 6]
    assert layer(x).flatten().tolist() == [0, 0, -12, -12]


class Mixed(nn.Module):
    """A net with a ReLU and a ReLU6, which cuts off at 6."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU6(), nn.Linear(16, 16), nn.Linear(16, 10)
        self.layers = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def test_a_relu6_before_a_sign_goes_too() -> None:
    """Layers 3 and 5 see signs: both rectifiers before them go, and no other one in their place."""
    stage = own_stage(Mixed())
    XNORNet().prepare(stage=stage)
    gone = [path for path, module in stage.student.module.named_modules() if isinstance(module, nn.Identity)]
    assert gone == ["layers.2", "layers.4"]
    assert {"layers.3:input", "layers.5:input"} <= targets(stage)


class Raised(nn.Module):
    """A transposed convolution in two groups between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.raised = nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.last = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.raised(self.first(x)).mean((2, 3)))
        return out


def test_filters_that_lie_along_no_dimension_are_refused() -> None:
    """The weight is (4 inputs, 2 outputs of a group): filters 0 and 2 share an index, but not their mean size."""
    for method in (BWN(), XNORNet(), TWN(scope="filter"), FGQ(samples=8), WRPN(weight_bits=1)):
        with pytest.raises(NotApplicable, match="layer 'raised' is a transposed convolution in groups"):
            method.prepare(stage=own_stage(Raised()))
    stage = own_stage(Raised())
    TWN().prepare(stage=stage)  # one scale for the layer
    assert "raised.weight" in targets(stage)


def test_bits_out_of_range_are_refused() -> None:
    for key, settings in (("twn", {"factor": 1.0}), ("ttq", {"threshold": -0.1})):
        card = REGISTRY.card(key)
        with pytest.raises(Exception, match=r"must be (> 0 and < 1|>= 0 and < 1)"):
            build_method(key, REGISTRY.load("methods", key), settings, card)


def test_a_net_of_doubles_does_not_compute_on_codes() -> None:
    net = Called().double()
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    stage = own_stage(net)
    TWN().prepare(stage)
    with pytest.raises(NotApplicable, match=r"it computes in float32, and 'fc\d' is torch.float64"):
        PackedArithmetic().prepare(stage)


@pytest.mark.parametrize(
    ("method", "prefer", "kinds"),
    [
        ({"bnn": {}}, "bits", {XnorLayer, SelectLayer}),
        ({"lsq": {}}, "bits", {CodesLayer}),
        ({"twn": {}}, "bits", {SelectLayer}),
        ({"ttq": {"edges": "quantized"}}, "bits", {SelectLayer}),
    ],
)
def test_a_run_ends_on_codes(method: dict[str, Any], prefer: str, kinds: set[type], tmp_path: Path) -> None:
    """The artifact holds layers on codes; its net gives what the simulated one does, and it is about as small."""
    stages = [{"methods": [method], "epochs": 1}, {"methods": [{"packed-bits": {"prefer": prefer}}], "epochs": 0}]
    sizes = []
    nets = []
    for part in (stages[:1], stages):
        recipe = parse_recipe(
            {
                "model": {"key": "mlp", "hidden": [128, 96], "batch_norm": True, "activation": "hardtanh"},
                "task": "digits",
                "base": "none",
                "data": {"subset": {"size": 64}},
                "train": {"batch_size": 16, "optimizer": {"lr": 0.05}},
                "stages": part,
            }
        )
        done = play(recipe, REGISTRY, tmp_path / str(len(part)))
        check_artifact(done, REGISTRY)
        sizes.append((done.folder / "artifact.safetensors").stat().st_size)
        nets.append(load(done.folder / "artifact.safetensors"))

    found = [type(m) for m in nets[1].modules() if isinstance(m, Packed)]
    assert set(found) == kinds
    assert sizes[1] < sizes[0] * 1.2 < 8 * (64 * 128 + 128 * 96)
    x = torch.randn(9, 1, 8, 8)
    expected = nets[0](x)
    assert expected.std() > 0.1
    torch.testing.assert_close(nets[1](x), expected, rtol=1e-3, atol=1e-3)
