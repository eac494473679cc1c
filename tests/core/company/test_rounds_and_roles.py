"""What changes from pass to pass of a round, and which teacher a stage gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.company.examples import SelfTeacher
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, recipe, registry

from condensery import NotApplicable, Registry, UsageError, hookimpl
from condensery.recipe import parse
from condensery.run import Progress, Stage

KNOWN = Registry.open()


def test_inq_over_rounds_with_an_honest_removes(tmp_path: Path) -> None:
    """Each pass needs float weights, which the pass before removed; at the end all are powers of two, or zero."""
    shares: list[Any] = [0.5, 0.75, 1.0]
    rounds = {"repeat": 3, "stages": [{"name": "q", "methods": [{"inq": {"share": shares}}], "epochs": [2, 1, 0]}]}
    report, watch = run_also_killed(recipe([rounds]), KNOWN, tmp_path, where=lambda stage: stage.round == 1)

    assert [entry["epochs"] for entry in report["stages"]] == [2, 1, 0]
    assert [round(entry["report"]["inq.held_percent"]) for entry in report["stages"]] == [50, 75, 100]
    weight = watch.student.get_submodule("layer1.0.conv1").weight
    assert isinstance(weight, torch.Tensor)
    assert len(weight.unique()) > 4  # type: ignore[no-untyped-call]
    powers = weight[weight != 0].abs().log2()
    assert torch.equal(powers, powers.round())


@pytest.mark.parametrize("stages", [[{"methods": ["inq", "inq"]}], ["inq", "inq"]])
def test_what_another_stage_or_method_removed_is_missing(stages: list[Any], tmp_path: Path) -> None:
    rounds = {"repeat": 2, "stages": stages}
    with pytest.raises(
        NotApplicable, match=r"lacks weights that may take any value.* \(inq in stage .* took them away"
    ):
        run(recipe([rounds]), KNOWN, tmp_path / "o")


def test_zeros_of_a_transform_that_is_no_mask_are_seen(tmp_path: Path) -> None:
    """Of a codebook beside a mask, of fixed levels; a quantizer whose zeros may move holds none."""
    seen: dict[str, float] = {}

    class Looks(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            alive = torch.cat([weight.alive.flatten() for weight in stage.weights()])
            used = torch.cat([weight.value.flatten() != 0 for weight in stage.weights()])
            seen[stage.name] = float((alive != used).sum())
            seen[f"{stage.name} zeros"] = float((~alive).sum())

    known = registry(looks=Looks)
    inq = {"name": "inq", "methods": [{"inq": {"share": 1.0, "bits": 3}}, "looks"], "epochs": 0}
    run(recipe([inq]), known, tmp_path / "inq")
    shared = [
        {"methods": ["magnitude"], "epochs": 0},
        {"name": "k", "methods": ["kmeans-sharing", "looks"], "epochs": 0},
    ]
    run(recipe(shared), known, tmp_path / "k")
    assert seen["inq"] == seen["k"] == 0
    assert seen["inq zeros"] > 0
    assert seen["k zeros"] > 0


def test_epochs_train_and_data_of_each_pass(tmp_path: Path) -> None:
    """A formula counts passes from 0, a list has one entry each; milestones and an optimizer's options stay lists."""
    seen: list[Any] = []

    class Looks(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            if not stage.dry:
                spec = stage.train
                options, steps = spec.optimizer.options, spec.schedule.milestones
                seen.append((stage.epochs, spec.optimizer.lr, options, steps, stage.task.count("train", stage.subset)))

    stage = {
        "methods": ["looks"],
        "epochs": "=round",
        "train": {
            "optimizer": {"name": "adam", "lr": [0.1, 0.01], "options": {"betas": [0.5, 0.9]}},
            "schedule": {"name": "step", "milestones": [0.25, 0.5, 0.75]},
        },
        "data": {"subset": {"size": "=16 * (round + 1)"}},
    }
    run(recipe([{"repeat": 2, "stages": [stage]}]), registry(looks=Looks), tmp_path / "o")
    rest = {"betas": [0.5, 0.9]}, [0.25, 0.5, 0.75]
    assert seen == [(0, 0.1, *rest, 16), (1, 0.01, *rest, 32)]


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"epochs": [1, 2]}, r"stage 's': epochs: a list gives one value for each round; 2 for 3 rounds"),
        ({"epochs": "=1 - round"}, r"stage 's': train: epochs: must be >= 0, got -1"),
        ({"train": {"optimizer": {"lr": "=1 / round"}}}, r"stage 's': train.optimizer.lr: formula .* by zero"),
        ({"data": {"subset": {"size": "=2 - round"}}}, r"stage 's': data: subset.size: must be >= 1, got 0"),
    ],
)
def test_a_value_of_a_late_pass_is_refused_at_once(stage: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        recipe([{"repeat": 3, "stages": [{"name": "s", **stage}]}])


def test_a_stage_s_data_is_laid_over_the_recipe_s(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    class Looks(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            seen.append((stage.task.count("train", stage.subset), stage.labels))

        @hookimpl
        def loss_terms(self, outputs: Any) -> dict[str, torch.Tensor]:
            return {"size": outputs["student"].rows.square().mean()}

    stages = [
        {"methods": ["looks"], "data": {"labels": False}},
        {"methods": ["looks"], "data": {"subset": {"size": 8}}},
    ]
    run(recipe(stages), registry(looks=Looks), tmp_path / "o")
    assert seen[2:] == [(32, False), (8, True)]


def test_another_optimizer_starts_from_its_own_options(tmp_path: Path) -> None:
    """Over a base or a recipe that trains with SGD and momentum; the same optimizer keeps its momentum."""
    train = {"optimizer": {"lr": 0.1, "options": {"momentum": 0.9}}}
    known = registry()

    def options(**optimizer: Any) -> dict[str, Any]:
        what = recipe([{"name": "s", "train": {"optimizer": optimizer}}], train=train)
        return what.train_of(what.stages[0]).optimizer.options  # type: ignore[no-any-return]

    assert options(name="adamw", lr=0.001) == {}
    assert options(name="adamw", options={"eps": 1e-7}) == {"eps": 1e-7}
    assert options(name="sgd", lr=0.2) == options(lr=0.2) == {"momentum": 0.9}
    given: list[dict[str, Any]] = [{}, {"options": {}}, {"options": {"momentum": None}}]
    for number, changes in enumerate(given):
        base = {"epochs": 1, "max_steps": 2, "optimizer": {"name": "adam", "lr": 0.003, **changes}}
        run(recipe(["magnitude"], base=base), known, tmp_path / str(number))


def test_a_stage_without_the_teacher_that_it_needs_gets_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _ = run(recipe([*parse("magnitude -> hinton-kd")]), registry(), tmp_path / "o", show=Progress())
    named, _ = run(recipe([*parse("magnitude -> hinton-kd{teacher=original}")]), registry(), tmp_path / "named")
    says = "stage 'hinton-kd' names no teacher for hinton-kd: it gets the original net"
    assert capsys.readouterr().err.count(says) == 1
    assert report["recipe"] == named["recipe"]
    assert report["after"]["quality"] == named["after"]["quality"]
    assert report["stages"][1]["history"][0]["terms"] == named["stages"][1]["history"][0]["terms"]


def test_a_method_that_brings_the_teacher_says_so(tmp_path: Path) -> None:
    class Brings(SelfTeacher):
        key = "brings"
        leaves = frozenset({"teacher"})

        @hookimpl
        def players(self, stage: Stage) -> list[Any]:
            return [stage.recruit(name, like="student", trains=False) for name in ("teacher", "mean")]

    report, _ = run(recipe([{"methods": ["brings", "hinton-kd"]}]), registry(brings=Brings), tmp_path / "o")
    assert "student.hinton-kd.kd" in report["stages"][0]["history"][0]["terms"]
    assert "teacher" not in report["recipe"]["stages"][0]
