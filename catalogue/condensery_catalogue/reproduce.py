"""``reproduce``: a paper's claims beside what is measured here, over all seeds."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import ArtifactError, UnknownKey, UsageError
from condensery.files import write_atomic
from condensery.measure import versions
from condensery.recipe import Recipe
from condensery_catalogue.drawing import is_drawn, save_drawing
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduction import Comparison, Reproduction, Tier, load_reproduction
from condensery_catalogue.results import commit, heading, measured, results_home, spread, went
from condensery_catalogue.running import RunOptions, check_device, quiet_libraries, stoppable
from condensery_catalogue.showing import claimed
from condensery_catalogue.verdict import direction, summary, verdict

STORAGE = ("file", "payload", "tables", "header", "manifest")
RATES = {"compression_rate": "compression_rate", "storage_rate": "storage_rate", "macs_ratio": "macs"}
"""Names in a result, and those of the report's ratios."""
Reports = Mapping[str, Sequence[Mapping[str, Any]]]
"""The reports of each arm, in the order of the seeds."""


def reproduce_paper(key: str, tier: str, seeds: int | None, results: Path | None, options: RunOptions) -> None:
    """Run every arm and seed of one tier, each stored as it ends, and print claim beside measurement.

    :param results: folder that the result goes to as ``<key>/<tier>.json``; by default that of a checkout, where a
        smoke result is not kept.
    :param options: device, folder and output; the recipes' values and seeds are the reproduction's own.
    :raises UsageError: for an unknown key, tier or device.
    """
    registry = open_registry()
    plan = load_reproduction(registry, key)
    if tier not in plan.tiers:
        raise UnknownKey("tier", tier, plan.tiers, where=key)
    check_device(options.device)
    card = registry.card(plan.card) or {}
    quiet_libraries()
    known = {arm: measures(registry, recipe) for arm, recipe in plan.tiers[tier].recipes(key).items()}
    chosen = plan.ready(plan.tiers[tier], card, known)  # a wrong name fails before anything trains
    folder = (options.out or Path("runs") / "reproduce" / key) / tier
    numbers = chosen.seeds if seeds is None else list(range(seeds))
    with stoppable(folder, "the same command"):
        reports = run_arms(registry, plan, chosen, tier, numbers, folder, options)
    result = judge(plan, chosen, tier, card, reports)
    text = json.dumps(result, indent=1) + "\n"
    home = results or (results_home() if tier != "smoke" else None)
    targets = [folder / "result.json", *([home / key / f"{tier}.json"] if home else [])]
    for target in targets:
        write_atomic(target, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    picture = targets[-1].with_suffix(".svg") if home and is_drawn(result) else None
    if picture:
        save_drawing(result, picture)
    if options.as_json:
        print(text, end="")
        return
    print_result(result)
    print(f"result: {targets[-1]}")
    if picture:
        print(f"picture: {picture}")


def run_arms(
    registry: Registry,
    plan: Reproduction,
    chosen: Tier,
    tier: str,
    seeds: Sequence[int],
    folder: Path,
    options: RunOptions,
) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of every arm, one per seed; what an earlier call finished is taken from its folder."""
    from condensery.run import Progress, Run

    reports: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen.arms}
    with Progress(quiet=options.as_json) as progress:
        for seed in seeds:
            for arm, plain in chosen.recipes(plan.key).items():
                recipe = plain.model_copy(update={"seed": seed, "paper": plan.card, "name": f"{plan.key}:{arm}"})
                here = folder / f"seed{seed}" / arm
                title = f"-- {plan.key}, {tier}, seed {seed}, arm {arm}"
                done = finished(here, recipe)
                progress.line(title if done is None else f"{title}: done before, in {here}")
                if done is None:
                    resume = here.is_dir()
                    job = Run(
                        recipe, registry, out=here, device=options.device, resume=resume, tier=tier, show=progress
                    )
                    done = job.execute()
                reports[arm].append(done)
    return reports


def finished(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Return the report of a run that has ended, if the folder holds it.

    :raises UsageError: if it is that of another recipe, or was made with other versions: figures aren't mixed.
    """
    path = folder / "report.json"
    if not path.is_file():
        return None
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known, made_with = report["recipe"], report["versions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); remove {folder} to run it again") from None
    if known != json.loads(json.dumps(recipe.dump())):
        raise UsageError(f"{folder} holds a run of another recipe; say another --out")
    changed = [name for name, version in versions().items() if made_with.get(name) != version]
    if changed:
        raise UsageError(f"{folder} was made with another version of {', '.join(changed)}; say another --out")
    return report


def judge(plan: Reproduction, chosen: Tier, tier: str, card: Mapping[str, Any], reports: Reports) -> dict[str, Any]:
    """Return the result: figures over the seeds, and a verdict on each claim."""
    arms: dict[str, Any] = {}
    for arm, runs in reports.items():
        quality = {m: summary([r["after"]["quality"][m] for r in runs]) for m in runs[0]["after"]["quality"]}
        sizes = {n: runs[0]["after"][n] for n in ("parameters", "nonzeros", "macs")}
        storage = {n: [r["after"]["storage"][n] for r in runs] for n in STORAGE}
        rates = {n: [r["ratios"][ratio] for r in runs] for n, ratio in RATES.items()}
        arms[arm] = {"quality": quality, **sizes, "storage": storage, **rates, "wall_s": [r["wall_s"] for r in runs]}
        if chosen.figure is not None:
            axes = {"x": chosen.figure.x, "y": chosen.figure.y}
            arms[arm]["figure"] = {axis: summary([dig(r, path) for r in runs]) for axis, path in axes.items()}
    drawn = {}
    if chosen.figure is not None:
        published = [{"claim": claim, "at": item.at} for item, claim in plan.published(chosen, card)]
        drawn["figure"] = chosen.figure.model_dump(mode="json") | {"published": published}
    runs = [run for arm in reports.values() for run in arm]
    return {
        "key": plan.key,
        "card": plan.card,
        "tier": tier,
        "scale": chosen.scale,
        "note": chosen.note,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seeds": [r["seed"] for r in next(iter(reports.values()))],
        "epoch": "last",
        "arms": arms,
        "comparisons": [_compare(i, claim, chosen.scale, reports) for i, claim in plan.comparisons(chosen, card)],
        **drawn,
        "versions": runs[0]["versions"],
        "device": ", ".join(sorted({r["device"] for r in runs})),
        "environment": runs[0]["environment"],
        "wall_s": round(sum(r["wall_s"] for r in runs), 2),
        "commit": commit(),
        "recipes": {arm: runs[0]["recipe"] for arm, runs in reports.items()},
    }


def _compare(item: Comparison, claim: Mapping[str, Any], scale: str, reports: Reports) -> dict[str, Any]:
    measured = [dig(r, item.metric) for r in reports[item.arm]]
    baseline = None if item.baseline_arm is None else [dig(r, item.metric) for r in reports[item.baseline_arm]]
    went, gains = None, None
    if baseline is not None:
        went = direction(measured, baseline, higher_is_better=item.higher_is_better)
        gains = [(m - b) * (1 if item.higher_is_better else -1) for m, b in zip(measured, baseline, strict=True)]
    answer = summary(gains if item.answers == "gain" and gains is not None else measured)
    said = verdict(
        scale=scale,
        claim=claim["value"],
        measured=answer["mean"],
        tolerance=item.tolerance,
        went=went,
        bound=None if item.answers != "bound" else 1 if item.higher_is_better else -1,
    )
    return {
        "claim": claim,
        "metric": item.metric,
        "arm": item.arm,
        "baseline_arm": item.baseline_arm,
        "answers": item.answers,
        "measured": summary(measured),
        "baseline": None if baseline is None else summary(baseline),
        "gain": None if gains is None else summary(gains),
        "direction": went,
        "verdict": said,
    }


def dig(report: Mapping[str, Any], path: str) -> float:
    """Return a number of a report by its dotted path.

    :raises UsageError: naming the part that isn't there.
    """
    node: Any = report
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise UsageError(f"metric {path!r}: the report has no {part!r}")
        node = node[part]
    if not isinstance(node, (int, float)):
        raise UsageError(f"metric {path!r} is not a number in the report")
    return float(node)


def print_result(result: Mapping[str, Any]) -> None:
    """Print the claims beside what was measured, and every arm."""
    from rich.markup import escape

    out, seeds = console(), len(result["seeds"])
    out.print(heading(result), style="bold")
    if result["comparisons"]:
        claims = table("claim", "the paper says", "measured here", "direction", "verdict")
        for c in result["comparisons"]:
            claim = c["claim"]
            says = f"{claimed(claim)}\n{claim['model']}, {claim['dataset']}"
            claims.add_row(*map(escape, (claim["id"], says, measured(c), went(c, seeds), c["verdict"] or "-")))
        out.print(claims)
    names = list(next(iter(result["arms"].values()))["quality"])
    arms = table("arm", *names, "non-zero", "file (bytes)", "times", title="After the last epoch, mean ± deviation")
    for arm, figures in result["arms"].items():
        said = [spread(figures["quality"][n]) for n in names]
        file, rate = (statistics.fmean(v) for v in (figures["storage"]["file"], figures["compression_rate"]))
        arms.add_row(escape(arm), *said, f"{figures['nonzeros']:,}", f"{file:,.0f}", f"{rate:.2f}x")
    out.print(arms)
    if result["note"]:
        out.print(result["note"], markup=False, highlight=False)
