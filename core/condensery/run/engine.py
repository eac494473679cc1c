"""The engine: runs a recipe from its first stage to the report, and goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from condensery.contract import DEFAULTS, STAGE_HOOKS, Registry
from condensery.errors import MethodError, UsageError
from condensery.files import cache_dir
from condensery.measure import counts, dense_bytes, environment, evaluate, known_quality, measure, ratios, versions
from condensery.nets import WEIGHTED, broken_promises, clone, detach_temporary, frozen
from condensery.recipe import (
    BaseSpec,
    ModelSpec,
    Recipe,
    StageSpec,
    TrainSpec,
    Unit,
    check_conditions,
    checked,
    fingerprint,
    holds,
    merge,
    unroll,
    variables,
)
from condensery.run.cast import Cast, Net
from condensery.run.folder import ARTIFACT, NET, ORIGINAL, PROGRESS, RunFolder
from condensery.run.opening import Opener, check_settings
from condensery.run.progress import Observer, Progress
from condensery.run.resume import lay_progress, progress_of
from condensery.run.stage import Stage
from condensery.storage import CHECKPOINT_FORMAT, Baked, bake, load_tree, save_artifact, save_tree
from condensery.tasks import build_task

SIZES = ("sparsity", "parameters", "nonzeros")
"""What a round's ``until`` may ask about, besides the task's metrics."""


class Run:
    """One run of one recipe.

    :param out: folder for the report, the log and the checkpoints.
    :param device: ``cpu``, ``cuda``, or ``auto``.
    :param resume: go on with what ``out`` holds; refused if it holds another recipe.
    :param tier: noted in the report.
    :param observer: is told how the run goes; the dry run before it tells nothing.

    Afterwards ``baked`` holds the compressed net, which is also in the out folder's artifact.
    """

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        *,
        out: Path,
        device: str = "auto",
        resume: bool = False,
        tier: str | None = None,
        show: Progress | None = None,
        observer: Observer | None = None,
        dry: bool = False,
    ) -> None:
        self.recipe, self.registry, self.tier = recipe, registry, tier
        self.folder = RunFolder(Path(out), resume=resume)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(f"device {device!r}: no CUDA device here; say --device cpu")
        self.device = torch.device("cpu" if dry else device)
        self.dry = dry
        self.show = show or Progress(quiet=True)
        self.observer = observer or Observer()
        self.task = build_task(recipe.task, registry)
        self.stages: list[dict[str, Any]] = []
        self.decisions: dict[str, Any] = {}
        self.cast = Cast(recipe, registry, self.task, self.device, self.folder, self._trained, dry=dry)
        self.opener = Opener(self.cast)
        self.baked: Baked | None = None
        self._checked = False
        self._calls: list[dict[str, Any]] = []

    # ---------------------------------------------------------------- what a user calls

    def check(self) -> None:
        """Run the whole recipe dry, on a copy with two batches a stage: everything that can be wrong fails here.

        :raises CondenseryError: with one line; nothing was trained or written.
        """
        if self._checked:
            return
        check_conditions(self.recipe.stages, [*SIZES, *(m.name for m in self.task.metrics)])
        check_settings(self.recipe.stages, self.registry)
        dry = Run(self.recipe, self.registry, out=self.folder.path, device="cpu", dry=True)
        with torch.random.fork_rng(devices=[]):
            net = Net(dry.cast.build(self.recipe.model), self.recipe.model)
            dry.cast.snapshots["original"] = Net(frozen(clone(net.module)), net.spec)
            for _ in dry._units(net):
                pass
            dry.cast.described(Net(bake(net.module, self.registry).net, net.spec))  # refuses what can't be saved
        self._calls = dry._calls
        self._checked = True

    def explain(self) -> dict[str, Any]:
        """Return the resolved recipe and, for each stage, which methods each hook calls, in call order."""
        self.check()
        return {"recipe": self.recipe.dump(), "stages": self._calls}

    def execute(self) -> dict[str, Any]:
        """Run the recipe and return the report, which is also ``report.json`` in the out folder."""
        self.folder.check(self.recipe.dump())
        done = self.folder.report()
        if done is not None:
            return done
        self.check()  # before the folder exists: a bad recipe leaves nothing behind
        self.folder.write("recipe.json", self.recipe.dump())
        self.show.line(f"model {self.recipe.model.key}, task {self.recipe.task.key}, on {self.device}")
        net = self._original()
        before = self._before(net)
        for _ in self._units(net):
            pass
        baked = bake(net.module, self.registry)
        sizes = save_artifact(
            self.folder.path / ARTIFACT, baked, net.spec, self.task.facts, self.registry, task=self.recipe.task
        )
        self.baked = baked
        after = measure(self.task, baked.net, self.device, bytes=sizes.file, bits=baked.bits)
        after["storage"] = sizes.dump() | {"weights_moved": baked.moved}
        report = {
            "recipe": self.recipe.dump(),
            "seed": self.recipe.seed,
            "tier": self.tier,
            "device": str(self.device),
            "versions": versions(),
            "environment": environment(),
            "before": before,
            "after": after,
            "ratios": ratios(before, after),
            "artifact": ARTIFACT,
            "stages": self.stages,
            "wall_s": round(sum(s["wall_s"] for s in self.stages), 2),
        }
        self.folder.finish(report)
        return report

    def _before(self, net: Net) -> dict[str, Any]:
        """Measure the net at the recipe's start; a trained one's quality may be known."""
        fresh = not (self.recipe.trains_first or net.spec.weights)
        before = measure(self.task, net.module, self.device, bytes=dense_bytes(net.module), quality=fresh)
        if not fresh:
            before["quality"] = known_quality(self.task, net.module, net.spec.model_dump(mode="json"), self.device)
        return before

    # ---------------------------------------------------------------- nets

    def _original(self) -> Net:
        """Return the net at the recipe's start, trained where it came without trained weights."""
        saved = self.folder.load(ORIGINAL)
        if saved is not None:
            net = self.cast.rebuilt(saved["net"])
            self.stages = saved["stages"]
        elif self.recipe.trains_first:
            net = self._based(self.recipe.model, "base")
        else:
            net = Net(self.cast.build(self.recipe.model).to(self.device), self.recipe.model)
        self.cast.snapshots["original"] = Net(frozen(clone(net.module)), net.spec)
        if saved is None:
            self.folder.save(ORIGINAL, {"net": self.cast.described(net), "stages": self.stages})
        return net

    def _trained(self, spec: ModelSpec, label: str) -> Net:
        """Return a teacher's net with its own trained weights, or one that the task's base recipe trains first."""
        if self.dry or spec.weights:
            return Net(self.cast.build(spec).to(self.device), spec)
        return self._based(spec, label)

    def _based(self, spec: ModelSpec, label: str) -> Net:
        """Return a net that the base recipe has trained, from the spec's weights where it has any (cached)."""
        over = {} if self.recipe.base == "none" else self.recipe.base
        train = checked(BaseSpec, merge(self.task.base, over), "base")
        seed = self.recipe.seed if train.seed is None else train.seed
        identity = {
            "format": CHECKPOINT_FORMAT,
            "task": self.task.describe(),
            "data": self.recipe.data.model_dump(mode="json"),
            "model": spec.model_dump(mode="json"),
            "train": train.model_dump(mode="json", exclude={"seed"}),
            "seed": seed,
        }
        path = cache_dir() / "nets" / f"{fingerprint(identity)}.safetensors"
        if path.is_file():
            saved = load_tree(path)
            self.show.line(f"{label}: {spec.key} trained before, taken from the cache")
            self.stages.append({**saved["stage"], "cached": True})
            return Net(self.cast.rebuilt(saved["net"]).module, spec)
        run = self if seed == self.recipe.seed else self._seeded(seed)
        net = Net(run.cast.build(spec).to(self.device), spec)
        run._run(Unit(label, StageSpec(name=label)), net, train)
        if run is not self:
            self.stages.append(run.stages[-1])
        # Tensors under one name belong to one recipe: what else changes the result is part of the fingerprint.
        save_tree(path, {"net": self.cast.described(net), "stage": self.stages[-1]})
        return net

    def _seeded(self, seed: int) -> Run:
        """Return this run with another seed."""
        recipe = self.recipe.model_copy(update={"seed": seed})
        return Run(
            recipe,
            self.registry,
            out=self.folder.path,
            device=str(self.device),
            resume=self.folder.resume,
            show=self.show,
            observer=self.observer,
        )

    # ---------------------------------------------------------------- units

    def _units(self, net: Net) -> Iterator[Unit]:
        """Run every unit in order; ``net`` is replaced in place by each one's student."""
        done = self._load_run(net)
        seen_pass: set[str] = set()
        for unit in unroll(
            self.recipe.stages,
            decide=self._decide,
            layers=lambda: self._layers(net),
            holds=lambda condition: self._holds(condition, net),
        ):
            if self.dry:
                key = f"{unit.spec.name}:{min(unit.round, 1)}"
                if key in seen_pass:
                    continue  # a later pass of the same stage meets nothing that the second didn't
                seen_pass.add(key)
            if unit.id in done:
                continue
            self._run(unit, net, self.recipe.train_of(unit.spec))
            if not self.dry:
                run = {"stages": self.stages, "decisions": self.decisions}
                self.folder.save(NET, {**self.cast.described(net), "optimizer": net.optimizer, "run": run})
                self.folder.drop(PROGRESS)
            yield unit

    def _load_run(self, net: Net) -> set[str]:
        """Lay the last finished unit's net over ``net``; returns the units that are done."""
        saved = None if self.dry else self.folder.load(NET)
        if saved is None:
            return set()
        found = self.cast.rebuilt(saved)
        net.module, net.spec, net.optimizer = found.module, found.spec, saved["optimizer"]
        self.stages, self.decisions = saved["run"]["stages"], saved["run"]["decisions"]
        self.cast.recall()
        return {s["unit"] for s in self.stages}

    def _decide(self, key: str, ask: Any) -> Any:
        if key not in self.decisions:
            answer = ask()
            if self.dry:
                return answer[:2] if isinstance(answer, list) else True
            self.decisions[key] = answer
        return self.decisions[key]

    @staticmethod
    def _layers(net: Net) -> list[str]:
        return [p for p, m in net.module.named_modules() if isinstance(m, WEIGHTED)]

    def _holds(self, condition: str, net: Net) -> bool:
        size = counts(net.module)
        names: dict[str, float] = {"sparsity": 1 - size["nonzeros"] / size["parameters"], **size}
        metrics = {m.name for m in self.task.metrics}
        if self.dry:
            names |= dict.fromkeys(metrics, 50.0)  # stands in for a figure that would take a whole test split
        elif metrics & variables(condition):
            names |= evaluate(self.task, net.module, self.device)
        return holds(condition, names)

    def _run(self, unit: Unit, net: Net, train: TrainSpec) -> None:
        """Run one stage; ``net`` becomes its student."""
        started = time.time()
        stage = self.opener.open(unit, train, net)
        saved = None if self.dry else self.folder.load(PROGRESS)
        history = lay_progress(stage, saved) if saved is not None and saved["unit"] == unit.id else []
        if self.dry:
            self._explain(stage)
        self._epochs(stage, unit, history)
        stage.manager.call("end_stage", stage=stage)
        reports = self._reports(stage)
        self._close(stage)
        self.observer.stage_ended(stage)
        self.cast.remember(stage)
        student = stage.student
        net.module, net.spec, net.optimizer = student.module, student.spec, student.optimizer_state()
        entry = {"name": unit.title, "unit": unit.id, "methods": list(stage.manager.methods), "epochs": stage.epochs}
        wall = sum(h["wall_s"] for h in history)
        self.stages.append({**entry, "history": history, "report": reports, "wall_s": round(wall, 2)})
        if not self.dry:
            self.folder.log({"stage": unit.title, "unit": unit.id, "report": reports, "wall_s": time.time() - started})

    def _epochs(self, stage: Stage, unit: Unit, history: list[dict[str, Any]]) -> None:
        steps = stage.steps_per_epoch
        self.show.start(unit.title, steps * stage.epochs)
        self.show.advance(steps * stage.epoch)
        for epoch in range(stage.epoch, stage.epochs):
            stage.epoch = epoch
            started = time.time()
            for player in stage.players.values():
                player.module.train(player.trains)
            self._steps(stage)
            stage.check_finite()
            stage.manager.call("after_epoch", stage=stage)
            if self.dry:
                continue
            quality = evaluate(self.task, stage.student.module, self.device)
            done = max(1, min(steps, stage.step))
            terms = {n: float(v) / done for n, v in stage.sums.items()}
            history.append(
                {
                    "epoch": stage.epoch + 1,
                    "terms": terms,
                    "quality": quality,
                    "wall_s": round(time.time() - started, 2),
                }
            )
            stage.sums.clear()
            main = self.task.metrics[0]
            note = f"{main.name} {quality[main.name]:.2f} {main.unit}"
            self.show.epoch(unit.title, stage.epoch + 1, stage.epochs, note)
            self.folder.log({"stage": unit.title, **history[-1]})
            self._save_progress(stage, unit, history)
            self.observer.epoch_ended(stage, history)
            self.cast.remember(stage, epoch=stage.epoch + 1)

    def _save_progress(self, stage: Stage, unit: Unit, history: list[dict[str, Any]]) -> None:
        self.folder.save(PROGRESS, {"unit": unit.id, **progress_of(stage, history)})

    def _steps(self, stage: Stage) -> None:
        limit = stage.train.max_steps
        batches = stage.manager.call("batches", stage=stage)
        for number, batch in enumerate(batches):
            if limit is not None and number >= limit:
                break
            stage.set_rates()
            stage.manager.call("before_step", stage=stage, batch=batch)
            stage.manager.call("training_step", stage=stage, batch=batch)
            stage.step += 1
            self.show.advance()

    def _reports(self, stage: Stage) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, call in stage.manager.each("report"):
            found |= {f"{name}.{k}": float(v) for k, v in (call(stage=stage) or {}).items()}
        return found

    def _close(self, stage: Stage) -> None:
        """Take off what belongs to this stage, and check what its transforms promised."""
        for player in stage.players.values():
            player.taps.remove()
            detach_temporary(player.module)
            stage.changed(player.name)
            player.module.zero_grad(set_to_none=True)
            wrong = broken_promises(player.module)
            if wrong:
                raise MethodError(f"stage {stage.name!r}, player {player.name!r}: {wrong[0]}")

    def _explain(self, stage: Stage) -> None:
        calls = {h: [n for n in stage.manager.order(h) if n != DEFAULTS] for h in STAGE_HOOKS}
        players = {n: "trains" if p.trains else "frozen" for n, p in stage.players.items()}
        entry = {"name": stage.name, "methods": list(stage.manager.methods), "players": players}
        self._calls.append({**entry, "calls": {h: names for h, names in calls.items() if names}})
