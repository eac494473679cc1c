"""One unit of a run: a stage is opened, its epochs are played, its end is checked, and what it came to is noted."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from condensery.errors import MethodError
from condensery.nets import broken_promises, detach_temporary, own_parameters
from condensery.recipe import TrainSpec, Unit
from condensery.run.checks import check_batches, check_report, refuse_silenced
from condensery.run.collapse import collapsed, started_alive
from condensery.run.folder import PROGRESS, RunFolder
from condensery.run.opening import Opener
from condensery.run.players import Player
from condensery.run.progress import Observer, Progress
from condensery.run.resume import lay_progress, progress_of, rehearse, unsaved
from condensery.run.snapshots import Snapshots
from condensery.run.stage import Stage
from condensery.run.validation import Validation
from condensery.tasks import Batch

TRIED = 4
History = list[dict[str, Any]]
"""By epoch: losses by term, quality on validation (empty where it isn't measured), seconds."""


@dataclasses.dataclass(eq=False, repr=False)
class UnitRunner:
    """Plays the units of one run, one after another.

    :param observer: is told of every epoch and stage, but not in a dry run.
    :param validation: on which each epoch is measured; ``None``: epochs aren't measured.
    :param stages: what each unit came to, in order: its name, methods, history and report.
    :param tried: in a dry run, some of the batches that were played.
    :param seconds: that the epochs took which were played here; others come from a cache or an interrupted run.
    """

    opener: Opener
    folder: RunFolder
    snapshots: Snapshots
    show: Progress
    observer: Observer
    dry: bool
    validation: Validation | None
    stages: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tried: list[Batch] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def play(self, unit: Unit, train: TrainSpec, players: Mapping[str, Player], seed: int) -> Stage:
        """Play one unit from where an earlier call was stopped; returns its stage, which has ended.

        :param players: student and teachers, as the unit's roles name them.
        :raises MethodError: if a hook fails, or a transform breaks its promise.
        :raises NonFiniteLoss: if a loss does so.
        :raises NonFiniteNet: if a weight or an output does so.
        """
        started = time.monotonic()
        stage = self.opener.open(unit, train, players, seed)
        stage.place = None if self.dry else self.folder.path / f"stage-{unit.id}"
        before = None if self.dry else started_alive(stage)
        self.opener.prepare(stage)
        self._tell(stage, unit)

        history = self._epochs(stage, unit)
        if self.dry:
            refuse_silenced(stage)
        stage.stepping = False
        stage.manager.call("end_stage", stage=stage)
        report = _report(stage)
        _close(stage)

        gone = collapsed(stage, before) if before is not None else []
        self.snapshots.take(stage, unit.id)
        self._note(stage, unit, history, report, gone)
        if not self.dry:
            took = time.monotonic() - started
            self.folder.log({"stage": unit.title, "unit": unit.id, "report": report, "wall_s": took})
            self.observer.stage_ended(stage)
        return stage

    def _tell(self, stage: Stage, unit: Unit) -> None:
        """Say what is rarely meant: precision that the device doesn't have, a student larger than its teacher."""
        if stage.precision.autocast != stage.train.autocast and not self.dry:
            self.show.once(f"{stage.device.type} has no instructions for bf16: products are in float32")
        sizes = {p.name: sum(w.numel() for w in own_parameters(p.module).values()) for p in stage.players.values()}
        for teacher in stage.teachers:
            if sizes["student"] > sizes[teacher.name]:
                size = f"{sizes['student']:,} parameters, {teacher.name} {sizes[teacher.name]:,}"
                self.show.line(f"{unit.title}: the student is larger than its teacher: {size}")

    def _epochs(self, stage: Stage, unit: Unit) -> History:
        """Play the epochs that are left; returns the history of all."""
        saved = None if self.dry else self.folder.load(PROGRESS)
        history = lay_progress(stage, saved) if saved is not None and saved["unit"] == unit.id else []
        self.show.start(unit.title, stage.steps_per_epoch * stage.epochs)
        self.show.advance(stage.steps_per_epoch * stage.epoch)

        before = unsaved(stage) if self.dry else {}
        for epoch in range(stage.epoch, stage.epochs):
            stage.epoch = epoch
            started = time.monotonic()
            for player in stage.players.values():
                player.start_epoch()
            self._steps(stage)
            stage.check_finite()
            stage.manager.call("after_epoch", stage=stage)
            if self.dry:
                rehearse(stage, before)
            else:
                self._end_epoch(stage, unit, history, started)
        return history

    def _steps(self, stage: Stage) -> None:
        """Play one epoch's batches."""
        stage.started = stage.step
        for batch in check_batches(stage):
            stage.set_rates()
            stage.manager.call("before_step", stage=stage, batch=batch)
            stage.take_step(batch)
            stage.step += 1
            if self.dry and len(self.tried) < TRIED:
                self.tried.append(batch)
            self.show.advance()

    def _end_epoch(self, stage: Stage, unit: Unit, history: History, started: float) -> None:
        """Write down how the epoch went, and save what a later call goes on from."""
        watched = self.validation
        quality = {} if watched is None else watched.quality(stage.student.module, stage.train)
        terms = stage.means()
        took = round(time.monotonic() - started, 2)
        self.seconds += took
        history.append({"epoch": stage.epoch + 1, "terms": terms, "quality": quality, "wall_s": took})

        main = stage.task.metrics[0]
        note = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
        if quality:
            note = f"{main.name} {quality[main.name]:.2f} {main.unit} (validation)"
        self.show.epoch(unit.title, stage.epoch + 1, stage.epochs, note)
        self.folder.log({"stage": unit.title, **history[-1]})

        # The progress comes last, and names the nets that were kept: the one file that a later call goes on from.
        self.snapshots.take(stage, unit.id, epoch=stage.epoch + 1)
        kept = {"unit": unit.id, "snapshots": self.snapshots.files}
        self.folder.save(PROGRESS, kept | progress_of(stage, history))
        for player in stage.players.values():
            if player.memory is not None:
                player.memory.save()
        self.observer.epoch_ended(stage, history)

    def _note(self, stage: Stage, unit: Unit, history: History, report: dict[str, float], gone: list[str]) -> None:
        """Add what the unit came to to the run's stages; what collapsed is there where something did."""
        entry = {
            "name": unit.title,
            "unit": unit.id,
            "methods": list(stage.manager.methods),
            "epochs": stage.epochs,
            "history": history,
            "report": report,
            "exchanged": stage.exchanged.per_step(stage.step),
            "wall_s": round(sum(epoch["wall_s"] for epoch in history), 2),
        }

        if stage.missed:
            entry["missed"] = stage.missed
            share = sum(stage.missed.values())
            self.show.line(f"{unit.title}: not reached: {_named(stage.missed)}, {share:.1f} % of the parameters")
        if stage.left_out:
            entry["left_out"] = stage.left_out
            self.show.line(f"{unit.title}: left out: {_named(stage.left_out)}: {next(iter(stage.left_out.values()))}")
        if gone:
            entry["collapsed"] = gone
            self.show.line(f"{unit.title}: collapsed: {', '.join(gone)}")

        self.stages.append(entry)


def _named(targets: Collection[str]) -> str:
    """Return the first few of some names, for one line."""
    first = ", ".join(itertools.islice(targets, 3))
    return first if len(targets) <= 3 else f"{first} and {len(targets) - 3} more"


def _report(stage: Stage) -> dict[str, float]:
    """Return what the methods report, each number prefixed with its method."""
    found: dict[str, float] = {}
    for name, call in stage.manager.each("report"):
        found |= {f"{name}.{key}": value for key, value in check_report(stage, name, call(stage=stage)).items()}
    return found


def reported(stages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what the methods of all stages reported, by method; of one that acts in several stages, the last."""
    found: dict[str, dict[str, float]] = {}
    for stage in stages:
        for path, value in stage["report"].items():
            method, _, name = path.partition(".")
            found.setdefault(method, {})[name] = value
    return found


def _close(stage: Stage) -> None:
    """Take off what belongs to this stage, and check what its transforms promised.

    :raises MethodError: naming the first promise that is broken.
    """
    vars(stage).pop("surgeon", None)  # it holds the stage: neither would go, nor the nets
    for player in stage.players.values():
        player.taps.remove()
        player.memory = None
        detach_temporary(player.module)
        player.helpers.clear()
        player.thaw()
        stage.changed(player.name)
        player.module.zero_grad(set_to_none=True)
        wrong = broken_promises(player.module)
        if wrong:
            raise MethodError(f"stage {stage.name!r}, player {player.name!r}: {wrong[0]}")
