from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import Given, draw, stage_of, weights_in, whole_hessian
from torch import Tensor, nn

from condensery import UsageError
from condensery.nets import Weight
from condensery.run import Stage
from condensery.tasks import Answers, Batch, Task
from condensery_plugins.models.mlp import MLP
from condensery_plugins.pruning.curvature import (
    curvature_rows,
    evaluating,
    hutchinson_diagonal,
    output_hessians,
    roots,
    row_diagonal,
)
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.obd import OptimalBrainDamage
from condensery_plugins.pruning.obs import OptimalBrainSurgeon

torch.set_num_threads(1)


def net_of(outputs: int, seed: int = 1) -> MLP:
    torch.manual_seed(seed)
    return MLP([3, 4, outputs], activation="tanh").double()


def rows_product(stage: Stage, weights: list[Weight], kind: str) -> Tensor:
    batches = stage.sample(1000)
    rows = torch.stack(list(curvature_rows(stage, weights, batches, kind, method="m")))  # type: ignore[arg-type]
    return rows.T @ rows / sum(b.size for b in batches)


def test_gauss_newton_is_the_hessian_at_a_perfect_fit() -> None:
    net, x = net_of(2), draw(10, 3)
    stage = stage_of(net, Given(x, net(x).detach()))
    weights = weights_in(stage)
    expected = whole_hessian(stage, weights)
    torch.testing.assert_close(rows_product(stage, weights, "gauss-newton"), expected)
    diagonal = torch.cat(
        [d.flatten() for d in row_diagonal(stage, weights, stage.sample(1000), "gauss-newton", method="m")]
    )
    torch.testing.assert_close(diagonal, expected.diagonal())


def test_gauss_newton_is_the_hessian_of_a_linear_net_under_cross_entropy() -> None:
    torch.manual_seed(0)
    net, x = MLP([3, 4]).double(), draw(12, 3)
    stage = stage_of(net, Given(x, torch.arange(12) % 4))
    weights = weights_in(stage)
    torch.testing.assert_close(
        rows_product(stage, weights, "gauss-newton"), whole_hessian(stage, weights), atol=1e-6, rtol=1e-5
    )


class Pixels(Given):
    """Classes of pixels by cross entropy; label 9 doesn't count."""

    ignore_index = 9
    loss = Task.loss


def test_every_pixel_that_counts_is_a_decision() -> None:
    """A linear net under cross entropy: Gauss-Newton is the Hessian of the mean over 7 pixels, 6 of one image."""
    torch.manual_seed(0)
    labels = torch.tensor([[[0, 1, 2], [2, 1, 0]], [[9, 9, 9], [9, 9, 1]], [[9, 9, 9], [9, 9, 9]]])
    stage = stage_of(nn.Conv2d(2, 3, 1).double(), Pixels(draw(3, 2, 2, 3), labels))
    weights = weights_in(stage)
    expected = whole_hessian(stage, weights)
    assert float(expected.diagonal().min()) > 0
    torch.testing.assert_close(rows_product(stage, weights, "gauss-newton"), expected, atol=1e-6, rtol=1e-5)
    found = torch.cat([d.flatten() for d in row_diagonal(stage, weights, stage.sample(3), "gauss-newton", method="m")])
    torch.testing.assert_close(found, expected.diagonal().double(), atol=1e-6, rtol=1e-5)
    found = torch.cat([d.flatten() for d in hutchinson_diagonal(stage, weights, stage.sample(3), 3000)])
    torch.testing.assert_close(found, expected.diagonal(), atol=0.02, rtol=0)


class Both(Given):
    """Half the squared error of two outputs' sums."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor | None:
        off: Tensor = outputs["a"].sum(1) + outputs["b"].flatten(1).sum(1) - batch.labels[:, 0]
        return off.square().mean() / 2


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.a(x), "b": self.b(x).view(-1, 2, 2)}


def test_second_derivatives_between_two_outputs_count() -> None:
    torch.manual_seed(0)
    stage = stage_of(Branches().double(), Both(draw(5, 3), draw(5, 1)))
    weights = weights_in(stage)
    expected = whole_hessian(stage, weights)
    assert float(expected[0, 6:18].abs().min()) > 0  # of a weight of a by those of b
    torch.testing.assert_close(rows_product(stage, weights, "gauss-newton"), expected, atol=1e-6, rtol=1e-5)


def test_too_many_outputs_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_plugins.pruning.curvature.MOST", 8)
    stage = stage_of(MLP([3, 3]).double(), Given(draw(4, 3), torch.tensor([0, 1, 2, 0])))
    with pytest.raises(UsageError, match=r"1 decisions of 3 outputs each have too many .* say hessian 'fisher'"):
        row_diagonal(stage, stage.weights(), stage.sample(4), "sampled", method="m")
    assert bool(row_diagonal(stage, stage.weights(), stage.sample(4), "fisher", method="m")[0].any())


class Chances(Given):
    """The negative log-likelihood: linear in a net's log-probabilities."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        return nn.functional.nll_loss(outputs, batch.labels)

    def meter(self) -> Answers:
        return Answers(lambda outputs, batch: outputs.argmax(1) == batch.labels, lambda outputs, batch: torch.zeros(()))


class Picked(Chances):
    """The same by hand: torch keeps nothing of it that could have second derivatives."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        return -outputs.gather(1, batch.labels[:, None]).mean()


@pytest.mark.parametrize("dry", [False, True], ids=["real", "dry"])
@pytest.mark.parametrize("task", [Chances, Picked])
@pytest.mark.parametrize("settings", [{}, {"hessian": "gauss-newton"}, {"hold": True}], ids=str)
@pytest.mark.parametrize("method", [OptimalBrainDamage, OptimalBrainSurgeon])
def test_a_loss_linear_in_the_outputs_is_refused_and_nothing_pruned(
    method: type[OptimalBrainDamage | OptimalBrainSurgeon], settings: dict[str, Any], task: type[Given], dry: bool
) -> None:
    stage = stage_of(nn.Sequential(net_of(3), nn.LogSoftmax(1)), task(draw(9, 3), torch.arange(9) % 3))
    stage.dry = dry
    with pytest.raises(UsageError, match=rf"^{method.key}: the loss has no curvature .* say hessian 'fisher', or let"):
        method(**settings).prepare(stage)
    assert all(bool(w.alive.all()) for w in weights_in(stage))


@pytest.mark.parametrize("method", [OptimalBrainDamage, OptimalBrainSurgeon])
def test_fisher_needs_no_curvature_by_the_outputs(method: type[OptimalBrainDamage | OptimalBrainSurgeon]) -> None:
    stage = stage_of(nn.Sequential(net_of(3), nn.LogSoftmax(1)), Chances(draw(9, 3), torch.arange(9) % 3))
    method(hessian="fisher", sparsity=0.2, biases=False).prepare(stage)
    assert sum(int((~w.alive).sum()) for w in stage.weights()) == 5  # of 24


class Margins(Given):
    """Squared hinge: straight beyond a margin of one."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        missing: Tensor = (1 - outputs * batch.labels).relu()
        return missing.square().mean()


def test_a_dry_run_lets_pass_what_only_its_examples_make_straight() -> None:
    """Outputs of 3 x and labels of the sign of x: the eight examples first looked at are beyond the margin."""
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(net.weight, 3.0)
    x = torch.tensor([[1.0], [-1.0]]).double().repeat(5, 1)
    stage = stage_of(net, Margins(x, x))
    stage.dry = True
    (found,) = row_diagonal(stage, stage.weights(), stage.sample(10), "sampled", method="m")
    assert found.tolist() == [[0.0]]
    OptimalBrainDamage(sparsity=0.5, biases=False).prune(stage, stage.weights(), 0.5)
    assert bool(stage.weights()[0].alive.all())

    stage.dry = False
    with pytest.raises(UsageError, match=r"^m: the loss has no curvature by the net's outputs"):
        row_diagonal(stage, stage.weights(), stage.sample(10), "sampled", method="m")


def test_a_layer_without_curvature_is_no_reason_to_refuse() -> None:
    """The first layer has none, as all its units are dead; the last one's bias has that of the output, 1."""
    net = MLP([3, 4, 1]).double()
    with torch.no_grad():
        net.get_parameter("fc1.bias").fill_(-100)
    stage = stage_of(net, Given(draw(10, 3), draw(10, 1)))
    found = row_diagonal(stage, weights_in(stage), stage.sample(10), "gauss-newton", method="m")
    assert [float(h.sum()) for h in found] == pytest.approx([0, 0, 0, 1])


def test_sampled_rows_are_gauss_newton_with_one_output_and_in_the_mean() -> None:
    net, x = net_of(1), draw(10, 3)
    stage = stage_of(net, Given(x, draw(10, 1)))
    weights = weights_in(stage)
    torch.testing.assert_close(rows_product(stage, weights, "sampled"), rows_product(stage, weights, "gauss-newton"))
    net = net_of(2)
    stage = stage_of(net, Given(draw(1, 3).expand(2000, 3).clone(), draw(1, 2).expand(2000, 2).clone()))
    weights = weights_in(stage)
    exact = rows_product(stage, weights, "gauss-newton")
    assert len(list(curvature_rows(stage, weights, stage.sample(5), "sampled", method="m"))) == 5
    torch.testing.assert_close(rows_product(stage, weights, "sampled"), exact, atol=0.05 * float(exact.max()), rtol=0)


def test_fisher_by_hand() -> None:
    """One weight w = 2, inputs 1 and 3, targets 1 and 5: gradients (2 - 1) 1 and (6 - 5) 3, mean square 5."""
    net = MLP([1, 1]).double()
    with torch.no_grad():
        net.get_parameter("fc1.weight").fill_(2)
        net.get_parameter("fc1.bias").zero_()
    stage = stage_of(net, Given(torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[1.0], [5.0]]).double()))
    fisher, newton = (
        row_diagonal(stage, stage.weights(), stage.sample(2), kind, method="m")[0]
        for kind in ("fisher", "gauss-newton")
    )
    assert fisher.tolist() == [[5.0]]
    assert newton.tolist() == [[5.0]]  # (1 + 9) / 2


def test_hutchinson_comes_near_the_whole_diagonal_far_from_a_fit() -> None:
    net, x = net_of(2), draw(10, 3)
    stage = stage_of(net, Given(x, 5 * draw(10, 2, seed=4)))
    weights = weights_in(stage)
    hessian = whole_hessian(stage, weights)
    found = torch.cat([d.flatten() for d in hutchinson_diagonal(stage, weights, stage.sample(1000), 2000)])
    spread = (hessian.square().sum(1) - hessian.diagonal() ** 2).sqrt() / (2 * 2000) ** 0.5  # two batches, each drawn
    assert bool(((found - hessian.diagonal()).abs() < 5 * spread + 1e-9).all())
    newton = torch.cat(
        [d.flatten() for d in row_diagonal(stage, weights, stage.sample(1000), "gauss-newton", method="m")]
    )
    assert float((newton - hessian.diagonal()).abs().max()) > 10 * float(spread.max())  # what Gauss-Newton drops


def test_hutchinson_is_exact_on_a_diagonal_hessian() -> None:
    """Inputs one at a time: the Hessian is the mean of x^2, here diag(4, 0, 9) / 3."""
    net = MLP([3, 1]).double()
    x = torch.tensor([[2.0, 0, 0], [0, 0, 3.0], [0, 0, 0]]).double()
    stage = stage_of(net, Given(x, draw(3, 1)))
    (found,) = hutchinson_diagonal(stage, stage.weights(), stage.sample(3), 1)
    torch.testing.assert_close(found, torch.tensor([[4 / 3, 0, 3]]).double())


def test_outputs_curvature_of_cross_entropy_is_p_minus_pp() -> None:
    stage = stage_of(nn.Identity(), Given(draw(2, 3), torch.tensor([0, 2])))
    (batch,) = stage.sample(2)
    logits = draw(2, 3, seed=9).requires_grad_()
    p = logits.softmax(1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(output_hessians(stage, logits, batch), expected.detach())


def test_roots_rebuild_a_hessian_without_its_negative_part() -> None:
    """[[2, 1], [1, 2]] has eigenvalues 3 and 1; diag(4, -1, 0) keeps one root, (2, 0, 0)."""
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    (found,) = roots(matrix[None])
    torch.testing.assert_close(found.T @ found, matrix)
    several = roots(torch.stack([torch.diag(torch.tensor([4.0, -1.0, 0.0])), torch.zeros(3, 3)]))
    assert several[0].abs().sum(0).tolist() == [2.0, 0.0, 0.0]
    assert not several[1].any()


def test_masked_weights_have_no_curvature_and_modes_are_put_back() -> None:
    net = net_of(1).train()
    net.fc2.eval()  # type: ignore[union-attr]
    stage = stage_of(net, Given(draw(10, 3), draw(10, 1)))
    first = stage.weights()[0]
    keep = torch.ones_like(first.latent, dtype=torch.bool)
    keep[1, 2] = False
    mask(stage, first, keep)
    found = row_diagonal(stage, stage.weights(), stage.sample(10), "gauss-newton", method="m")[0]
    assert found[1, 2] == 0
    assert bool((found[keep] > 0).all())
    assert net.training
    assert not net.fc2.training  # type: ignore[union-attr]
    with evaluating(net):
        assert not net.training
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_a_net_in_training_mode_is_looked_at_without_dropout() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9), nn.Linear(4, 1)).double().train()
    stage = stage_of(net, Given(draw(10, 3), draw(10, 1)))
    once = row_diagonal(stage, stage.weights(), stage.sample(10), "fisher", method="m")
    again = row_diagonal(stage, stage.weights(), stage.sample(10), "fisher", method="m")
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


MLP8: dict[str, Any] = {"key": "mlp", "hidden": [8]}


@pytest.mark.parametrize(
    "method",
    [
        *[{"obd": {"hessian": h}} for h in ("backprop", "gauss-newton", "sampled", "fisher", "hutchinson")],
        *[{"obs": {"hessian": h, "limit": 0.5}} for h in ("gauss-newton", "sampled", "fisher")],
    ],
    ids=str,
)
def test_hidden_labels_are_not_looked_at(method: dict[str, Any], tmp_path: Path) -> None:
    """Refused in one line before anything trains: a net that the stage before would have trained is not there."""
    stages = [{"epochs": 1}, {"name": "pruned", "methods": [method], "data": {"labels": False}, "epochs": 0}]
    with pytest.raises(UsageError, match=r"stage 'pruned': second derivatives are those of the loss, .* no labels"):
        run(tmp_path, stages, MLP8)
    assert not (tmp_path / "run").exists()


def test_size_needs_no_labels(tmp_path: Path) -> None:
    stage = {"methods": [{"obd": {"hessian": "identity"}}, "look"], "data": {"labels": False}, "epochs": 0}
    labels: list[Any] = []
    report = run(tmp_path, [stage], MLP8, {"prepare": lambda s: labels.extend(b.labels for b in s.sample(40))})
    assert report["stages"][0]["report"]["obd.sparsity_percent"] == pytest.approx(50, abs=0.1)
    assert len(labels) >= 3
    assert set(labels) == {None}
