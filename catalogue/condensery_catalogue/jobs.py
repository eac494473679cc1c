"""The jobs of a tier: the trials of its grid, then the runs that count, each one run in a folder of its own.

Whatever ends them, a budget, a kill or a machine that is taken away, they go on later from what the folders hold.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensery.contract import Registry
from condensery.errors import NonFiniteLoss, UsageError
from condensery.files import damaged, read_json
from condensery.measure import versions
from condensery.recipe import Recipe
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduction import Reproduction, Tier
from condensery_catalogue.tuning import choose, combinations

if TYPE_CHECKING:
    from condensery.run import Progress

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: an arm of a tier with one seed.

    :param trial: which combination of the grid it tries; ``None`` for a run that counts.
    :param folder: its own, which holds report, log and checkpoints.
    """

    key: str
    tier: str
    arm: str
    seed: int
    trial: int | None
    folder: Path

    @property
    def title(self) -> str:
        """How it is named where it is shown."""
        tried = "" if self.trial is None else f", trial {self.trial}"
        return f"{self.key}, {self.tier}, seed {self.seed}, {self.arm}{tried}"

    @property
    def has_ended(self) -> bool:
        """Whether its report is there; :meth:`Jobs.report` looks into it."""
        return (self.folder / "report.json").is_file()


class Jobs:
    """All jobs of one tier, below one folder: iterate over them in the order in which they can be played.

    :param tier: the tier's name, and ``chosen`` the tier itself.
    :param seeds: how many runs of an arm count; ``None``: as many as the tier says. The tier's own seeds come first, as
        it may have reasons for them, then those above. Trials have the first one.
    """

    def __init__(
        self,
        registry: Registry,
        plan: Reproduction,
        chosen: Tier,
        tier: str,
        folder: Path,
        seeds: int | None = None,
    ) -> None:
        self.registry, self.plan, self.chosen, self.tier, self.folder = registry, plan, chosen, tier, folder
        above = chain(chosen.seeds, count(max(chosen.seeds) + 1))
        self.seeds = list(islice(above, len(chosen.seeds) if seeds is None else seeds))
        self._combinations = combinations(chosen.grid) if chosen.grid else []

    def __iter__(self) -> Iterator[Job]:
        for arm in self.chosen.arms:
            yield from self.trials(arm)
        for seed in self.seeds:
            for arm in self.chosen.arms:
                if self.chosen.plays(arm, seed == self.seeds[0]):
                    yield self.job(arm, seed)

    def ready(self, card: Mapping[str, Any]) -> Tier:
        """Return the tier with its figure's labels filled in, once every name in it was looked up.

        :raises UnknownKey: for a claim, an arm or a metric that isn't there, naming the nearest.
        """
        recipes = self.chosen.recipes(self.plan.key)
        return self.plan.ready(self.chosen, card, {arm: measures(self.registry, r) for arm, r in recipes.items()})

    def job(self, arm: str, seed: int, trial: int | None = None) -> Job:
        """Return one job."""
        place = Path(f"seed{seed}", arm) if trial is None else Path("grid", arm, str(trial))
        return Job(self.plan.key, self.tier, arm, seed, trial, self.folder / place)

    def trials(self, arm: str) -> list[Job]:
        """Return the trials of an arm, none where there is no grid, or where it follows another arm."""
        tried = self._combinations if self.chosen.leader(arm) == arm else []
        return [self.job(arm, self.seeds[0], number) for number in range(len(tried))]

    def is_ready(self, job: Job) -> bool:
        """Tell whether a job can be played: one that counts waits for the trials that decide on its values."""
        return job.trial is not None or all(t.has_ended for t in self.trials(self.chosen.leader(job.arm)))

    def recipe(self, job: Job) -> Recipe:
        """Return the recipe of a job, with its seed and the names that a report keeps.

        A trial holds out a share of the training data; a run that counts has the values that did best on it, or its own
        where all trials diverged.
        """
        names: dict[str, Any] = {"seed": job.seed, "paper": self.plan.card, "name": f"{self.plan.key}:{job.arm}"}
        if job.trial is not None:
            names["validation"] = self.chosen.held_out
        return self.chosen.recipe(self.plan.key, job.arm, self._values(job)).model_copy(update=names)

    def _values(self, job: Job) -> dict[str, Any] | None:
        """Return the values of the grid that a job has, ``None`` for one that counts where all trials diverged."""
        if not self._combinations:
            return {}
        if job.trial is not None:
            return self._combinations[job.trial]
        chosen: dict[str, Any] | None = self.choice(self.chosen.leader(job.arm))["chosen"]
        return chosen

    def report(self, job: Job) -> Report | None:
        """Return the report of a job that has ended; see :func:`finished`."""
        return finished(job.folder, self.recipe(job)) if job.has_ended else None

    def play(self, job: Job, device: str, show: Progress | None = None) -> Report:
        """Run a job from where an earlier call left it, unless it has ended; return its report.

        A trial never sees the test data. What diverges has a report too, which says so: it isn't tried again, and the
        other arms don't wait for it.
        """
        from condensery.run import Run

        # One that has ended is only read, and what a kill left beside its report is removed.
        ended, recipe = self.report(job), self.recipe(job)
        begun = ended is not None or (job.folder / "recipe.json").is_file()
        run = Run(
            recipe,
            self.registry,
            out=job.folder,
            device=device,
            resume=begun,
            tier=self.tier,
            show=show,
            budget=None if job.trial is None else "full",
        )
        nothing_ran = ended is None and self._values(job) is None
        why = "every setting of the grid diverged" if nothing_ran else ""
        if not why:
            try:
                return run.execute()
            except NonFiniteLoss as error:
                why = str(error)
        report = {
            "recipe": recipe.dump(),
            "seed": job.seed,
            "versions": versions(),
            "validation": None,
            "diverged": why,
        }
        run.folder.finish(report)
        return report

    def choice(self, arm: str) -> dict[str, Any]:
        """Return what an arm's trials came to, and which values it gets, if any; all of them must have ended."""
        task = self.chosen.recipe(self.plan.key, arm).task.key
        metric = self.registry.load("tasks", task).metrics[0]
        said = [(self.report(trial) or {})["validation"] for trial in self.trials(arm)]
        scores = [None if found is None else found[metric.name] for found in said]
        return choose(self.chosen.grid, metric, scores)

    def choices(self) -> dict[str, dict[str, Any]]:
        """Return the choice of every arm that has trials."""
        return {arm: self.choice(arm) for arm in self.chosen.arms if self.trials(arm)}

    def reports(self) -> dict[str, list[Report]]:
        """Return the reports of every arm, one for each of its seeds; all jobs must have ended."""
        found: dict[str, list[Report]] = {arm: [] for arm in self.chosen.arms}
        for job in self:
            if job.trial is None and (report := self.report(job)) is not None:
                found[job.arm].append(report)
        return found


def finished(folder: Path, recipe: Recipe) -> Report | None:
    """Return the report of a run that has ended, if the folder holds it.

    :raises ArtifactError: if the report is damaged.
    :raises UsageError: if it is that of another recipe, or was made with other versions: figures aren't mixed.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None
    report: Report = read_json(path, f"remove {folder} to run it again")
    try:
        known, made_with = report["recipe"], report["versions"]
    except (KeyError, TypeError) as error:
        raise damaged(path, error, f"remove {folder} to run it again") from None

    if known != json.loads(json.dumps(recipe.dump())):
        raise UsageError(f"{folder} holds a run of another recipe; say another --out")
    changed = [name for name, version in versions().items() if made_with.get(name) != version]
    if changed:
        raise UsageError(f"{folder} was made with another version of {', '.join(changed)}; say another --out")
    return report
