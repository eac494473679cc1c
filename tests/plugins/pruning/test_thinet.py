from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.helpers import Watch, recipe
from tests.plugins.pruning.stages import draw, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Registry, Run, UsageError
from condensery.nets import same_numbers
from condensery.run import Progress
from condensery.storage import open_artifact
from condensery_plugins.models import resnet, timm_images, vgg
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.thinet import ThiNet, contributions, greedy, rescaling
from condensery_plugins.tasks.digits import Digits

torch.set_num_threads(1)
REGISTRY = Registry.open()


def prune(net: nn.Module, **settings: Any) -> dict[str, float]:
    method = ThiNet(**{"images": 64, **settings})
    stage = stage_of(net, Digits())
    method.prepare(stage)
    return method.report(stage)


# ---------------------------------------------------------------- the choice


def test_greedy_worked_out_by_hand() -> None:
    """Two samples, (3, -3, 1, 2) and (1, -1, 2, 0).

    Alone the channels count 10, 10, 5, 4: the last goes. With it the others count 5^2 + 1 = 26, (-1)^2 + 1 = 2 and
    3^2 + 2^2 = 13: the second goes. Channel by channel the third would go, which leaves an error of 13 and not 2.
    """
    x = torch.tensor([[3.0, -3.0, 1.0, 2.0], [1.0, -1.0, 2.0, 0.0]])
    gram = x.T @ x
    assert gram.diagonal().tolist() == [10.0, 10.0, 5.0, 4.0]
    assert greedy(gram, 2) == [3, 1]
    assert x[:, [3, 1]].sum(1).square().sum() == 2
    assert x[:, [3, 2]].sum(1).square().sum() == 13


def test_each_greedy_step_is_the_best_of_all() -> None:
    x = draw(40, 9)
    gone: list[int] = []
    for count in range(1, 9):
        best = min((i for i in range(9) if i not in gone), key=lambda i: x[:, [*gone, i]].sum(1).square().sum().item())
        gone.append(best)
        assert greedy(x.T @ x, count) == gone


def test_greedy_is_not_far_from_the_best_set_of_all() -> None:
    x = draw(30, 6)
    error = x[:, greedy(x.T @ x, 3)].sum(1).square().sum().item()
    every = [x[:, list(s)].sum(1).square().sum().item() for s in itertools.combinations(range(6), 3)]
    assert min(every) <= error < sorted(every)[len(every) // 4]


def test_rescaling_is_numpys_least_squares() -> None:
    x, gone = draw(50, 7), [5, 0, 3]
    stays = [1, 2, 4, 6]
    wanted, *_ = np.linalg.lstsq(x[:, stays].numpy(), x.sum(1).numpy(), rcond=None)
    factors = rescaling(x.T @ x, gone)
    assert factors[stays].numpy() == pytest.approx(wanted, abs=1e-10)
    assert factors[gone].tolist() == [1.0, 1.0, 1.0]


def test_a_channel_that_was_never_seen_to_do_anything_stays_as_it_is() -> None:
    """Channel 1 is always zero, channel 2 is half of channel 0 and goes: 1.5 times channel 0 is right."""
    x = torch.tensor([[2.0, 0.0, 1.0], [4.0, 0.0, 2.0]], dtype=torch.float64)
    assert rescaling(x.T @ x, [2])[:2].tolist() == pytest.approx([1.5, 1.0])


# ---------------------------------------------------------------- what is measured

CONVOLUTIONS: dict[str, nn.Conv1d | nn.Conv2d] = {
    "plain": nn.Conv2d(3, 4, 3),
    "padded": nn.Conv2d(3, 4, 3, padding=1),
    "stride": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilation": nn.Conv2d(3, 4, 3, dilation=2, padding="same", padding_mode="reflect"),
    "1d": nn.Conv1d(3, 4, 3, padding=1),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_parts_are_those_of_the_convolution(kind: str) -> None:
    """Each row's sum is the output at one place, without the bias; its numbers are the channels' own outputs there."""
    conv = CONVOLUTIONS[kind].double()
    seen = draw(2, 3, 6, 7) if isinstance(conv, nn.Conv2d) else draw(2, 3, 9)
    weight = conv.get_parameter("weight").detach()
    rows = contributions(conv, weight, seen, 400, torch.Generator().manual_seed(0))
    assert rows.shape == (800, 3)
    with torch.no_grad():
        bias = conv(torch.zeros_like(seen))
        whole = (conv(seen) - bias).flatten(1)
        alone = []
        for channel in range(3):
            only = torch.zeros_like(seen)
            only[:, channel] = seen[:, channel]
            alone.append((conv(only) - bias).flatten(1))
    places = set()
    for number, row in enumerate(rows):
        image = number // 400
        place = int((whole[image] - row.sum()).abs().argmin())
        assert whole[image, place].item() == pytest.approx(row.sum().item(), abs=1e-10)
        assert torch.stack(alone, 2)[image, place].tolist() == pytest.approx(row.tolist(), abs=1e-10)
        places.add((image, place))
    assert len(places) > 0.9 * whole.numel() * (1 - np.exp(-400 / whole[0].numel()))


class Chain(nn.Module):
    """Two convolutions with a norm and a ReLU between; the first two filters of the first are the same."""

    def __init__(self, between: str = "") -> None:
        super().__init__()
        self.between = between
        self.a, self.norm = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.b = nn.Conv2d(8 if between == "twice" else 4, 3, 3)
        self.head = nn.Linear(3, 10)
        with torch.no_grad():
            self.a.get_parameter("weight")[1] = self.a.get_parameter("weight")[0]
            if not between:
                self.b.get_parameter("weight")[:, :2] *= 0.1
                self.b.get_parameter("weight")[:, 1] = self.b.get_parameter("weight")[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.a(x)))
        if self.between == "twice":
            y = torch.cat([y, y], 1)
        elif self.between == "flip":
            y = y.flip(1)
        if self.between == "linear":
            return self.head(self.norm(self.a(x))[:, :3].mean((2, 3)))  # type: ignore[no-any-return]
        return self.head(torch.relu(self.b(y)).mean((2, 3)))  # type: ignore[no-any-return]


def test_of_two_equal_channels_one_goes_and_the_other_counts_double() -> None:
    torch.manual_seed(0)
    net = Chain().eval()
    x = Digits().example(4)
    before, kernels = net(x).detach(), net.b.get_parameter("weight").detach().clone()
    report = prune(net, keep=0.8)
    assert (net.a.out_channels, net.b.in_channels) == (3, 3)
    after = net.b.get_parameter("weight").detach()
    assert torch.allclose(after[:, 0], 2 * kernels[:, 0], rtol=1e-4)
    assert torch.allclose(after[:, 1:], kernels[:, 2:], rtol=1e-4)
    assert torch.allclose(net(x), before, atol=1e-5)
    assert report["unscaled_error_percent"] > 1e-3
    assert report["error_percent"] < 1e-6
    assert {k: v for k, v in report.items() if "error" not in k} == {
        "layers_cut_count": 1,
        "channels_removed_count": 1,
        "channels_removed_percent": 25.0,
    }


def test_a_channel_that_a_mask_keeps_the_next_layer_from_reading_goes_first() -> None:
    """However large the numbers under the mask are."""
    torch.manual_seed(0)
    net = Chain().eval()
    filters = net.a.get_parameter("weight").detach().clone()
    with torch.no_grad():
        net.b.get_parameter("weight")[:, 3] = 100.0
    stage = stage_of(net, Digits())
    keep = torch.ones(3, 4, 3, 3, dtype=torch.bool)
    keep[:, 3] = False
    mask(stage, stage.weights()[1], keep)
    method = ThiNet(images=64, keep=0.8)
    method.prepare(stage)
    assert torch.equal(net.a.get_parameter("weight"), filters[:3])
    assert method.report(stage)["unscaled_error_percent"] == 0.0


def test_without_rescaling_the_kernels_stay() -> None:
    torch.manual_seed(0)
    net = Chain().eval()
    kernels = net.b.get_parameter("weight").detach().clone()
    report = prune(net, keep=0.8, rescale=False)
    assert torch.equal(net.b.get_parameter("weight"), kernels[:, 1:])
    assert report["unscaled_error_percent"] == report["error_percent"] > 1e-3


@pytest.mark.parametrize("between", ["twice", "flip", "linear"])
def test_channels_that_no_single_convolution_reads_in_order_are_left(between: str) -> None:
    with pytest.raises(NotApplicable, match="no convolution has channels of its own"):
        prune(Chain(between))


def test_the_choice_beats_both_controls() -> None:
    errors = {}
    for criterion in ("greedy", "norms", "random"):
        torch.manual_seed(0)
        net = resnet.build(Digits().facts, "resnet8")
        report = prune(net, criterion=criterion, rescale=False)
        errors[criterion] = report["error_percent"]
    assert errors["greedy"] < errors["norms"] < 0.9 * errors["random"]


# ---------------------------------------------------------------- what is cut


def test_parameters_after_a_cut() -> None:
    """Half of the first convolution's filters in each block, of widths 8, 16 and 32, with norms of two numbers each.

    Gone: 288 + 8 + 288, 576 + 16 + 1152 and 2304 + 32 + 4608.
    """
    net = resnet.build(Digits().facts, "resnet8", width=0.5)
    before = sum(p.numel() for p in net.parameters())
    report = prune(net)
    assert before - sum(p.numel() for p in net.parameters()) == 584 + 1744 + 6944
    assert report["channels_removed_count"] == 4 + 8 + 16
    widths = {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert [widths[n] for n in ("conv1", "layer1.0.conv2", "layer3.0.conv1")] == [8, 8, 16]


def test_a_bottleneck_keeps_what_its_last_convolution_writes() -> None:
    """As in the paper: the first two convolutions of each block are cut, and the sums keep their width."""
    net = timm_images.build(Digits().facts, "resnet26", channels=[4, 8, 16, 32])
    before = {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert prune(net, images=8, keep=0.5)["layers_cut_count"] == 2 * 8
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            halved = name.startswith("layer") and name.endswith(("conv1", "conv2"))
            assert module.out_channels == before[name] // (2 if halved else 1), name


def test_a_plain_net_is_cut_up_to_the_layer_before_the_classifier() -> None:
    net = vgg.build(Digits().facts, "vgg16-bn", width=0.125)
    prune(net, keep=0.3)
    widths = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [2, 2, 4, 4, 9, 9, 9, 19, 19, 19, 19, 19, 64]


@pytest.mark.parametrize(
    ("layers", "count"), [(["layer2.0.conv1"], 8), (["layer1", "*3.0*"], 4 + 16), (["*"], 4 + 8 + 16)]
)
def test_only_named_layers(layers: list[str], count: int) -> None:
    """Of layer1 only conv1 can be cut, and of layer3."""
    net = resnet.build(Digits().facts, "resnet8", width=0.5)
    assert prune(net, layers=layers)["channels_removed_count"] == count


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("layer2.0.conv2", r"unknown layer 'layer2\.0\.conv2'; did you mean 'layer2\.0\.conv1'\?"),
        ("first", "none of the layers that can be cut is first"),
    ],
)
def test_a_layer_that_cannot_be_cut_is_refused_by_name(layer: str, says: str) -> None:
    net = resnet.build(Digits().facts, "resnet8", width=0.5)
    with pytest.raises(UsageError, match=rf"^thinet\.layers: {says}$"):
        prune(net, layers=[layer])


def test_layers_in_turn_are_as_one_after_the_other() -> None:
    """The second layer is measured on the net that the first one's cut leaves, before anything is cut."""
    nets = []
    for passes in ([["features.7", "features.3"]], [["features.3"], ["features.7"]], [["features.7"], ["features.3"]]):
        torch.manual_seed(0)
        net = vgg.build(Digits().facts, "vgg16-bn", width=0.125)
        for layers in passes:
            prune(net, layers=layers)
        nets.append(dict(net.named_parameters()))
    at_once, in_order, backwards = nets
    assert at_once["features.10.weight"].shape == (16, 8, 3, 3)
    assert all(torch.allclose(p, in_order[n], rtol=1e-4, atol=1e-6) for n, p in at_once.items())
    assert not all(torch.allclose(p, backwards[n], rtol=1e-2, atol=1e-3) for n, p in at_once.items())


@pytest.mark.parametrize(("layer", "cut"), [("layer1.0.conv1", 1), ("layer1.0.conv2", 0), ("conv1", 0), ("linear", 0)])
def test_a_pass_over_a_layer_that_cannot_be_cut_trains_nothing(layer: str, cut: int) -> None:
    net = resnet.build(Digits().facts, "resnet8", width=0.5)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    stage, method = stage_of(net, Digits(), layer=layer, epochs=3), ThiNet(images=64)
    method.prepare(stage)
    assert method.report(stage)["layers_cut_count"] == cut
    assert stage.epochs == (3 if cut else 0)
    assert (method.report(stage)["channels_removed_count"] > 0) == bool(cut)
    changed = [n for n, p in net.named_parameters() if p.shape != before[n].shape or not torch.equal(p, before[n])]
    assert bool(changed) == bool(cut)


# ---------------------------------------------------------------- whole recipes

ROUND = [{"over": "layers", "stages": [{"name": "m", "methods": [{"thinet": {"images": 32}}], "epochs": 2}]}]


def job(out: Path, watch: Watch, *, resume: bool = False) -> Run:
    show = Progress(quiet=True)
    return Run(recipe(ROUND), REGISTRY, out=out, device="cpu", resume=resume, show=show, observer=watch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Watch]:
    watch = Watch()
    made = job(tmp_path_factory.mktemp("whole") / "run", watch)
    made.execute()
    return made, watch


def test_a_round_over_layers_cuts_each_that_can_be(whole: tuple[Run, Watch]) -> None:
    made, _ = whole
    epochs = {s["name"]: s["epochs"] for s in made.stages}
    trained = [n for n, e in epochs.items() if e]
    assert trained == [f"m [layer{n}.0.conv1]" for n in (1, 2, 3)]
    assert set(epochs.values()) == {0, 2}
    assert len(epochs) == 8
    assert [s["report"]["thinet.channels_removed_count"] for s in made.stages] == [0, 4, 0, 8, 0, 16, 0, 0]
    out = made.folder.path / "artifact.safetensors"
    assert made.baked is not None
    x = made.task.example(3)
    with torch.no_grad():
        assert torch.equal(open_artifact(out, REGISTRY).net(x), made.baked.net(x))


@pytest.mark.parametrize(("at", "epochs"), [(2, 0), (3, 1), (5, 0), (5, 1), (6, 0)])
def test_a_killed_round_goes_on_bit_by_bit(whole: tuple[Run, Watch], at: int, epochs: int, tmp_path: Path) -> None:
    """Stopped inside passes, and when they end, after a cut that the folder's net has already, or only the progress."""
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path / "run", Watch(stop_after=epochs, where=lambda stage: stage.round == at)).execute()
    watch = Watch()
    again = job(tmp_path / "run", watch, resume=True)
    again.execute()
    made, watched = whole
    assert same_numbers(watched.student, watch.student)
    assert [s["report"] for s in made.stages] == [s["report"] for s in again.stages]


def test_not_behind_a_quantizer(tmp_path: Path) -> None:
    """Twice a latent weight isn't twice the quantized one."""
    with pytest.raises(NotApplicable, match=r"thinet is not applicable: .*no quantizer holds them"):
        Run(recipe(["lsq", "thinet"]), REGISTRY, out=tmp_path / "o", device="cpu").execute()


def test_masks_before_it_hold(tmp_path: Path) -> None:
    made = Run(
        recipe([{"methods": [{"magnitude": {"sparsity": 0.5}}]}, {"methods": [{"thinet": {"images": 32}}]}]),
        REGISTRY,
        out=tmp_path / "o",
        device="cpu",
    )
    made.execute()
    assert made.baked is not None
    left = made.baked.net.get_parameter("layer2.0.conv2.weight")
    assert left.shape == (16, 8, 3, 3)
    assert 0.2 < float((left == 0).float().mean()) < 0.8
