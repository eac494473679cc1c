from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import offering
from tests.plugins.quantization.helpers import stage_of
from torch import nn

from condensery import Method, NotApplicable, Registry, Run, Stage, UnknownKey, UsageError, hookimpl
from condensery.contract import build_method
from condensery.nets import attach
from condensery.recipe import parse_recipe
from condensery_plugins.pruning.masks import mask
from condensery_plugins.quantization.kmeans_sharing import KMeansSharing, SharedWeights
from condensery_plugins.quantization.lloyd import lloyd, start_centers


def shared(stage: Stage, path: str) -> SharedWeights:
    stack = stage.weights().by_path[path].stack
    assert stack is not None
    found = stack.transforms["kmeans-sharing"]
    assert isinstance(found, SharedWeights)
    return found


def test_the_gradient_of_a_center_is_the_sum_over_its_weights() -> None:
    """Outputs are summed, so the gradient of a weight is its input: 1, 2, 3 by column.

    Center 1 has the weights (0, 0), (0, 2), (1, 1): 1 + 3 + 2. Center 2 has (0, 1), (1, 2): 2 + 3.
    """
    made = SharedWeights(2, [2, 3], 2)
    made.codes.copy_(torch.tensor([[1, 2, 1], [0, 1, 2]]))
    with torch.no_grad():
        made.centers.copy_(torch.tensor([0.5, -1.0]))
    net = nn.Linear(3, 2, bias=False)
    attach(net, "weight", "shared", made)
    out = net(torch.tensor([[1.0, 2.0, 3.0]]))
    assert out.tolist() == [[0.5 - 2 + 1.5, 0 + 1 - 3.0]]
    out.sum().backward()
    assert made.centers.grad is not None
    assert made.centers.grad.tolist() == [6.0, 5.0]
    assert net.parametrizations["weight"].original.grad is None  # type: ignore[index, union-attr]


def test_each_layer_is_clustered_by_itself() -> None:
    stage = stage_of("mlp", hidden=[20])
    before = {w.path: w.latent.detach().clone() for w in stage.weights()}
    method = KMeansSharing(bits=5, layer_bits={"fc2": 2}, init="density")
    method.prepare(stage=stage)
    for path, bits in (("fc1", 5), ("fc2", 2)):
        flat = before[path].flatten()
        centers = lloyd(flat, start_centers(flat, 2**bits, "density"), 300).centers
        weight = stage.weights().by_path[path]
        value = weight.value
        assert torch.equal(torch.unique(value), torch.unique(centers.float()))
        nearest = (flat[:, None] - centers.float()).abs().min(1).values
        assert torch.allclose((flat - value.flatten()).abs(), nearest, atol=1e-7)
        assert torch.equal(weight.latent, before[path])
    assert method.report(stage)["centers_count"] == 36


def test_the_report_is_the_share_of_the_squares_lost() -> None:
    stage = stage_of("mlp", hidden=[20])
    before = {w.path: w.value for w in stage.weights()}
    method = KMeansSharing(bits=3)
    method.prepare(stage=stage)
    lost = sum(float((before[w.path] - w.value).square().sum()) for w in stage.weights())
    assert method.report(stage)["error_percent"] == pytest.approx(
        100 * lost / sum(float(v.square().sum()) for v in before.values()), rel=1e-4
    )


def test_zero_takes_one_of_the_codes_of_a_layer_with_zeros() -> None:
    stage = stage_of("mlp", hidden=[20])
    first = stage.weights()[0]
    mask(stage, first, first.latent.abs() > first.latent.abs().median())
    KMeansSharing(bits=3, init="density").prepare(stage=stage)
    assert (len(shared(stage, "fc1").centers), len(shared(stage, "fc2").centers)) == (7, 8)
    value = stage.weights()[0].value
    assert torch.equal(value == 0, ~first.alive)
    assert torch.equal(shared(stage, "fc1").codes == 0, ~first.alive)
    assert len(torch.unique(value)) == 8


def test_codes_are_as_wide_as_needed() -> None:
    assert SharedWeights(8, [2], 255).codes.dtype == torch.uint8
    assert SharedWeights(8, [2], 256).codes.dtype == torch.int16
    wide = SharedWeights(16, [2], 65535)
    wide.codes.copy_(torch.tensor([65535, 1]))
    with torch.no_grad():
        wide.centers.copy_(torch.arange(65535.0))
    assert wide(torch.zeros(2)).tolist() == [65534.0, 0.0]


def test_fewer_weights_than_centers_and_none_at_all() -> None:
    stage = stage_of("mlp", hidden=[20])
    first, last = stage.weights()
    few = torch.zeros_like(first.latent, dtype=torch.bool)
    few[0, :5] = True
    mask(stage, first, few)
    mask(stage, last, torch.zeros_like(last.latent, dtype=torch.bool))
    kept = first.latent.detach()[few]
    KMeansSharing(bits=6, init="density").prepare(stage=stage)
    assert (len(shared(stage, "fc1").centers), len(shared(stage, "fc2").centers)) == (5, 0)
    value = stage.weights()[0].value
    assert torch.equal(value[few], kept)
    assert not stage.weights()[1].value.any()


def test_a_cut_slices_the_codes_alone() -> None:
    made = SharedWeights(2, [3, 4], 3)
    made.codes.copy_(torch.arange(12).view(3, 4) % 4)
    made.resize(lambda tensor: tensor[:2])
    assert made.codes.tolist() == [[0, 1, 2, 3]] * 2
    assert len(made.centers) == 3
    assert made.config() == {"code_bits": 2, "shape": [2, 4], "count": 3}
    assert made.bits is None  # its arithmetic stays in floats


def test_the_promise_counts_levels() -> None:
    made = SharedWeights(2, [6], 4)
    assert made.holds(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])) is None
    assert made.holds(torch.arange(6.0)) == "5 levels besides zero, more than 4"


def test_layers_with_bits_of_their_own_are_chosen_as_everywhere() -> None:
    """A word goes before a pattern; what no name fits has ``bits``."""
    stage = stage_of("mlp", hidden=[20, 20])
    KMeansSharing(bits=5, layer_bits={"*2": 3, "last": 2}).prepare(stage=stage)
    found = {path: len(shared(stage, path).centers) for path in stage.weights().by_path}
    assert found == {"fc1": 2**5, "fc2": 2**3, "fc3": 2**2}


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UnknownKey, match=r"^kmeans-sharing\.layer_bits: unknown layer 'fc9'; did you mean 'fc\d'"):
        KMeansSharing(layer_bits={"fc9": 4}).prepare(stage=stage_of("mlp", hidden=[20]))
    card = Registry.open().card("kmeans-sharing")
    with pytest.raises(UsageError, match=r"kmeans-sharing\.layer_bits\.fc2 must be >= 1 and <= 16, got 17"):
        build_method("kmeans-sharing", KMeansSharing, {"layer_bits": {"fc2": 17}}, card)


SEEN: list[tuple[int, int, int]] = []


@dataclasses.dataclass(eq=False, kw_only=True)
class Watch(Method):
    """Counts, after each step: masked entries that aren't zero, levels of the first layer, moved latent weights."""

    key = "watch"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        self.latent_ = stage.weights()[0].latent.detach().clone()

    @hookimpl
    def after_step(self, stage: Stage) -> None:
        weights = stage.weights()
        loose = sum(int((w.value[~w.alive] != 0).sum()) for w in weights)
        first = torch.unique(weights[0].value)
        SEEN.append((loose, int((first != 0).sum()), int((weights[0].latent != self.latent_).sum())))


def run(tmp_path: Path, stages: list[Any], **train: Any) -> dict[str, Any]:
    registry = Registry.open([("watching", offering(methods={"watch": Watch}))])
    options = {"lr": 0.1, "weight_decay": 0.01, "options": {"momentum": 0.9}}
    data = {
        "model": {"key": "mlp", "hidden": [20]},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 128}},
        "train": {"batch_size": 16, "epochs": 2, "optimizer": options, **train},
        "stages": stages,
    }
    SEEN.clear()
    return Run(parse_recipe(data), registry, out=tmp_path / "run", device="cpu").execute()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_masked_weights_are_zero_after_every_step(name: str, tmp_path: Path) -> None:
    """Momentum that a weight has when it is pruned goes on moving its latent; the mask holds the value."""
    options = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = {"name": name, "lr": 0.05, "weight_decay": 0.01, "options": options}
    prune = {"methods": [{"magnitude": {"sparsity": 0.8, "steps": 4}}, "watch"]}
    run(tmp_path, [prune, {"methods": ["watch"]}], carry_optimizer=True, optimizer=optimizer)
    real = SEEN[-32:]  # after the dry run: 2 stages of 2 epochs of 8 steps
    assert [loose for loose, _, _ in real] == [0] * 32
    assert real[-1][2] > 0


def test_sharing_trains_centers_and_nothing_behind_them(tmp_path: Path) -> None:
    stages = [
        {"methods": [{"magnitude": {"sparsity": 0.8}}], "epochs": 1},
        {"methods": [{"kmeans-sharing": {"bits": 3}}, "watch"]},
    ]
    report = run(tmp_path, stages)
    assert len(SEEN) >= 16
    assert {(loose, moved) for loose, _, moved in SEEN} == {(0, 0)}
    assert all(levels <= 7 for _, levels, _ in SEEN)
    assert report["stages"][1]["report"]["kmeans-sharing.centers_count"] == 14
    terms = [h["terms"]["student.task"] for h in report["stages"][1]["history"]]
    assert terms[1] < terms[0]


def test_a_quantized_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="kmeans-sharing is not applicable"):
        run(tmp_path, [{"methods": ["lsq"]}, {"methods": ["kmeans-sharing"]}])


def test_a_mask_behind_keeps_what_is_pruned_later(tmp_path: Path) -> None:
    report = run(tmp_path, [{"methods": ["kmeans-sharing"]}, {"methods": [{"magnitude": {"sparsity": 0.5}}]}])
    assert report["stages"][1]["report"]["magnitude.sparsity_percent"] == pytest.approx(50.0)
