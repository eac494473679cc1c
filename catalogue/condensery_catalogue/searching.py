"""``search``: an outer loop over a recipe, from a file that says what may be set to a table of what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import yaml

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError, cut
from condensery.recipe import (
    Recipe,
    apply_overrides,
    checked,
    line_of,
    load_text,
    parse_model,
    parse_recipe,
    set_values,
)
from condensery.run import check_device
from condensery_catalogue.app import waited_for
from condensery_catalogue.generated import write_text
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.metrics import measures
from condensery_catalogue.running import (
    RunOptions,
    free_folder,
    kept_if_used,
    quiet_libraries,
    recipe_data,
    stoppable,
)

if TYPE_CHECKING:
    from condensery.run import RecipeTrials, Space, Trial

ARTIFACT, JOURNAL = "artifact.safetensors", "trials.jsonl"
SHOWN = 10
"""Trials in the table."""
PRUNERS = {"median": "MedianPruner", "halving": "SuccessiveHalvingPruner"}
"""Of optuna's, by the words of ``--prune``."""


def search_recipe(
    path: Path, space_file: Path, trials: int, sampler: str, budget: str, prune: str | None, options: RunOptions
) -> None:
    """Search a recipe's space, or go on with what the out folder holds, and print the best trials.

    :param sampler: key of a search, with its settings in parentheses.
    :raises UsageError: for what is wrong in either file, and if no trial has a score within the limits.
    """
    registry = open_registry()
    data = apply_overrides(recipe_data(path), options.set)
    if options.seed is not None:
        data["seed"] = options.seed
    recipe = parse_recipe(data, str(path))
    space, text = load_space(space_file)
    check_names(space, f"{space_file} line", text, data, known_numbers(registry, recipe))
    check_device(options.device)
    quiet_libraries()

    # Here, because it loads torch and optuna, which a wrong name above doesn't need.
    with waited_for("starting"):
        import optuna

        from condensery.run import Budget, Progress, RecipeTrials, TrialStore, build_search, claimed, run_search

    for what, word, words in (("budget", budget, get_args(Budget)), ("pruner", prune or "median", PRUNERS)):
        if word not in words:
            raise UnknownKey(what, word, words)
    sized = cast(Budget, budget)
    pruner = None if prune is None else getattr(optuna.pruners, PRUNERS[prune])()
    spec = parse_model(sampler, "sampler")
    about = {"recipe": data, "sampler": spec, "seed": recipe.seed, "budget": budget, "pruner": prune}

    folder = options.out or free_folder(Path("runs"), f"search-{recipe.name or path.stem}")
    with (
        stoppable(folder, f"the same command with --out {folder}"),
        nullcontext() if options.out else kept_if_used(folder),
        Progress(quiet=options.as_json) as progress,
    ):
        runs = RecipeTrials(recipe=data, registry=registry, out=folder, device=options.device, show=progress)
        first = build_search(spec, space, recipe.seed, registry).propose(())
        if first is not None and not (folder / JOURNAL).exists():
            runs.check(first.overrides, sized)  # what is wrong with every trial leaves nothing behind

        with claimed(folder):
            store = TrialStore(folder / JOURNAL, space, about, pruner)
            search = build_search(spec, space, recipe.seed, registry)

            def ended(trial: Trial) -> None:
                progress.line(in_words(space, trial))

            found = run_search(search, runs, store, trials, budget=sized, ended=ended)
        files = write_best(folder, space, found, runs)

    if options.as_json:
        print_json(folder, space, found)
    else:
        print_trials(space, found)
        for number, file in files.items():
            net = folder / "trials" / str(number) / ARTIFACT
            print(f"trial {number}: {file}\n  on the test split: condensery measure {net}")
    if not files:
        last = next((f"; the last error: {t.error}" for t in reversed(found) if t.error), "")
        raise UsageError(f"none of {len(found)} trials has a score within the limits{last}")


def load_space(path: Path) -> tuple[Space, str]:
    """Read a space, and return the text of its file too.

    :raises UsageError: naming the file and the line.
    """
    from condensery.run import Space

    data, text = load_text(path)
    return checked(Space, data, str(path), text), text


def known_numbers(registry: Registry, recipe: Recipe) -> list[str]:
    """Return the numbers that a search may look at: those of a report, on validation and not on test."""
    metrics = registry.load("tasks", recipe.task.key).metrics
    reported = [path for path in measures(registry, recipe) if ".quality." not in path]
    return [*(f"validation.{metric.name}" for metric in metrics), *reported]


def check_names(space: Space, where: str, text: str, data: Mapping[str, Any], known: Iterable[str]) -> None:
    """Look up every name in a space before anything runs.

    :param text: of the space's file.
    :param data: the recipe's.
    :param known: numbers that a report will hold.
    :raises UsageError: naming the line, and the nearest right name.
    """
    for path, parameter in space.parameters.items():
        try:
            set_values(data, {path: parameter.low if parameter.choice is None else parameter.choice[0]})
        except UsageError as error:
            raise UsageError(f"{where} {line_of(text, ('parameters', path))}: {error}") from None
    for field in ("objectives", "limits"):
        for path in getattr(space, field):
            if path not in known:
                place = f"{where} {line_of(text, (field, path))}"
                raise UnknownKey("number of a report", path, known, where=place)


def write_best(folder: Path, space: Space, trials: Sequence[Trial], runs: RecipeTrials) -> dict[int, Path]:
    """Write the recipe of each of the best trials, as ``run`` takes it; returns the files by number of the trial."""
    from condensery.run import best_trials

    files = {}
    for trial in best_trials(space, trials):
        start = None if trial.start is None else trials[trial.start]
        files[trial.number] = folder / f"trial-{trial.number}.yaml"
        recipe = runs.recipe_of(trial.overrides, start=start).dump()
        write_text(files[trial.number], yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    return files


# ---------------------------------------------------------------- what came of it


def number(value: float) -> str:
    """Return a number of any size as it is printed."""
    return f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def settings(trial: Trial) -> str:
    """Return in words what a trial set."""
    values = {path: number(v) if isinstance(v, float) else cut(str(v)) for path, v in trial.overrides.items()}
    return ", ".join(f"{path} {value}" for path, value in values.items())


def outcome(trial: Trial) -> str:
    """Return in words what became of a trial."""
    if trial.state != "complete":
        return f"{trial.state}: {cut(trial.error)}"
    return ", ".join(f"{path} over its limit by {number(over)}" for path, over in trial.excess.items() if over > 0)


def in_words(space: Space, trial: Trial) -> str:
    """Return one line that says how a trial ended."""
    scores = [f"{path} {number(value)}" for path, value in zip(space.objectives, trial.values, strict=False)]
    return f"-- trial {trial.number}: {', '.join(filter(None, [*scores, outcome(trial)]))} ({settings(trial)})"


def print_trials(space: Space, trials: Sequence[Trial]) -> None:
    """Print the best trials, those within the limits first, and mark those that no other is better than."""
    from rich.markup import escape

    from condensery.run import best_trials, figure

    best = best_trials(space, trials)
    sign = -1 if next(iter(space.objectives.values())) == "maximize" else 1
    order = sorted(trials, key=lambda t: (t not in best, not t.fits, not t.values, *(sign * v for v in t.values[:1])))

    limits = [path for path in space.limits if path not in space.objectives]
    title = f"{len(trials)} trials" + (f", the first {SHOWN} of them" if len(trials) > SHOWN else "")
    shown = table("trial", *space.objectives, *limits, "settings", "", title=title)
    for trial in order[:SHOWN]:
        scores = [number(value) for value in trial.values] or ["-"] * len(space.objectives)
        kept = ["-" if trial.report is None else number(figure(trial.report, path)) for path in limits]
        mark = "best" if trial in best else outcome(trial)
        shown.add_row(*map(escape, (str(trial.number), *scores, *kept, settings(trial), mark)))
    console().print(shown)


def print_json(folder: Path, space: Space, trials: Sequence[Trial]) -> None:
    """Print all trials without their reports, which their folders hold."""
    from condensery.run import best_trials

    said = [{name: value for name, value in dataclasses.asdict(t).items() if name != "report"} for t in trials]
    best = [trial.number for trial in best_trials(space, trials)]
    print(json.dumps({"out": str(folder), "best": best, "trials": said}, indent=1))
