"""What is frozen doesn't move, a look moves nothing, and taps read what goes in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tests.core.company.examples import Hints
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, recipe, registry, untouched
from torch import Tensor, nn

from condensery import UsageError, hookimpl
from condensery.errors import MethodError, UnknownKey
from condensery.nets import clone
from condensery.run import Outputs, Player, Stage
from condensery.tasks import Batch
from condensery.testing import different_tensors

STARTS: list[nn.Module] = []


class Starts(Act):
    """Keeps the student as it was before the first step of the stage."""

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        if stage.step == 0 and not stage.dry:
            STARTS.append(clone(stage.student.module))


KNOWN = registry(hints=Hints, starts=Starts)


@pytest.mark.parametrize("beside", [[], ["lsq"], ["dropped"]])
def test_nothing_that_is_frozen_moves(beside: list[str], tmp_path: Path) -> None:
    """Statistics neither, whatever else acts; the other half and the regressor train. In the next stage all train."""

    class Dropped(Act):
        """Decays each weight that gets a gradient."""

        @hookimpl
        def after_step(self, stage: Stage) -> None:
            for weight in stage.weights():
                if weight.latent.requires_grad:
                    weight.latent.data.mul_(0.9)

    known = registry(hints=Hints, starts=Starts, dropped=Dropped)
    STARTS.clear()
    hints = {"methods": ["starts", "hints", *beside], "teacher": "original", "epochs": 2}
    _, watch = run_also_killed(recipe([hints]), known, tmp_path / "one", stop_after=1)
    moved = different_tensors(STARTS[-1], watch.student)
    assert sum(name.startswith(("layer2.", "layer3.")) for name, _ in watch.student.named_buffers()) >= 10
    assert {name.partition(".")[0] for name in moved} == {"conv1", "bn1", "layer1"}
    assert any(name.endswith("running_mean") for name in moved)

    run(recipe([hints, {"methods": ["starts"]}]), known, tmp_path / "two")
    assert all(parameter.requires_grad for parameter in STARTS[-1].parameters())


def test_freezing_what_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    what = recipe([{"methods": [{"hints": {"frozen": ["layer33"]}}], "teacher": "original"}])
    with pytest.raises(UnknownKey, match="freeze in student: unknown module 'layer33'; did you mean 'layer3'"):
        run(what, KNOWN, tmp_path / "o")


def test_a_cut_does_not_thaw(tmp_path: Path) -> None:
    """A cut makes new parameters for layers that were frozen before it."""

    class Freezes(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            stage.student.freeze(["layer1"])

        @hookimpl
        def after_backward(self, stage: Stage, player: Player) -> None:
            assert all(p.grad is None for p in player.module.get_submodule("layer1").parameters())
            assert any(p.grad is not None for p in player.module.get_submodule("layer2").parameters())

    methods = ["freezes", {"l1-filter-pruning": {"ratio": 0.5}}]
    report, _ = run(recipe([{"methods": methods}]), registry(freezes=Freezes), tmp_path / "o")
    assert report["after"]["parameters"] < report["before"]["parameters"]


def test_to_play_in_prepare_or_end_stage_is_a_look(tmp_path: Path) -> None:
    class Sizes(Act):
        def look(self, stage: Stage) -> None:
            with untouched(stage.student.module):
                outputs = stage.play(stage.sample(4)[0])
            assert not outputs["student"].rows.requires_grad

        @hookimpl
        def prepare(self, stage: Stage) -> None:
            self.look(stage)

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            self.look(stage)

        @hookimpl
        def loss_terms(self, outputs: Mapping[str, Outputs]) -> None:
            assert outputs["student"].rows.requires_grad

    run(recipe(["sizes"]), registry(sizes=Sizes), tmp_path / "o")


def test_a_teacher_plays_with_gradients_to_its_input(tmp_path: Path) -> None:
    """They reach the batch, and no weight of a player, of one that trains neither."""

    class Generates(Act):
        @hookimpl
        def training_step(self, stage: Stage, batch: Batch) -> bool:
            made = torch.randn_like(batch.inputs, requires_grad=True)
            outputs = stage.play(Batch(made), [stage.players["teacher"], stage.student], to_input=True)
            apart = (outputs["teacher"].rows - 0.5 * outputs["student"].rows).square().sum()
            apart.backward()  # type: ignore[no-untyped-call]
            assert made.grad is not None
            assert bool(made.grad.any())
            assert all(p.grad is None for q in stage.players.values() for p in q.module.parameters())
            assert all(p.requires_grad for p in stage.student.module.parameters())

            stage.gradients(Batch(made.detach(), batch.labels))
            stage.update(stage.student)
            return True

    what = recipe([{"methods": ["generates", "hinton-kd"], "teacher": "original"}])
    run(what, registry(generates=Generates), tmp_path / "o")


class Tiny(nn.Module):
    """A net whose values are known: 1, 2 -> 3 (their sum) -> the transform's 0.5 -> 5 times it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.body.weight)
        nn.init.constant_(self.head.weight, 5.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.body(x))  # type: ignore[no-any-return]


def test_taps_of_inputs() -> None:
    """What a module is given, by keyword too; ``features`` is what the classifier gets."""
    player = Player("student", Tiny(), spec=recipe([]).model)
    for target in ("body:input", "body", "features"):
        player.tap(target)
    with player.taps.reading():
        player.module(torch.tensor([[1.0, 2.0]]))
    read = player.taps.collect()
    assert read["body:input"].tolist() == [[1.0, 2.0]]
    assert read["body"].tolist() == [[3.0]]
    assert [value.tolist() for value in read["features"]] == [[[3.0]]]

    with pytest.raises(UsageError, match="tap in Tiny: unknown module or role 'stage'; did you mean 'stages'"):
        player.tap("stage")
    player.taps.remove()


@pytest.mark.parametrize("parts", [{}, {"accumulate": 4}, {"workers": 2, "accumulate": 2}])
def test_a_measure_comes_once_in_a_step(parts: dict[str, int], tmp_path: Path) -> None:
    """The mean over the whole batch, however it is cut."""
    seen: list[float] = []
    means: list[float] = []

    class Measures(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            stage.student.tap("conv1:input", measure=lambda value: value.mean())

        @hookimpl
        def before_step(self, batch: Batch) -> None:
            means.append(float(batch.inputs.mean()))

        @hookimpl
        def after_backward(self, player: Player) -> None:
            seen.append(float(player.measured["conv1:input"]))

    run(recipe([{"methods": ["measures"], "train": parts}]), registry(measures=Measures), tmp_path / "o")
    assert len(seen) >= 2
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(means))


@pytest.mark.parametrize("when", ["before_step", "after_step", "after_epoch"])
def test_a_net_is_changed_in_prepare_and_end_stage_only(when: str, tmp_path: Path) -> None:
    def cut(self: Act, stage: Stage) -> None:
        stage.surgeon.remove_channels({"layer1.0.conv1": [0]})

    cuts = type("Cuts", (Act,), {when: hookimpl(cut), "__annotations__": {}})
    said = rf"stage 's', cuts, {when}: a net is cut while the stage trains; only prepare and end_stage may"
    with pytest.raises(MethodError, match=said):
        run(recipe([{"name": "s", "methods": ["cuts"]}]), registry(cuts=cuts), tmp_path / "o")
