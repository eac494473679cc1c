"""``reproduce``: a paper's claims beside what is measured here, over all seeds."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.files import damaged, read_json, write_json
from condensery.measure import versions
from condensery.recipe import Recipe
from condensery_catalogue.drawing import save_drawing
from condensery_catalogue.judging import judge
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.metrics import measures
from condensery_catalogue.points import is_drawn
from condensery_catalogue.reproduction import Reproduction, Tier, load_reproduction
from condensery_catalogue.results import publishing_place, recipe_file
from condensery_catalogue.running import RunOptions, check_device, quiet_libraries, stoppable
from condensery_catalogue.tuning import tune
from condensery_catalogue.wording import answer, claimed, collapse, counted, effect, heading, measured, spread


def reproduce_paper(key: str, tier: str, seeds: int | None, options: RunOptions, *, store: bool = False) -> None:
    """Run every arm and seed of one tier, each stored as it ends, and print claim beside measurement.

    The result and its picture are written into the out folder.

    :param options: device, folder and output; the recipes' values and seeds are the reproduction's own.
    :param store: publish the result: write it beside the recipe in the checkout too.
    :raises UsageError: for an unknown key, tier or device, or where the result may not be published.
    """
    registry = open_registry()
    plan = load_reproduction(registry, key)
    if tier not in plan.tiers:
        raise UnknownKey("tier", tier, plan.tiers, where=key)
    check_device(options.device)
    card = registry.card(plan.card) or {}
    quiet_libraries()

    # Every name in the tier is looked up first, so that a wrong one fails before anything trains.
    known = {arm: measures(registry, recipe) for arm, recipe in plan.tiers[tier].recipes(key).items()}
    chosen = plan.ready(plan.tiers[tier], card, known)

    folder = (options.out or Path("runs") / "reproduce" / key) / tier
    numbers = chosen.seeds if seeds is None else list(range(seeds))
    place = publishing_place(recipe_file(registry, key), tier, len(numbers)) if store else None
    with stoppable(folder, "the same command"):
        tuned, reports = run_arms(registry, plan, chosen, tier, numbers, folder, options)
    result = judge(plan, chosen, tier, card, reports)
    if tuned:
        result["grid"] = tuned

    text = write_json(folder / "result.json", result)
    if place is not None:
        write_json(place, result)
    picture = folder / "result.svg" if is_drawn(result) else None
    if picture is not None:
        save_drawing(result, picture)

    if options.as_json:
        print(text, end="")
        return
    print_result(result)
    print(f"result: {place or folder / 'result.json'}")
    if picture is not None:
        print(f"picture: {picture}")


Tuned = dict[str, dict[str, Any]]
"""By arm: the settings of the grid that were tried with their scores, and those that were chosen."""


def run_arms(
    registry: Registry,
    plan: Reproduction,
    chosen: Tier,
    tier: str,
    seeds: Sequence[int],
    folder: Path,
    options: RunOptions,
) -> tuple[Tuned, dict[str, list[dict[str, Any]]]]:
    """Choose each arm's settings where there is a grid, and return them and the reports of every arm, one per seed.

    What an earlier call finished is taken from its folder.
    """
    from condensery.run import Progress, Run

    with Progress(quiet=options.as_json) as progress:

        def run(recipe: Recipe, here: Path) -> dict[str, Any]:
            """Run one recipe, or take what an earlier call finished."""
            done = finished(here, recipe)
            title = f"-- {recipe.name}, {tier}, seed {recipe.seed}"
            progress.line(title if done is None else f"{title}: done before, in {here}")
            if done is None:
                resume = here.is_dir()
                job = Run(recipe, registry, out=here, device=options.device, resume=resume, tier=tier, show=progress)
                done = job.execute()
            return done

        def recipe_of(arm: str, seed: int, values: Mapping[str, Any] | None = None) -> Recipe:
            names = {"seed": seed, "paper": plan.card, "name": f"{plan.key}:{arm}"}
            return chosen.recipe(plan.key, arm, values).model_copy(update=names)

        tuned: Tuned = {}
        for arm in chosen.arms if chosen.grid else ():

            def tried(values: Mapping[str, Any], arm: str = arm) -> Recipe:
                return recipe_of(arm, seeds[0], values).model_copy(update={"validation": chosen.held_out})

            def play(recipe: Recipe, number: int, arm: str = arm) -> dict[str, Any]:
                return run(recipe, folder / "grid" / arm / str(number))

            metrics = registry.load("tasks", recipe_of(arm, seeds[0]).task.key).metrics
            tuned[arm] = tune(chosen.grid, tried, metrics[0], play)

        reports: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen.arms}
        for seed, arm in itertools.product(seeds, chosen.arms):
            values = tuned[arm]["chosen"] if tuned else {}
            reports[arm].append(run(recipe_of(arm, seed, values), folder / f"seed{seed}" / arm))
    return tuned, reports


def finished(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the report of a run that has ended, if the folder holds it.

    :raises ArtifactError: if the report is damaged.
    :raises UsageError: if it is that of another recipe, or was made with other versions: figures aren't mixed.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None
    report: dict[str, Any] = read_json(path, f"remove {folder} to run it again")
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


def print_result(result: Mapping[str, Any]) -> None:
    """Print the claims beside what was measured, and every arm."""
    from rich.markup import escape

    out = console()
    out.print(heading(result), style="bold")
    if result["comparisons"]:
        claims = table("claim", "the paper says", "measured here", "effect", "verdict")
        for c in result["comparisons"]:
            claim = c["claim"]
            says = f"{claimed(claim)}\n{claim['model']}, {claim['dataset']}"
            cells = (claim["id"], says, measured(c), effect(c), answer(result, c))
            claims.add_row(*map(escape, cells))
        out.print(claims)

    names = list(next(iter(result["arms"].values()))["quality"])
    arms = table("arm", *names, "non-zero", "file (bytes)", "times", title="After the last epoch, mean ± deviation")
    for arm, figures in result["arms"].items():
        gone = collapse(figures)
        said = [spread(figures["quality"][name]) for name in names]
        file, rate = (statistics.fmean(v) for v in (figures["storage"]["file"], figures["compression_rate"]))
        label = escape(f"{arm}, {gone}" if gone else arm)
        arms.add_row(label, *said, counted(figures["nonzeros"]), f"{file:,.0f}", f"{rate:.2f}x")
    out.print(arms)
    if result["note"]:
        out.print(result["note"], markup=False, highlight=False)
