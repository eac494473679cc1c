"""The engine: runs a recipe from its first stage to the report, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from condensery.contract import DEFAULTS, STAGE_HOOKS, Registry
from condensery.errors import NonFiniteNet
from condensery.measure import (
    Precision,
    counts,
    dense_bytes,
    environment,
    known_quality,
    measure,
    ratios,
    versions,
)
from condensery.nets import Reach, weights_of
from condensery.recipe import Recipe, TrainSpec, check_conditions, holds, unroll, variables
from condensery.run.base import Base
from condensery.run.builder import Builder, Net
from condensery.run.called import refuse_uncalled
from condensery.run.cast import Cast, give_teachers
from condensery.run.collapse import marks, refuse_broken
from condensery.run.devices import find_device
from condensery.run.folder import ARTIFACT, NET, ORIGINAL, PROGRESS, RunFolder
from condensery.run.opening import Opener, check_settings
from condensery.run.processes import ALONE, Processes
from condensery.run.progress import Observer, Progress
from condensery.run.search import Budget
from condensery.run.snapshots import Snapshots
from condensery.run.stage import Stage
from condensery.run.trials import try_artifact, try_metrics
from condensery.run.unit import UnitRunner, reported
from condensery.run.validation import Validation, held_out, methods_ask, precision_of, with_validation
from condensery.storage import Baked, bake, read, save_artifact
from condensery.tasks import Batch, build_task, generators_kept

SIZES = ("sparsity", "parameters", "nonzeros")
"""What a round's ``until`` may ask about, besides the task's metrics."""


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the dry run of a recipe found: another run of the same recipe, with the same plugins, needs none of its own.

    :param recipe: that was checked, as plain data.
    :param calls: for each stage, which methods each hook calls.
    :param at_times: layers that aren't called in every pass, and when they are, in words.
    """

    recipe: dict[str, Any]
    calls: list[dict[str, Any]]
    at_times: dict[str, str]


class Run:
    """One run of one recipe.

    :param out: folder for the report, the log and the checkpoints.
    :param device: ``cpu``, ``cuda``, or ``auto``.
    :param resume: go on with what ``out`` holds; refused if it holds another recipe.
    :param tier: noted in the report.
    :param observer: is told how the run goes; the dry run before it tells nothing.
    :param dry: play two batches a stage and write nothing, see :meth:`check`.
    :param checked: what :meth:`check` returned for another run of this recipe.
    :param budget: evaluate a trial of a search: on validation, not on test; ``quick``: on one batch of it.

    Where torchrun started several processes, they play the run together (:class:`Processes`), and the first one writes.
    Afterwards ``baked`` holds the compressed net, which is also in the out folder's artifact; the first process has it.
    """

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        *,
        out: Path,
        device: str | torch.device = "auto",
        resume: bool = False,
        tier: str | None = None,
        show: Progress | None = None,
        observer: Observer | None = None,
        dry: bool = False,
        checked: Checked | None = None,
        budget: Budget | None = None,
    ) -> None:
        recipe, self._teachers_given = give_teachers(recipe, registry)
        self.registry, self.tier, self.dry = registry, tier, dry
        self.device = torch.device("cpu") if dry else find_device(device)
        self.processes = ALONE if dry else Processes.joined()
        self.folder = RunFolder(Path(out), self.processes, resume=resume)
        self.show = show if show and self.processes.first else Progress(quiet=True)
        self.task = build_task(recipe.task, registry)
        observer = observer or Observer()
        asked = observer.asks_quality or methods_ask(recipe, registry)
        self.recipe = recipe = with_validation(recipe, self.task, asked=asked)
        limit = 1 if budget == "quick" else None
        share = held_out(recipe, self.task)
        self.validation = Validation(self.task, self.device, share, limit) if recipe.validation else None
        self._tested = "test" in self.task.splits and budget is None

        # From what only builds nets to what gives them roles; each knows those before it, and none those after it.
        self.builder = Builder(self.task, registry, self.device, recipe.seed)
        self.snapshots = Snapshots(recipe, self.builder, self.folder, dry=dry)
        opener = Opener(recipe, self.builder, self.processes, dry=dry)
        self.runner = UnitRunner(opener, self.folder, self.snapshots, self.show, observer, dry, self.validation)
        self.base = Base(recipe, self.builder, self.runner)
        self.cast = Cast(self.builder, self.base, self.snapshots, dry)

        self.net: Net
        self.decisions: dict[str, Any] = {}
        self.baked: Baked | None = None
        self._checked = checked if checked is not None and checked.recipe == recipe.dump() else None
        self._calls: list[dict[str, Any]] = []
        self._started = 0.0

    @property
    def stages(self) -> list[dict[str, Any]]:
        """What each stage came to, in order, base training included."""
        return self.runner.stages

    # ---------------------------------------------------------------- what a user calls

    def check(self) -> Checked:
        """Run the whole recipe dry, on a copy with two batches a stage: everything that can be wrong fails here.

        :raises CondenseryError: with one line; nothing was trained or written.
        """
        if self._checked is not None:
            return self._checked
        check_conditions(self.recipe.stages, [*SIZES, *(m.name for m in self.task.metrics)])
        check_settings(self.recipe.stages, self.registry)

        dry = Run(self.recipe, self.registry, out=self.folder.path, device="cpu", dry=True)
        dry.builder.graphs = self.builder.graphs
        with generators_kept():
            dry.net = dry.builder.net(self.recipe.model)
            refuse_broken(dry.net.module)
            dry.snapshots.keep("original", dry.net)
            dry._play()
            batches = [Batch(self.task.example(2)), *dry.runner.tried]
            at_times = refuse_uncalled(dry.net.module, self.task.outputs, batches)
            try_metrics(self.task, try_artifact(dry.net, dry.builder), self._precision)
        self._checked = Checked(self.recipe.dump(), dry._calls, at_times)
        return self._checked

    def explain(self) -> dict[str, Any]:
        """Return the resolved recipe and, for each stage, which methods each hook calls, in call order."""
        return {"recipe": self.recipe.dump(), "stages": self.check().calls}

    def execute(self) -> dict[str, Any]:
        """Run the recipe and return the report, which is also ``report.json`` in the out folder.

        :raises CondenseryError: with one line; the folder keeps what is done, and nothing if the recipe was wrong.
        :raises ArtifactError: of a run that has ended, if its artifact is gone or damaged.
        """
        self.folder.check(self.recipe.dump())
        done = self.folder.report()
        if done is not None:
            if "artifact" in done:  # not of a trial that diverged; what was lost since then is named
                read(self.folder.path / done["artifact"], self.builder.registry)
            return done

        self._started = time.monotonic()
        self.check()  # before the folder exists: a bad recipe leaves nothing behind
        with self.folder.claimed(self.recipe.dump()):
            return self.folder.report() or self._execute()

    def _execute(self) -> dict[str, Any]:
        """Run the recipe in a folder that is this run's own."""
        self.folder.write("recipe.json", self.recipe.dump())
        self.show.line(f"model {self.recipe.model.key}, task {self.recipe.task.key}, on {self.device}")
        for line in self._teachers_given:
            self.show.line(line)

        self.net = self._original()
        before = self._before()
        self._play()
        if not self.processes.first:
            return self.folder.awaited()
        report = self._report(before)
        self.folder.finish(report)
        return report

    @property
    def _precision(self) -> Precision:
        """How the reported nets are evaluated."""
        return precision_of(self._train, self.device)

    @property
    def _train(self) -> TrainSpec:
        """How the recipe trains where a stage doesn't say otherwise."""
        return TrainSpec.model_validate(self.recipe.train)

    # ---------------------------------------------------------------- before the first stage and after the last

    def _original(self) -> Net:
        """Return the net at the recipe's start, trained where it came without trained weights."""
        saved = self.folder.load(ORIGINAL)
        if saved is not None:
            net = self.builder.rebuilt(saved["net"])
            self.runner.stages = saved["stages"]
        elif self.recipe.trains_first:
            net = self.base.trained(self.recipe.model, "base")
        else:
            net = self.builder.net(self.recipe.model)

        self.snapshots.keep("original", net)
        if saved is None:
            self.folder.save(ORIGINAL, {"net": self.builder.described(net), "stages": self.stages})
        return net

    def _before(self) -> dict[str, Any]:
        """Measure the net at the recipe's start; a trained one's quality may be known, an untrained one has none."""
        net = self.net
        before = measure(self.task, net.module, self.device, bytes=dense_bytes(net.module), quality=False)
        trained = self.recipe.trains_first or net.spec.weights
        if trained and self._tested:
            identity = self.builder.identity(net.spec)
            before["quality"] = known_quality(self.task, net.module, identity, self.device, self._precision)
        check_quality(before.get("quality", {}), "at the recipe's start")
        return before

    def _report(self, before: dict[str, Any]) -> dict[str, Any]:
        """Bake the net, save it as the artifact, measure it and return the report."""
        for graph in self.builder.graphs:
            graph.close()
        self.builder.graphs.clear()
        self.baked = baked = bake(self.net.module, self.registry)
        self.net = Net(baked.net, self.net.spec)  # so that the weights behind transforms may go

        collapsed = marks(self.stages)
        after = self._after(baked, collapsed)
        watched = self.validation
        return {
            "recipe": self.recipe.dump(),
            "evaluation": dataclasses.asdict(self._precision),
            "validation": {} if watched is None else watched.quality(baked.net, self._train),
            "seed": self.recipe.seed,
            "tier": self.tier,
            "device": str(self.device),
            "processes": self.processes.count,
            "versions": versions(),
            "environment": environment(),
            "before": before,
            "after": after,
            "training": trained(self.stages),
            "ratios": ratios(before, after),
            "artifact": ARTIFACT,
            "collapsed": collapsed,
            "called_at_times": self.check().at_times,
            "stages": self.stages,
            "reported": reported(self.stages),
            "wall_s": round(self._seconds(), 2),
        }

    def _seconds(self) -> float:
        """Return what the whole run took: here, and in epochs that a cache or an interrupted run brought."""
        epochs: float = sum(stage["wall_s"] for stage in self.stages)
        return time.monotonic() - self._started + epochs - self.runner.seconds

    def _after(self, baked: Baked, collapsed: list[dict[str, Any]]) -> dict[str, Any]:
        """Save a baked net as the run's artifact, and measure both.

        :param collapsed: what the stages report of layers that died.
        """
        path, facts = self.folder.path / ARTIFACT, self.task.facts
        task = self.recipe.task
        sizes = save_artifact(path, baked, self.net.spec, facts, self.registry, task=task, collapsed=collapsed)

        after = measure(
            self.task,
            baked.net,
            self.device,
            bytes=sizes.file,
            bits=baked.bits,
            quality=self._tested,
            precision=self._precision,
        )
        check_quality(after.get("quality", {}), "at the recipe's end")
        return after | {"storage": sizes.dump() | {"weights_moved": baked.moved}}

    # ---------------------------------------------------------------- through the recipe

    def _play(self) -> None:
        """Play every unit that isn't done yet, in order; ``net`` becomes each one's student."""
        done = self._resumed()
        met: set[str] = set()
        for unit in unroll(self.recipe.stages, decide=self._decide, layers=self._layers, holds=self._holds):
            # In a dry run a later pass of the same stage meets nothing that the second didn't.
            passed = f"{unit.spec.name}:{min(unit.round, 1)}"
            if unit.id in done or (self.dry and passed in met):
                continue
            met.add(passed)

            train = self.recipe.train_of(unit.spec)
            stage = self.runner.play(unit, train, self.cast.players(unit, self.net), self.recipe.seed)
            self.net = Net.of(stage.student)
            if self.dry:
                # Refuses what a checkpoint can't hold, before anything trains.
                self.builder.described(self.net)
                self._calls.append(calls_of(stage))
            else:
                self._save()

    def _save(self) -> None:
        """Save the net between two units, and how the run came to it."""
        run = {"stages": self.stages, "decisions": self.decisions, "snapshots": self.snapshots.files}
        self.folder.save(NET, {**self.builder.described(self.net), "run": run})
        self.folder.drop(PROGRESS)
        self.snapshots.tidy()

    def _resumed(self) -> set[str]:
        """Take up the net that the last finished unit of an interrupted run left; returns the units that are done."""
        files: dict[str, str] = {}
        saved = self.folder.load(NET)
        if saved is not None:
            self.net = self.builder.rebuilt(saved)
            self.runner.stages, self.decisions = saved["run"]["stages"], saved["run"]["decisions"]
            files = saved["run"].get("snapshots", {})
        done = {stage["unit"] for stage in self.stages} if saved is not None else set()

        # A run that was stopped inside a stage may have kept nets of its epochs as well.
        progress = self.folder.load(PROGRESS)
        if progress is not None and progress["unit"] not in done:
            files = progress.get("snapshots", files)
        self.snapshots.recall(files)
        return done

    # ---------------------------------------------------------------- what rounds ask

    def _decide(self, key: str, ask: Callable[[], Any]) -> Any:
        """Return what was decided at this place of the recipe, the first time by asking; a dry run keeps it short."""
        if key not in self.decisions:
            answer = ask()
            if self.dry:
                return answer[:2] if isinstance(answer, list) else True
            self.decisions[key] = answer
        return self.decisions[key]

    def _layers(self) -> list[str]:
        """Return the paths of the layers that a round over layers goes through."""
        return list(dict.fromkeys(weights_of(self.net.module, reach=Reach.of(self.registry)).paths))

    def _holds(self, condition: str) -> bool:
        """Tell whether a round's ``until`` holds for the net as it is now."""
        size = counts(self.net.module)
        names: dict[str, float] = {"sparsity": 1 - size["nonzeros"] / size["parameters"], **size}
        metrics = {m.name for m in self.task.metrics}
        if self.dry:
            names |= dict.fromkeys(metrics, 50.0)  # stands in for a figure that would take a whole test split
        elif metrics & variables(condition):
            assert self.validation is not None  # a condition that asks for quality turned it on
            names |= self.validation.quality(self.net.module, self._train)
        return holds(condition, names)


def trained(stages: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the task's loss in the last epoch of the last stage that trained, and the bytes that a worker sent there.

    :param stages: what the units of a run came to.
    """
    last: Mapping[str, Any] = next((stage for stage in reversed(stages) if stage["history"]), {})
    terms = last["history"][-1]["terms"] if last else {}
    return {"loss": terms.get("student.task"), **last.get("exchanged", {})}


def check_quality(quality: Mapping[str, float], when: str) -> None:
    """Refuse a net whose outputs are no numbers: no report shows one as a success.

    :raises NonFiniteNet: naming the metric.
    """
    for name, value in quality.items():
        if not math.isfinite(value):
            raise NonFiniteNet(f"the net's {name} is {value} {when}: its weights or outputs are not finite")


def calls_of(stage: Stage) -> dict[str, Any]:
    """Return which methods each hook of a stage calls, in call order, and who plays."""
    calls = {hook: [name for name in stage.manager.order(hook) if name != DEFAULTS] for hook in STAGE_HOOKS}
    return {
        "name": stage.name,
        "methods": list(stage.manager.methods),
        "players": {name: "trains" if player.trains else "frozen" for name, player in stage.players.items()},
        "calls": {hook: names for hook, names in calls.items() if names},
    }
