"""What makes no sense is refused in one line before anything trains; where a method keeps its best unit, it does."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import offering
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import Given, stage_of
from torch import nn

from condensery import Method, NotApplicable, Registry, Run, UsageError, hookimpl
from condensery.recipe import parse_recipe
from condensery.run import Stage
from condensery_catalogue.cli import main
from condensery_plugins.pruning.filters import zeroed
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.refusals import refuse_empty, refuse_nothing

torch.set_num_threads(1)

RESNET = {"model": {"key": "resnet8", "width": 0.5}, "task": "digits"}  # 8, 16 and 32 filters; 120 behind norms
MLP = {"model": {"key": "mlp", "hidden": [16]}, "task": "digits"}  # 64 x 16 and 16 x 10 weights, 26 biases
VIT = {"model": {"key": "vit", "dim": 24, "depth": 2, "patch_size": 4}, "task": "digits"}  # 3 heads of 8, 96 neurons
TRANSFORMER = {"model": {"key": "transformer", "hidden": 24, "depth": 2}, "task": "word-language"}
LENET = {"model": {"key": "lenet-5", "width": 0.2}, "task": {"key": "digits", "size": 16}}

Look = Callable[[Stage], None]


def check(path: Path, base: dict[str, Any], *stages: Any, look: Look = lambda stage: None) -> None:
    """Run stages dry, the method ``look`` behind each of their methods.

    :param look: called when a stage ends.
    """

    @dataclasses.dataclass(eq=False, kw_only=True)
    class LookInside(Method):
        key = "look"

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            look(stage)

    registry = Registry.open([("looks", offering(methods={"look": LookInside}))])
    data = {"data": {"subset": {"size": 16}}, "train": {"epochs": 1, "batch_size": 8}, "stages": stages}
    recipe = parse_recipe(json.loads(json.dumps({"base": "none", **base, **data})))
    Run(recipe, registry, out=path / "out", device="cpu").check()


def stage(method: str, **settings: Any) -> dict[str, Any]:
    return {"name": "cut", "methods": [{method: settings}, "look"]}


def refused(path: Path, base: dict[str, Any], *stages: Any) -> str:
    """Return what a recipe is refused with; nothing was written."""
    with pytest.raises(UsageError) as caught:
        check(path, base, *stages)
    assert not (path / "out").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(path: Path, base: dict[str, Any], method: str, **settings: Any) -> tuple[dict[str, int], dict[str, float]]:
    """Return how many weights of each layer aren't zero when a stage ends, and the method's report."""
    found: list[Any] = []

    def look(stage: Stage) -> None:
        found.append({w.path: int(w.value.count_nonzero()) for w in stage.weights()})
        found.append(stage.manager.methods[method].report(stage=stage))  # type: ignore[attr-defined]

    check(path, base, {**stage(method, **settings), "epochs": 0}, look=look)
    return found[0], found[1]


# ---------------------------------------------------------------- nothing asked, everything asked

SHARES = {
    "activation-gradient-pruning-dbtd": "rate",
    "asymptotic-soft-filter-pruning": "ratio",
    "filter-pruning": "ratio",
    "gradual-magnitude-pruning": "sparsity",
    "group-brain-damage": "sparsity",
    "l1-filter-pruning": "ratio",
    "network-slimming": "ratio",
    "obd": "sparsity",
    "obs": "sparsity",
    "residual-block-pruning": "ratio",
    "soft-filter-pruning": "ratio",
    "structured-magnitude": "ratio",
    "thinet": "keep",
}
"""Not here: ssl, which has no share (strength and thresholds decide), and magnitude, whose sparsity may be 0."""


def test_every_pruning_method_is_here() -> None:
    papers = Registry.open().entries["papers"].values()
    assert {p.key for p in papers if p.target["family"] == "pruning"} == {*SHARES, "ssl", "magnitude"}


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, float("nan")])
@pytest.mark.parametrize(("method", "setting"), SHARES.items())
def test_neither_nothing_nor_everything(method: str, setting: str, value: float, tmp_path: Path) -> None:
    says = refused(tmp_path, RESNET, stage(method, **{setting: value}))
    assert says == f"{method}.{setting} must be > 0 and < 1, got {value}"


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("l1-filter-pruning", {"rates": {"conv1": 0}}, "l1-filter-pruning.rates.conv1 must be > 0 and < 1, got 0"),
        ("l1-filter-pruning", {"rates": {"conv1": 1.0}}, "l1-filter-pruning.rates.conv1 must be > 0 and < 1, got 1.0"),
        (
            "group-brain-damage",
            {"rates": {"conv1": 0.0}},
            "group-brain-damage.rates.conv1 must be > 0 and < 1, got 0.0",
        ),
        ("group-brain-damage", {"rates": {"conv1": 1}}, "group-brain-damage.rates.conv1 must be > 0 and < 1, got 1"),
        ("magnitude", {"density": {"conv1": 0}}, "magnitude.density.conv1 must be > 0 and <= 1, got 0"),
        ("magnitude", {"density": {"conv1": 1.5}}, "magnitude.density.conv1 must be > 0 and <= 1, got 1.5"),
        ("magnitude", {"density": {"conv1": "half"}}, "magnitude.density.conv1 must be a number, got 'half'"),
        ("magnitude", {"sparsity": 1}, "magnitude.sparsity must be >= 0 and < 1, got 1"),
        (
            "magnitude",
            {"sparsity": 0},
            "magnitude.sparsity must be > 0 and < 1 unless density or quality takes .* got 0",
        ),
        ("magnitude", {"sparsity": 0, "density": {"conv1": 1}, "quality": {"*": 0}}, "magnitude.sparsity .* got 0"),
        ("network-slimming", {"max_share": 0}, "network-slimming.max_share must be > 0 and <= 1, got 0"),
        (
            "gradual-magnitude-pruning",
            {"initial": 0.9},
            r"gradual-magnitude-pruning.initial must be <= .* 0.8, got 0.9",
        ),
        # What ssl has instead of a share: with nothing below any threshold nothing ever goes.
        ("ssl", {"zero_below": 0, "threshold": 0}, "ssl: with zero_below 0 and threshold 0 no group ever goes.*"),
    ],
)
def test_other_ends(method: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert re.fullmatch(says, refused(tmp_path, RESNET, stage(method, **settings)))


def test_magnitude_without_sparsity_beside_density(tmp_path: Path) -> None:
    """A tenth of fc1's 1,024 weights stays, and all of fc2's 160."""
    found, _ = left(tmp_path, MLP, "magnitude", sparsity=0, density={"fc1": 0.1})
    assert found == {"fc1": 102, "fc2": 160}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([0.3, 0.3, 1.0], r"cut \[3/3\]: {}.{} must be > 0 and < 1, got 1.0"),
        ([0, 0.3, 0.3], "{}.{} must be > 0 and < 1, got 0"),
        ("=round / 4", "{}.{} must be > 0 and < 1, got 0.0"),
        ("=(round + 1) / 3", r"cut \[3/3\]: {}.{} must be > 0 and < 1, got 1.0"),
    ],
)
@pytest.mark.parametrize(("method", "setting"), SHARES.items())
def test_every_pass_of_a_round_counts(method: str, setting: str, value: Any, says: str, tmp_path: Path) -> None:
    """Of three passes a dry run meets two."""
    rounds = {"repeat": 3, "stages": [stage(method, **{setting: value})]}
    assert re.fullmatch(says.format(method, setting), refused(tmp_path, RESNET, rounds))


# ---------------------------------------------------------------- a share that rounds to nothing

ROUNDED: list[tuple[str, dict[str, Any], str, float, float]] = [
    # method, other settings, setting, what takes nothing, what takes one
    ("filter-pruning", {}, "ratio", 0.01, 0.0157),  # 32 filters in the widest: above 0.5 / 32
    ("filter-pruning", {"scope": "global"}, "ratio", 0.004, 0.00417),  # 120 filters: above 0.5 / 120
    ("soft-filter-pruning", {}, "ratio", 0.01, 0.0313),  # 1 / 32, in three digits
    ("asymptotic-soft-filter-pruning", {}, "ratio", 0.01, 0.0313),
    ("network-slimming", {}, "ratio", 0.004, 0.00417),
    ("network-slimming", {"scope": "local"}, "ratio", 0.01, 0.0157),
    ("network-slimming", {}, "max_share", 0.03, 0.0313),
    ("group-brain-damage", {}, "sparsity", 0.001, 0.00174),  # 32 * 9 groups in the last convolutions
    ("group-brain-damage", {"scope": "global"}, "sparsity", 1e-4, 0.000625),  # 801 groups
    ("structured-magnitude", {"granularity": "head"}, "ratio", 0.01, 0.0834),  # 6 heads
    ("structured-magnitude", {"granularity": "head", "scope": "local"}, "ratio", 0.1, 0.167),  # 3 in a layer
    ("structured-magnitude", {"granularity": "head-dim"}, "ratio", 0.01, 0.0626),  # 8 in a head
    ("structured-magnitude", {"granularity": "neuron"}, "ratio", 0.001, 0.00261),  # 2 * 96 neurons
    ("structured-magnitude", {"granularity": "layer"}, "ratio", 0.01, 0.251),  # 2 layers
    ("magnitude", {}, "sparsity", 1e-7, 0.000423),  # 1,184 weights
    ("magnitude", {"scope": "local"}, "sparsity", 1e-7, 0.000489),  # 1,024 in the first layer
    ("obd", {"hessian": "identity"}, "sparsity", 1e-7, 0.000414),  # 1,210 parameters
    ("obs", {"samples": 4}, "sparsity", 1e-7, 0.000414),
    ("gradual-magnitude-pruning", {}, "sparsity", 1e-7, 0.00313),  # 160 behind the first layer
]
UNSTRUCTURED = ("magnitude", "obd", "obs", "gradual-magnitude-pruning")


@pytest.mark.parametrize(("method", "others", "setting", "nothing", "one"), ROUNDED)
def test_what_rounds_to_nothing_says_what_would_not(
    method: str, others: dict[str, Any], setting: str, nothing: float, one: float, tmp_path: Path
) -> None:
    """What the message offers takes one unit; a hundredth less takes none."""
    base = {"structured-magnitude": VIT, **dict.fromkeys(UNSTRUCTURED, MLP)}.get(method, RESNET)
    says = refused(tmp_path, base, stage(method, **others, **{setting: nothing}))
    assert says.startswith(f"{method}: {setting} {nothing:g} takes no ")
    assert says.endswith(f" away; the smallest {setting} that takes one is {one:g}")
    assert f"{setting} {one * 0.99:g}" in refused(tmp_path, base, stage(method, **others, **{setting: one * 0.99}))
    check(tmp_path, base, stage(method, **others, **{setting: one}))


def test_a_named_layer_from_which_nothing_goes(tmp_path: Path) -> None:
    """The first convolution reads one channel: nine groups."""
    says = refused(tmp_path, RESNET, stage("group-brain-damage", rates={"conv1": 0.05}))
    assert says == (
        "group-brain-damage: rates.conv1 0.05 takes no group away; the smallest rates.conv1 that takes one is 0.0556"
    )


@pytest.mark.parametrize(
    ("base", "method", "settings", "count"),
    [
        (RESNET, "l1-filter-pruning", {"ratio": 0.001}, 3),
        (RESNET, "thinet", {"keep": 0.999}, 3),
        (RESNET, "residual-block-pruning", {"ratio": 0.001}, 1),
        (VIT, "residual-block-pruning", {"ratio": 0.001}, 1),
    ],
)
def test_three_round_up(
    base: dict[str, Any], method: str, settings: dict[str, Any], count: int, tmp_path: Path
) -> None:
    """One filter of each of three layers, one block: these never round to nothing.

    Nor do the two that have no share of units: dbtd's rate sets a threshold for single entries, ssl has no share.
    """
    _, report = left(tmp_path, base, method, **settings)
    assert next(n for k, n in report.items() if k.endswith("removed_count")) == count


def test_a_later_pass_may_find_too_little_left() -> None:
    """The dry run refuses, a real one doesn't: what it meets in the third pass of a round is no fault of the user's."""
    stage = stage_of(nn.Linear(1, 1), Given(torch.zeros(2, 1), torch.zeros(2, 1)))
    refuse_nothing(stage, "m", "ratio", 0.1, [4], unit="filter", goes=zeroed)
    stage.dry = True
    with pytest.raises(UsageError, match=r"^m: ratio 0.1 takes no filter away; the smallest ratio .* one is 0.25$"):
        refuse_nothing(stage, "m", "ratio", 0.1, [3, 4], unit="filter", goes=zeroed)
    with pytest.raises(UsageError, match=r"^m: ratio 0.5 takes nothing: no layer has a filter to spare$"):
        refuse_nothing(stage, "m", "ratio", 0.5, [1, 1], unit="filter", scope="global")


# ---------------------------------------------------------------- a layer pruned to nothing

EMPTIED: list[tuple[str, dict[str, Any], str]] = [
    ("magnitude", {"sparsity": 0.99}, "sparsity 0.99 leaves nothing of layer 'fc1'; ask for less, or scope local"),
    ("magnitude", {"sparsity": 0.99, "steps": 4}, "sparsity 0.99 leaves nothing of layer 'fc1'; ask for less, or .*"),
    ("magnitude", {"sparsity": 0.999, "scope": "local"}, "sparsity 0.999 leaves nothing of layer 'fc2'; ask for less"),
    ("magnitude", {"density": {"fc2": 0.001}}, "density 0.001 leaves nothing of layer 'fc2'; ask for more"),
    ("magnitude", {"quality": {"fc1": 5.0}}, "quality 5 leaves nothing of layer 'fc1'; ask for less"),
    ("obd", {"sparsity": 0.99, "hessian": "identity"}, "sparsity 0.99 leaves nothing of layer 'fc1'; ask for less"),
    ("obd", {"sparsity": 0.99, "hessian": "identity", "steps": 4}, "sparsity 0.99 leaves nothing of layer 'fc1'; .*"),
    ("obs", {"sparsity": 0.999, "samples": 4}, "sparsity 0.999 leaves nothing of layer 'fc[12]'; ask for less"),
    ("obs", {"sparsity": 0.999, "samples": 4, "steps": 4}, "sparsity 0.999 leaves nothing of layer 'fc[12]'; .*"),
    ("gradual-magnitude-pruning", {"sparsity": 0.999}, "sparsity 0.999 leaves nothing of layer 'fc2'; ask for less"),
    ("ssl", {"zero_below": 9.0}, "zero_below 9 leaves nothing of layer 'fc1'; ask for less"),
    ("ssl", {"threshold": 9.0}, "threshold 9 leaves nothing of layer 'fc1'; ask for less"),
]


@pytest.mark.parametrize(("method", "settings", "says"), EMPTIED)
def test_a_layer_pruned_to_nothing(method: str, settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert re.fullmatch(f"{method}: {says}", refused(tmp_path, MLP, stage(method, **settings)))


@pytest.mark.parametrize(
    ("base", "method", "settings"),
    [
        (RESNET, "asymptotic-soft-filter-pruning", {"ratio": 0.999}),
        (RESNET, "filter-pruning", {"ratio": 0.999}),
        (RESNET, "filter-pruning", {"ratio": 0.999, "scope": "global"}),
        (RESNET, "group-brain-damage", {"sparsity": 0.999}),
        (RESNET, "group-brain-damage", {"sparsity": 0.999, "scope": "global"}),
        (RESNET, "l1-filter-pruning", {"ratio": 0.999}),
        (RESNET, "network-slimming", {"ratio": 0.999}),
        (RESNET, "network-slimming", {"ratio": 0.999, "scope": "local"}),
        (RESNET, "soft-filter-pruning", {"ratio": 0.999}),
        (RESNET, "thinet", {"keep": 0.001}),
        (VIT, "residual-block-pruning", {"ratio": 0.999}),
        (VIT, "structured-magnitude", {"ratio": 0.999, "granularity": "head"}),
        (VIT, "structured-magnitude", {"ratio": 0.999, "granularity": "head-dim"}),
        (VIT, "structured-magnitude", {"ratio": 0.999, "granularity": "neuron"}),
        (VIT, "structured-magnitude", {"ratio": 0.999, "granularity": "layer"}),
    ],
)
def test_the_best_unit_stays(base: dict[str, Any], method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """As each of these says in its docstring; a CNN's blocks may all go, a shortcut leads around them."""
    found, report = left(tmp_path, base, method, **settings)
    assert all(found.values())
    assert next(n for k, n in report.items() if k.endswith(("removed_percent", "cut_percent"))) > 40


def test_dbtd_leaves_the_net_alone(tmp_path: Path) -> None:
    """Nearly every entry of the gradients goes, and no weight."""
    before, _ = left(tmp_path, RESNET, "activation-gradient-pruning-dbtd")
    after, _ = left(tmp_path, RESNET, "activation-gradient-pruning-dbtd", rate=0.999999)
    assert before == after


def test_weights_that_stand_in_for_trained_ones_are_no_reason(tmp_path: Path) -> None:
    """Where a base is trained first, or a stage before, only counts refuse in the dry run."""
    trained = {**MLP, "base": {}}
    check(tmp_path, trained, stage("magnitude", sparsity=0.99))
    check(tmp_path, MLP, {"name": "tune"}, stage("magnitude", sparsity=0.99))
    check(tmp_path, trained, stage("magnitude", quality={"*": 5.0}))
    assert "'fc2'" in refused(tmp_path, trained, stage("magnitude", sparsity=0.999, scope="local"))
    assert "leaves nothing of layer" in refused(tmp_path, trained, stage("magnitude", sparsity=0.9995))  # one for two
    own = {**stage("magnitude", sparsity=0.99), "student": MLP["model"]}
    assert "'fc1'" in refused(tmp_path, trained, own)  # not the net that is trained before


@pytest.mark.parametrize("settings", [{}, {"steps": 4}])
@pytest.mark.parametrize("method", ["magnitude", "obd"])
def test_the_real_stage_looks_again(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """A first layer whose weights became small between dry run and stage, or only once it has begun."""
    methods: list[Any] = ["look", {method: {"sparsity": 0.4, **settings}}]
    if method == "obd":
        methods[1][method]["hessian"] = "identity"

    def shrink(stage: Stage) -> None:
        if not stage.dry and stage.step in (0, 3):
            stage.weights()[0].latent.data.mul_(1e-6)

    hook = "before_step" if settings else "prepare"
    with pytest.raises(UsageError, match=f"{method}: sparsity 0.4 leaves nothing of layer 'conv1'"):
        run(tmp_path, [{"methods": methods}], "plain-cnn", {hook: shrink})
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_layer_that_was_empty_before_is_not_to_blame() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    stage = stage_of(net, Given(torch.zeros(2, 3), torch.zeros(2, 2)))
    keep = {"0.weight": torch.zeros(2, 3, dtype=torch.bool), "1.weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(UsageError, match=r"^m: sparsity 0.9 leaves nothing of layer '0'; ask for less$"):
        refuse_empty(stage, "m: sparsity 0.9", stage.weights(), keep, by="rank")
    mask(stage, stage.weights()[0], keep["0.weight"])
    refuse_empty(stage, "m: sparsity 0.9", stage.weights(), keep, by="rank")


# ---------------------------------------------------------------- slimming without batch normalization


@pytest.mark.parametrize("base", [VIT, TRANSFORMER, LENET, MLP], ids=["vit", "transformer", "lenet", "mlp"])
def test_slimming_needs_batch_normalization(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"^network-slimming is not applicable: .* lacks batch normalization"):
        check(tmp_path, base, stage("network-slimming"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("composition", "model", "says"),
    [
        ("network-slimming", "vit", "network-slimming is not applicable: .* lacks batch normalization layers .*"),
        ("soft-filter-pruning(ratio=0)", "resnet8", "soft-filter-pruning.ratio must be > 0 and < 1, got 0"),
        ("thinet(keep=1)", "resnet8", "thinet.keep must be > 0 and < 1, got 1"),
        ("filter-pruning(ratio=0.001)", "resnet8", "filter-pruning: ratio 0.001 takes no filter away; .* is 0.00782"),
        (
            "magnitude(sparsity=0.9999, scope=local)",
            "resnet8",
            "magnitude: sparsity 0.9999 leaves nothing of layer 'conv1'; ask for less",
        ),
    ],
)
def test_the_command_says_one_line_and_writes_nothing(
    composition: str,
    model: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["condensery", "compose", composition, "--model", model, "--out", "out"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.fullmatch(f"error: {says}", capsys.readouterr().err.strip())
    assert not list(tmp_path.iterdir())
