from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import untouched
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import Given, draw, stage_of
from torch import Tensor, nn

from condensery import Batch, NotApplicable, UsageError
from condensery.nets import BATCH_NORMS, CONVS
from condensery.run import Stage
from condensery_plugins.pruning.criteria import (
    CRITERIA,
    Criterion,
    apoz,
    geometric_median,
    l1,
    l2,
    obd,
    score,
    taylor_output,
    taylor_weight,
)
from condensery_plugins.pruning.masks import mask

FILTERS = torch.tensor([[3.0, -4.0], [0.0, 0.0], [6.0, 8.0]]).view(3, 2, 1, 1)
RESNET = {"key": "resnet8", "width": 0.5}


def test_norms_by_hand() -> None:
    assert l1(FILTERS).tolist() == [7.0, 0.0, 14.0]
    assert l2(FILTERS).tolist() == [5.0, 0.0, 10.0]


def test_distances_to_the_geometric_median_by_hand() -> None:
    """(3,-4), (1,-4), (6,8): 2 between the first two, sqrt(9 + 144) and sqrt(25 + 144) from them to the last."""
    filters = torch.tensor([[3.0, -4.0], [1.0, -4.0], [6.0, 8.0]]).view(3, 2, 1, 1)
    far = math.sqrt(153)
    assert geometric_median(filters).tolist() == pytest.approx([2 + far, 2 + 13, far + 13])


def test_filters_that_are_gone_do_not_pull_the_median_to_the_origin() -> None:
    """Three alike and one far off: with five zeros counted, that one would have the smallest sum, 18.5."""
    there = torch.tensor([[3.0, 3.0], [3.0, 3.1], [3.1, 3.0], [-0.5, -0.5]])
    filters = torch.cat([there, torch.zeros(5, 2)]).view(9, 2, 1, 1)
    scores = geometric_median(filters)[:4]
    assert int(scores.argmax()) == 3
    assert float(scores[0]) == pytest.approx(0.1 + 0.1 + 3.5 * math.sqrt(2))


def test_the_filter_in_the_middle_is_the_least_important_however_large() -> None:
    filters = torch.tensor([[9.0], [10.0], [11.0], [1.0], [20.0]]).view(5, 1, 1, 1)
    assert int(geometric_median(filters).argmin()) == 1
    assert int(l2(filters).argmin()) == 3


def test_zeros_of_a_relu_by_hand() -> None:
    """Channel 0: 3 of 4 not positive; channel 1: one of four. Before or after the ReLU is the same."""
    values = torch.tensor([[[-1.0, 0.0], [1.0, 2.0]], [[-3.0, 5.0], [-1.0, 4.0]]])
    assert apoz(values).tolist() == [0.75, 0.25]
    assert apoz(values.relu()).tolist() == [0.75, 0.25]


def test_taylor_of_weights_by_hand() -> None:
    """(3 * 1 - 4 * 2)^2 = 25, 0, (6 * 1 - 8 * 1)^2 = 4."""
    gradients = torch.tensor([[1.0, 2.0], [9.0, 9.0], [1.0, -1.0]]).view(3, 2, 1, 1)
    assert taylor_weight(FILTERS, gradients).tolist() == [25.0, 0.0, 4.0]


def test_saliencies_of_filters_by_hand() -> None:
    """(2 * 9 + 1 * 16) / 2 = 17, 0, (0.5 * 36 + 0 * 64) / 2 = 9."""
    curvature = torch.tensor([[2.0, 1.0], [7.0, 7.0], [0.5, 0.0]]).view(3, 2, 1, 1)
    assert obd(FILTERS, curvature).tolist() == [17.0, 0.0, 9.0]


def test_taylor_of_outputs_by_hand() -> None:
    """Two examples, one channel of two positions: |(1 * 2 + 3 * -4) / 2| = 5 and |(2 * 1 + 0) / 2| = 1, mean 3."""
    values = torch.tensor([[[1.0, 3.0]], [[2.0, 7.0]]])
    gradients = torch.tensor([[[2.0, -4.0]], [[1.0, 0.0]]])
    assert taylor_output(values, gradients).tolist() == [3.0]


def test_a_relu_changes_no_taylor_score() -> None:
    torch.manual_seed(0)
    before = torch.randn(4, 3, 5, requires_grad=True)
    after = before.relu()
    g_before, g_after = torch.autograd.grad((after * torch.randn(4, 3, 5)).sum(), [before, after])
    torch.testing.assert_close(taylor_output(before, g_before), taylor_output(after, g_after))


def look(tmp_path: Path, criterion: Criterion, model: object = RESNET, samples: int = 48) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def prepare(stage: Stage) -> None:
        if stage.dry:
            return
        with untouched(stage.student.module):
            found.update(score(stage, stage.weights(kinds=CONVS), criterion, samples))
        assert all(p.grad is None for p in stage.student.module.parameters())

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], model, {"prepare": prepare})
    return found


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_scores_every_layer_and_leaves_the_net_alone(criterion: Criterion, tmp_path: Path) -> None:
    found = look(tmp_path, criterion)
    assert {p: len(s) for p, s in found.items()}["layer3.0.conv2"] == 32
    assert len(found) == 7
    for scores in found.values():
        assert bool(torch.isfinite(scores).all())
        assert bool((scores >= 0).all())
        assert float(scores.std()) > 0 or criterion == "norm-scale"  # a fresh net's scales are all one


def test_random_scores_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, again = look(tmp_path / "a", "random"), look(tmp_path / "b", "random")
    assert all(torch.equal(first[p], again[p]) for p in first)
    assert not torch.equal(first["layer1.0.conv1"], first["layer1.0.conv2"])


def test_scores_of_a_net_against_the_loss_itself(tmp_path: Path) -> None:
    """(sum of g * w)^2 is the square of the loss's slope when the filter is scaled: compared with a difference."""

    def prepare(stage: Stage) -> None:
        found = score(stage, stage.weights(kinds=CONVS), "taylor-weight", 8)["conv2"]
        batch = stage.sample(8)[0]
        for index in range(6):
            losses = []
            for factor in (1 + 1e-5, 1 - 1e-5):
                net = copy.deepcopy(stage.student.module).double()
                weight = net.get_parameter("conv2.weight")
                with torch.no_grad():
                    weight[index] *= factor
                    losses.append(nn.functional.cross_entropy(net(batch.inputs.double()), batch.labels))
            slope = float(losses[0] - losses[1]) / 2e-5
            assert float(found[index]) == pytest.approx(slope**2, rel=1e-3, abs=1e-12)

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], "plain-cnn", {"prepare": prepare})


def test_outputs_are_ranked_with_norm_one_in_each_layer(tmp_path: Path) -> None:
    for scores in look(tmp_path, "taylor-output").values():
        assert float(scores.norm()) == pytest.approx(1.0)


def test_the_share_of_zeros_is_read_behind_the_norm(tmp_path: Path) -> None:
    """Shifts of +9 and -9 behind the first convolution: always on, always off."""

    def prepare(stage: Stage) -> None:
        shift = stage.weights(kinds=BATCH_NORMS, tensor="bias")[0].latent
        with torch.no_grad():
            shift.copy_(torch.tensor([9.0, -9.0] * 4))
        found = score(stage, stage.weights(kinds=CONVS), "apoz", 8)["conv1"]
        assert found.tolist() == [1.0, 0.0] * 4

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], RESNET, {"prepare": prepare})


def test_masked_weights_count_as_zero(tmp_path: Path) -> None:
    def prepare(stage: Stage) -> None:
        weight = stage.weights(kinds=CONVS)[0]
        keep = torch.ones_like(weight.latent, dtype=torch.bool)
        keep[2] = False
        mask(stage, weight, keep)
        assert float(score(stage, [weight], "l1", 0)["conv1"][2]) == 0.0

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], RESNET, {"prepare": prepare})


def test_what_a_criterion_cant_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="no layer has a batch normalization with scales behind it"):
        run_with(tmp_path, "norm-scale")
    with pytest.raises(UsageError, match="looks at the loss, and there are no labels"):
        run_with(tmp_path, "taylor-output", data={"labels": False})


class Chances(Given):
    """The negative log-likelihood: linear in a net's log-probabilities."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        return nn.functional.nll_loss(outputs, batch.labels)


def test_second_derivatives_of_a_loss_that_has_none_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.LogSoftmax(1)).double()
    stage = stage_of(net, Chances(draw(6, 1, 2, 2), torch.arange(6) % 3))
    with pytest.raises(UsageError, match=r"^criterion obd: the loss has no curvature .*; take another criterion, or"):
        score(stage, stage.weights(kinds=CONVS), "obd", 6)


class Means(Given):
    """The mean of the first output: the gradient of each example's is what the net multiplies with."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor | None:
        total: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return total.mean()


class Calls(nn.Module):
    """A 1x1 convolution of two filters 1 and ``second``, that is called twice, and one that never is.

    Its calls' outputs are multiplied with (2, 1) and (-3, 1) and added up over filters and positions.

    :param part: what of the input the second call reads.
    """

    def __init__(self, part: tuple[slice, ...] = (), second: float = 1.0) -> None:
        super().__init__()
        self.part = part
        self.conv, self.idle = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 3, 1)
        self.conv.weight.data = torch.tensor([1.0, second]).view(2, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        total = (self.conv(x).sum((2, 3)) * torch.tensor([2.0, 1.0])).sum(1)
        again = (self.conv(x[self.part]).sum((2, 3)) * torch.tensor([-3.0, 1.0])).sum(1)
        return total + nn.functional.pad(again, (0, len(total) - len(again)))  # type: ignore[no-any-return]


def scores_of(net: nn.Module, criterion: Criterion) -> dict[str, list[float]]:
    """Return the scores on two images of 1, -1, 2."""
    x = torch.tensor([1.0, -1.0, 2.0]).view(1, 1, 1, 3).repeat(2, 1, 1, 1)
    stage = stage_of(net, Means(x, torch.zeros(2, 1)))
    return {path: found.tolist() for path, found in score(stage, stage.weights(kinds=CONVS), criterion, 2).items()}


FIRST_PIXEL = (slice(None), slice(None), slice(None), slice(1))


def test_zeros_are_counted_over_all_calls_and_idle_layers_left_out() -> None:
    """Filter 1 is positive at 2 of 3 and 1 of 1 positions, filter -1 at 1 of 3 and none."""
    assert scores_of(Calls(FIRST_PIXEL, second=-1.0), "apoz") == {"conv": [0.75, 0.25]}


def test_taylor_of_outputs_adds_calls_up_before_the_absolute_value() -> None:
    """Sums of g * a: 2 * (1 - 1 + 2) - 3 * 1 = 1 and 1 * 2 + 1 * 1 = 3, over 4 positions; rescaled to norm one."""
    found = scores_of(Calls(FIRST_PIXEL), "taylor-output")
    assert found == {"conv": pytest.approx([1 / 10**0.5, 3 / 10**0.5])}


def test_calls_on_unlike_batches_are_scored_apart() -> None:
    """First call, mean of two examples: 4 / 3 and 2 / 3; second, of one example: 6 / 3 and 2 / 3. Together 5 to 2."""
    found = scores_of(Calls((slice(1),)), "taylor-output")
    assert found == {"conv": pytest.approx([5 / 29**0.5, 2 / 29**0.5])}


class Normed(nn.Module):
    """A convolution that is called twice, with a norm of its own behind each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(self.conv(x)) + self.last(self.conv(x))).sum((1, 2, 3))  # type: ignore[no-any-return]


def test_each_call_is_seen_behind_its_own_norm() -> None:
    """The norms shift by (9, -9) and (9, 9): always on, and on in half of the calls."""
    net = Normed()
    net.first.bias.data, net.last.bias.data = torch.tensor([9.0, -9.0]), torch.tensor([9.0, 9.0])
    assert scores_of(net, "apoz") == {"conv": [1.0, 0.5]}


class Aside(nn.Module):
    """Two convolutions, the second of which feeds an output that has no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aside = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(1, 2, 1)
        self.conv.weight.data = torch.tensor([3.0, -4.0]).view(2, 1, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x).sum((1, 2, 3)), self.aside(x)


def test_filters_that_only_feed_an_output_without_loss_score_zero() -> None:
    found = scores_of(Aside(), "taylor-output")
    assert found == {"conv": pytest.approx([0.6, 0.8]), "aside": [0.0, 0.0]}


@pytest.mark.parametrize("criterion", ["apoz", "taylor-output"])
def test_a_net_that_calls_no_convolution_is_refused(criterion: Criterion) -> None:
    net = Calls()
    net.forward = lambda x: x.sum((1, 2, 3)) * net.idle.bias[0]  # type: ignore[method-assign, index]
    with pytest.raises(NotApplicable, match=f"criterion {criterion} .*: the net calls none of the layers"):
        scores_of(net, criterion)


def run_with(tmp_path: Path, criterion: Criterion, **stage: object) -> None:
    def prepare(stage: Stage) -> None:
        score(stage, stage.weights(kinds=CONVS), criterion, 8)

    run(tmp_path, [{"methods": ["look"], "epochs": 0, **stage}], "plain-cnn", {"prepare": prepare})
