"""Two steps of each method, worked out by hand, and what is kept for whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Watch, recipe, registry
from torch import Tensor, nn

from condensery import Run
from condensery.recipe import ModelSpec
from condensery.run import Bucket, Player, Workers
from condensery_plugins.quantization.gradient_codes.ecq_sgd import ECQSGD
from condensery_plugins.quantization.gradient_codes.ef_signsgd import EFSignSGD
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode
from condensery_plugins.quantization.gradient_codes.one_bit_adam import OneBitAdam
from condensery_plugins.quantization.gradient_codes.one_bit_sgd import OneBitSGD
from condensery_plugins.quantization.gradient_codes.qsgd import QSGD
from condensery_plugins.quantization.gradient_codes.terngrad import TernGrad


class Net:
    """A linear layer without bias, of 16 numbers by default, and a method that has started."""

    def __init__(self, method: GradientCode, workers: int, *, shape: tuple[int, int] = (4, 4), lr: float = 0.5) -> None:
        self.method, self.layer = method, nn.Linear(shape[1], shape[0], bias=False)
        self.player = Player("student", nn.Sequential(self.layer), spec=ModelSpec(key="given"), trains=True)
        group = {"params": [self.layer.weight], "lr": lr, "weight_decay": 0.0}
        make: Any = getattr(method, "optimizer", lambda player, groups: torch.optim.SGD(groups))
        self.player.optimizer = make(player=self.player, groups=[group])
        method.start(Workers(workers))

    def agreed(self, *gradients: Tensor) -> Tensor:
        """Return what the workers agree on."""
        bucket = Bucket("0.weight", self.layer.weight.shape, torch.stack([g.flatten() for g in gradients]))
        return self.method.exchange(player=self.player, bucket=bucket)

    @property
    def kept(self) -> Tensor:
        return self.method.kept_["student/0.weight"]


def of(*values: float) -> Tensor:
    """Return 16 numbers: these, four times."""
    return torch.tensor(values).repeat(16 // len(values))


def test_ef_signsgd_keeps_what_its_signs_leave_out() -> None:
    """Rate 0.5; p = 0.5 g + e. The scale of |1, 3, 1, 3| / 2 is 1; then p = 0.5 (2, 2, ...) + (-0.5, 0.5, ...)."""
    net = Net(EFSignSGD(), 2)
    first = net.agreed(of(1.0, 3.0), of(-1.0, -3.0))
    assert torch.equal(first, of(0.0))
    assert torch.equal(net.kept, torch.stack([of(-0.5, 0.5), of(0.5, -0.5)]))

    second = net.agreed(of(2.0), of(2.0))  # p is 0.5 and 1.5, or 1.5 and 0.5: the scale is 1, and the gradient 1 / 0.5
    assert torch.equal(second, of(2.0))
    assert torch.equal(net.kept, torch.stack([of(-0.5, 0.5), of(0.5, -0.5)]))

    without = Net(EFSignSGD(feedback=False), 1)
    without.agreed(of(1.0, 3.0))
    assert without.method.kept_ == {}


def test_ef_signsgd_decays_inside_the_code() -> None:
    net = Net(EFSignSGD(), 1)
    assert net.player.optimizer is not None
    net.player.optimizer.param_groups[0]["decay"] = 0.1
    with torch.no_grad():
        net.layer.weight.fill_(10.0)
    assert torch.equal(net.agreed(of(1.0)), of(2.0))


def test_ef_signsgd_keeps_in_units_of_the_step() -> None:
    """When the rate drops from 0.5 to 0.1, e = 0.5 stays the step that it was, and is five gradients then."""
    net = Net(EFSignSGD(), 1)
    net.agreed(of(1.0, 3.0))
    assert net.player.optimizer is not None
    net.player.optimizer.param_groups[0]["lr"] = 0.1
    torch.testing.assert_close(net.agreed(of(0.0)), of(-5.0, 5.0))


def test_ecq_keeps_errors_of_the_plain_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one level each and a draw that never rounds up, only the largest is sent: the others' errors add up."""
    monkeypatch.setattr(Bucket, "uniform", lambda bucket: torch.full_like(bucket.values, 1 - 2**-20))
    net = Net(ECQSGD(levels=1, alpha=0.5, beta=0.5), 1)
    assert torch.equal(net.agreed(of(4.0, 2.0)), of(4.0, 0.0))
    assert torch.equal(net.kept[0], of(0.0, 2.0))
    # 4 and 2 + 0.5 * 2 are coded; h becomes 0.5 * 2 + (2 - 0), and not the 3 that were coded.
    assert torch.equal(net.agreed(of(4.0, 2.0)), of(4.0, 0.0))
    assert torch.equal(net.kept[0], of(0.0, 3.0))
    # 3 + 0.5 * 3 is more than 4: what was left out comes.
    assert torch.equal(net.agreed(of(4.0, 3.0)), of(0.0, 4.5))
    assert torch.equal(net.kept[0], of(4.0, 0.5 * 3.0 + 3.0 - 4.5))


def test_qsgd_means_what_the_workers_sent() -> None:
    """4 bits are seven levels of each sign: 7 and -7 are the ends, 3 is a level, and all are exact."""
    net = Net(QSGD(bits=4, smallest=16, bucket=4), 2)
    assert torch.equal(net.agreed(of(7.0, 3.0, 0.0, -7.0), of(1.0, 1.0, 1.0, 1.0)), of(4.0, 2.0, 0.5, -3.0))
    assert QSGD(smallest=17).code_of(net.player, Bucket("w", torch.Size([4, 4]), torch.zeros(1, 16))) is None


def test_terngrad_shares_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker's 1 stands beside the first one's 2: drawn as 0.5 of the shared scale. No clip here."""
    monkeypatch.setattr(Bucket, "uniform", lambda bucket: torch.full_like(bucket.values, 0.4))
    assert torch.equal(Net(TernGrad(clip=None), 2).agreed(of(2.0, -2.0), of(1.0, 0.5)), of(2.0, -1.0))


def test_terngrad_is_right_on_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    net, draws = Net(TernGrad(clip=None), 1), (torch.arange(200) + 0.5) / 200
    values, sent = of(1.0, -0.25, 0.5, 0.0), []
    for draw in draws:
        monkeypatch.setattr(Bucket, "uniform", lambda bucket, draw=draw: draw.expand_as(bucket.values))
        sent.append(net.agreed(values))
    torch.testing.assert_close(torch.stack(sent).mean(0), values)


def test_terngrad_clips_at_standard_deviations() -> None:
    """15 zeros and a 16: the deviation about the mean of 1 is sqrt(15); all alike have none, and are kept."""
    values = torch.zeros(16)
    values[3] = 16.0
    limit = 2.5 * 15**0.5
    for scale in ("max", "limit"):
        net = Net(TernGrad(scale=scale), 1)
        assert net.agreed(values)[3].item() == pytest.approx(limit)
    assert torch.equal(Net(TernGrad(), 1).agreed(of(3.0)), of(3.0))
    assert torch.equal(Net(TernGrad(), 1).agreed(of(0.0)), of(0.0))


@pytest.mark.parametrize("value", [0.3, 0.1, 1e-3])
def test_terngrad_keeps_gradients_that_are_alike_whatever_rounding_makes_of_their_deviation(value: float) -> None:
    values = torch.full((37,), value)
    torch.testing.assert_close(Net(TernGrad(), 1, shape=(37, 1)).agreed(values), values)


@pytest.mark.parametrize("column", ["input", "output"])
def test_one_bit_sgd_knows_the_outputs_of_a_transposed_convolution(column: Any) -> None:
    """Its weight is (inputs, outputs, kernel): turned, it is that of a convolution, and so is what is sent."""
    turned, plain = nn.ConvTranspose2d(3, 5, 2, bias=False), nn.Conv2d(3, 5, 2, bias=False)
    gradient = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    sent = {}
    for layer, given in ((plain, gradient), (turned, gradient.movedim(0, 1))):
        method, net = OneBitSGD(column=column), nn.Sequential(layer)
        player = Player("student", net, spec=ModelSpec(key="given"), trains=True)
        player.optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        method.start(Workers(1))
        bucket = Bucket("0.weight", layer.weight.shape, given.reshape(1, -1))
        sent[layer] = method.exchange(player=player, bucket=bucket).view(layer.weight.shape)
    torch.testing.assert_close(sent[turned].movedim(0, 1), sent[plain])
    columns = 12 if column == "input" else 5
    assert len(sent[plain].unique()) == 2 * columns  # type: ignore[no-untyped-call]


CODES: tuple[type[GradientCode], ...] = (ECQSGD, EFSignSGD, OneBitAdam, OneBitSGD, QSGD, TernGrad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", CODES, ids=lambda method: method.key)
def test_codes_of_other_floats_are_those_of_float32(method: type[GradientCode], dtype: torch.dtype) -> None:
    """Gradients that bfloat16 holds: what is agreed on is that of float32, and of the net's own type."""
    drawn = torch.randn(2, 20, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    agreed = []
    for kind in (torch.float32, dtype):
        made = method(smallest=1) if method is QSGD else method(warmup=0.0) if method is OneBitAdam else method()
        net = Net(made, 2, shape=(20, 20))
        net.layer.to(kind)
        torch.manual_seed(1)
        told = net.agreed(*drawn.to(kind))
        assert told.dtype == kind
        agreed.append(told.float())
    torch.testing.assert_close(agreed[1], agreed[0], rtol=1e-2, atol=1e-3)
    assert agreed[0].any()


def test_one_bit_sgd_codes_twice() -> None:
    """Columns of 16 numbers, 0 and 4 in turn: all from 0 on, so that the mean 2 is sent, and -2, 2, ... is kept."""
    net = Net(OneBitSGD(momentum=0.5), 2, shape=(16, 1))
    assert torch.equal(net.agreed(of(0.0, 4.0), of(2.0)), of(2.0))
    assert torch.equal(net.kept, torch.stack([of(-2.0, 2.0), of(0.0)]))
    assert torch.equal(net.method.common_["student/0.weight/residual"][0], of(0.0))

    # Worker 1 has 2 + (-2, 2) = 0 and 4, and sends 2; worker 2 sends -2, 6, as each sign has its own mean.
    # Their mean is 0 and 4; with half of the momentum, 2, it is 1 and 5: the second code sends 3, and keeps -2, 2.
    assert torch.equal(net.agreed(of(2.0), of(-2.0, 6.0)), of(3.0))
    assert torch.equal(net.kept, torch.stack([of(-2.0, 2.0), of(0.0)]))
    assert torch.equal(net.method.common_["student/0.weight/residual"][0], of(-2.0, 2.0))
    assert torch.equal(net.method.common_["student/0.weight/momentum"], of(1.0, 5.0))


def test_one_bit_sgd_scales_the_sum() -> None:
    """AdaGrad's first step divides each number by itself."""
    net = Net(OneBitSGD(momentum=0.0, adagrad=True), 1, shape=(16, 1))
    torch.testing.assert_close(net.agreed(of(4.0)), of(1.0))
    net.method.coding_ = False  # type: ignore[attr-defined]
    torch.testing.assert_close(net.agreed(of(3.0)), of(3.0 / 5.0))


def test_one_bit_adam_sends_its_momentum() -> None:
    """In floats at first; then m = 0.5 m + 0.5 g, its signs and their mean size, coded once more: the new momentum."""
    net = Net(OneBitAdam(beta1=0.5, beta2=0.75, eps=1e-12, floor=0.0), 2, lr=1.0)
    optimizer, weight = net.player.optimizer, net.layer.weight
    assert optimizer is not None
    with torch.no_grad():
        weight.zero_()

    weight.grad = net.agreed(of(3.0, 1.0), of(5.0, 3.0)).view_as(weight)
    assert torch.equal(weight.grad.flatten(), of(4.0, 2.0))
    optimizer.step()  # m = 2, 1; v = 4, 1: the step is m / sqrt(v) without bias correction
    state = optimizer.state[weight]
    assert torch.equal(state["squares"].flatten(), of(4.0, 1.0))
    torch.testing.assert_close(weight.detach().flatten(), of(-1.0))

    optimizer.param_groups[0]["frozen"] = True
    # m_i = 0.5 (2, 1) + 0.5 g: (3, 1) and (1, 3); each sends 2. What they keep is (1, -1) and (-1, 1).
    gradient = net.agreed(of(4.0, 1.0), of(0.0, 5.0))
    assert torch.equal(net.kept, torch.stack([of(1.0, -1.0), of(-1.0, 1.0)]))
    weight.grad = gradient.view_as(weight)
    optimizer.step()
    assert torch.equal(state["momentum"].flatten(), of(2.0))
    assert torch.equal(state["squares"].flatten(), of(4.0, 1.0))
    torch.testing.assert_close(weight.detach().flatten(), of(-2.0, -3.0))

    # From the common momentum 2: m_i + e_i = (2, 0) and (0, 2), each sends 1.
    weight.grad = net.agreed(of(0.0), of(0.0)).view_as(weight)
    assert torch.equal(net.kept, torch.stack([of(1.0, -1.0), of(-1.0, 1.0)]))


def test_one_bit_adam_leaves_numbers_that_never_moved() -> None:
    net = Net(OneBitAdam(), 1, lr=1.0)
    optimizer, weight = net.player.optimizer, net.layer.weight
    assert optimizer is not None
    weight.grad = of(1.0, 0.0).view_as(weight)
    optimizer.step()
    optimizer.param_groups[0]["frozen"] = True
    before = weight.detach().clone().flatten()
    weight.grad = net.agreed(of(1.0, 0.0)).view_as(weight)
    optimizer.step()
    moved = (weight.detach().flatten() != before).view(-1, 2)
    assert moved[:, 0].all()
    assert not moved[:, 1].any()


def test_one_bit_adam_bounds_steps_once_it_is_frozen() -> None:
    """Second moments of 1 and 1e-12 under a momentum of 0.5: the small one is divided by 0.1 of the root mean."""
    net = Net(OneBitAdam(beta1=0.5, beta2=0.0, eps=0.0), 1, lr=1.0)
    optimizer, weight = net.player.optimizer, net.layer.weight
    assert optimizer is not None
    weight.grad = of(1.0, 1e-6).view_as(weight)
    optimizer.step()
    optimizer.param_groups[0]["frozen"] = True
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    optimizer.state[weight]["momentum"].fill_(1.0)
    optimizer.step()
    steps = (before - weight.detach()).flatten()
    torch.testing.assert_close(steps, of(0.5, 0.5 / (0.1 * 0.5**0.5)))


# ---------------------------------------------------------------- in a run


def test_one_bit_sgd_takes_momentum_of_weight_decay_too() -> None:
    """Sent as floats, decay 0.1 of weights 2 joins gradients 1: 1.2, then 0.9 * 1.2 + 1.2; SGD does the same."""
    net = Net(OneBitSGD(), 1)
    net.method.coding_ = False  # type: ignore[attr-defined]
    net.player.optimizer = net.method.optimizer(  # type: ignore[attr-defined]
        player=net.player, groups=[{"params": [net.layer.weight], "lr": 0.5, "weight_decay": 0.1}]
    )
    torch.nn.init.constant_(net.layer.weight, 2.0)
    torch.testing.assert_close(net.agreed(of(1.0)), of(1.2))
    torch.testing.assert_close(net.agreed(of(1.0)), of(0.9 * 1.2 + 1.2))
    assert net.player.optimizer.param_groups[0]["weight_decay"] == 0.0


def played(stage: Any, out: Path, **changes: Any) -> tuple[Any, Watch]:
    """Return the report of a run, and what it left."""
    watch = Watch()
    train = {"epochs": 2, "batch_size": 16, "workers": 2, "optimizer": {"lr": 0.05}}
    what = recipe([stage], **{"model": {"key": "mlp", "hidden": [16]}, "train": train, **changes})
    return Run(what, registry(), out=out, device="cpu", observer=watch).execute(), watch


def test_a_code_that_is_no_smaller_is_named(tmp_path: Path) -> None:
    """Two means of eight bytes for each of 64 inputs, of a layer with a single output: its floats are as small."""
    report, _ = played({"methods": ["one-bit-sgd"]}, tmp_path / "o", model={"key": "mlp", "hidden": [1]})
    (stage,) = report["stages"]
    assert list(stage["left_out"]) == ["fc1.weight"]
    assert "no smaller than its floats: 520 bytes" in stage["left_out"]["fc1.weight"]


def test_bytes_that_a_worker_sends(tmp_path: Path) -> None:
    """A scale and a sign for each number, of two layers of 64 x 16 and 16 x 10 and their biases; floats beside it."""
    sizes = [64 * 16, 16, 16 * 10, 10]
    report, _ = played({"methods": ["ef-signsgd"]}, tmp_path / "o")
    sent, plain = sum(4 + -(-size // 8) for size in sizes), 4 * sum(sizes)
    assert report["training"]["sent_bytes"] == sent
    assert report["training"]["plain_bytes"] == plain
    assert report["training"]["sent_ratio"] == plain / sent
    floats, _ = played({"name": "floats"}, tmp_path / "floats")
    assert floats["training"]["sent_bytes"] == plain


def test_the_gradients_norm_is_limited_before_the_code(tmp_path: Path) -> None:
    """What a code answers with is taken whole: shortened, 1-bit Adam's momentum would no longer be of one size."""
    spans: list[float] = []

    class Looks(Watch):
        def epoch_ended(self, stage: Any, history: Any) -> None:
            for state in stage.players["student"].optimizer.state.values():
                sizes = state["momentum"].abs()
                spans.append(float(sizes[sizes > 0].min() / sizes.max()))

    train = {"epochs": 2, "batch_size": 16, "workers": 2, "clip_norm": 0.01, "optimizer": {"lr": 0.001}}
    what = recipe([{"methods": [{"one-bit-adam": {"warmup": 0.5}}]}], model={"key": "mlp", "hidden": [16]}, train=train)
    Run(what, registry(), out=tmp_path / "o", device="cpu", observer=Looks()).execute()
    in_floats, coded = spans[:4], spans[4:]
    assert max(in_floats) < 0.1
    assert coded == pytest.approx([1.0] * 4)


def test_players_keep_apart(tmp_path: Path) -> None:
    """Student and peer have parameters of the same names, and each worker of each a residual of its own."""
    kept: dict[str, Tensor] = {}

    class Keeps(Watch):
        def epoch_ended(self, stage: Any, history: Any) -> None:
            kept.update(stage.manager.methods["ef-signsgd"].kept_)

    train = {"epochs": 1, "batch_size": 16, "workers": 2, "optimizer": {"lr": 0.05}}
    stage = {"methods": ["ef-signsgd", "deep-mutual-learning"]}
    what = recipe([stage], model={"key": "mlp", "hidden": [16]}, train=train)
    Run(what, registry(), out=tmp_path / "o", device="cpu", observer=Keeps()).execute()
    names = {place.partition("/")[2] for place in kept}
    assert set(kept) == {f"{player}/{name}" for player in ("student", "peer#1") for name in names}
    for name in names:
        mine, theirs = kept[f"student/{name}"], kept[f"peer#1/{name}"]
        assert len(mine) == 2
        assert mine.any()
        assert not torch.equal(mine, theirs)
