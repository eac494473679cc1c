"""``reproduce``: a paper's claims beside what is measured here, over all seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensery.errors import UnknownKey
from condensery.files import write_json
from condensery.run import check_device
from condensery_catalogue.app import waited_for
from condensery_catalogue.drawing import save_drawing
from condensery_catalogue.inputs import refuse_missing
from condensery_catalogue.jobs import Jobs
from condensery_catalogue.judging import judge
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.points import is_drawn
from condensery_catalogue.reproduction import card_of, load_reproduction
from condensery_catalogue.results import publishing_place, recipe_file, usual_tier
from condensery_catalogue.running import RunOptions, quiet_libraries, stoppable
from condensery_catalogue.wording import (
    EFFECT,
    answer,
    claimed,
    collapse,
    counted,
    diverged,
    effect,
    examples,
    explained,
    heading,
    measured,
    of_examples,
    ranked,
    sends,
    spread,
)

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "non-zero: parameters that aren't zero. file: the artifact, its header included. smaller: how many times smaller "
    "it is than the file of the net that the recipe starts from; - for a net that others are compared with."
)
SENT = "sent: bytes of gradients that each worker sends in a step."
"""What stands under the table of arms; the metrics' names are the task's, see condensery tasks."""


def reproduce_paper(key: str, tier: str | None, seeds: int | None, options: RunOptions, *, store: bool = False) -> None:
    """Run every arm and seed of one tier, each stored as it ends, and print claim beside measurement.

    The result and its picture are written into the out folder.

    :param tier: the usual one of the reproduction where it is ``None``.
    :param options: device, folder and output; the recipes' values and seeds are the reproduction's own.
    :param store: publish the result: write it beside the recipe in the checkout too.
    :raises UsageError: for an unknown key, tier or device, or where the result may not be published.
    """
    registry = open_registry()
    plan = load_reproduction(registry, key)
    tier = tier or usual_tier(registry, key)
    if tier not in plan.tiers:
        raise UnknownKey("tier", tier, plan.tiers, where=key)
    check_device(options.device)
    card = card_of(registry, plan)
    quiet_libraries()

    # Every name in the tier is looked up first, so that a wrong one fails before anything trains.
    folder = (options.out or Path("runs") / "reproduce" / key) / tier
    jobs = Jobs(registry, plan, plan.tiers[tier], tier, folder, seeds)
    with waited_for("starting"):
        chosen = jobs.ready(card)
        refuse_missing(jobs.chosen.recipes(key).values(), registry, f"{key}, {tier}")

    place = publishing_place(recipe_file(registry, key), tier, len(jobs.seeds)) if store else None
    with stoppable(folder, "the same command"):
        choices, reports = run_arms(jobs, options)
    result = judge(plan, chosen, tier, card, reports, choices)

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


def run_arms(jobs: Jobs, options: RunOptions) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Play all jobs; return each arm's choice where there is a grid, and the reports of every arm, one per seed.

    What an earlier call finished is taken from its folder.
    """
    from condensery_catalogue.estimates import Foretold

    left = [jobs.chosen.recipe(jobs.plan.key, job.arm) for job in jobs if not job.has_ended]
    with Foretold(left, jobs.registry, quiet=options.as_json) as progress:
        for job in jobs:
            progress.line(f"-- {job.title}{f': done before, in {job.folder}' if job.has_ended else ''}")
            report = jobs.play(job, options.device, progress)
            if "diverged" in report:
                progress.line(f"{job.title} diverged: {report['diverged']}")
    return jobs.choices(), jobs.reports()


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
            cells = (claim["id"], says, measured(c) + of_examples(result, c), effect(c), answer(result, c))
            claims.add_row(*map(escape, cells))
        out.print(claims)
        out.print(EFFECT, explained(c["verdict"]["word"] for c in result["comparisons"] if c["verdict"]), markup=False)

    out.print(arms_table(result))
    for arm, words in diverged(result).items():
        out.print(f"{arm}, {words}", markup=False, highlight=False)
    out.print(COLUMNS, *[SENT] * sends(result), markup=False, highlight=False)
    for name, alike in ranked(result).items():
        said = f"{name} ranks the arms as {result['figure']['y_label']} does"
        out.print(f"{said}: {alike}", markup=False, highlight=False)
    if result["note"]:
        out.print(result["note"], markup=False, highlight=False)


def arms_table(result: Mapping[str, Any]) -> Table:
    """Return the table of a result's arms; :data:`COLUMNS` explains it."""
    from rich.text import Text

    plain = {c["baseline_arm"] for c in result["comparisons"]}
    first = next(iter(result["arms"].values()))["quality"]
    counts = {"errors": examples(first)}
    names = [f"{name} of {total:,}" if (total := counts.get(name)) else name for name in first]

    sent = ["sent"] if sends(result) else []
    columns = ("arm", *names, *sent, "non-zero", "file (bytes)", "smaller")
    arms = table(*columns, title="After the last epoch, mean ± deviation")
    for arm, figures in result["arms"].items():
        gone = collapse(figures)
        said = [spread(figures["quality"][name]) for name in first]
        said += [f"{statistics.fmean(figures['training']['sent_bytes']):,.0f}" for _ in sent]
        file, rate = (statistics.fmean(v) for v in (figures["storage"]["file"], figures["compression_rate"]))
        smaller = "-" if arm in plain else f"{rate:.2f}x"
        label = f"{arm}, {gone}" if gone else arm
        arms.add_row(*map(Text, (label, *said, counted(figures["nonzeros"]), f"{file:,.0f}", smaller)))
    return arms
