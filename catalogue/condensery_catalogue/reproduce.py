"""``reproduce``: a paper's claims beside what is measured here, over all seeds."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from condensery.data import write_atomic
from condensery.errors import UnknownKey, UsageError
from condensery.recipe import Recipe, Strict, checked, merge, parse_recipe
from condensery.registry import Registry
from condensery_catalogue.listing import RECALLED, open_registry
from condensery_catalogue.running import quiet_libraries
from condensery_catalogue.verdict import direction, summary, verdict

TIERS = ("smoke", "desk", "paper")


class Comparison(Strict):
    """Which measured figure answers which claim.

    :param metric: dotted path in the report.
    :param tolerance: in the claim's unit.
    """

    claim: str
    metric: str
    arm: str
    baseline_arm: str | None = None
    higher_is_better: bool = True
    tolerance: float = Field(0.0, ge=0)


class Tier(Strict):
    """One size of a reproduction: recipes by arm, with what they share under ``defaults``."""

    scale: Literal["paper", "scaled-down"] = "scaled-down"
    seeds: list[int] = [0]
    note: str = ""
    defaults: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]]
    compare: list[Comparison] | None = None

    def recipes(self, key: str) -> dict[str, Recipe]:
        """Return each arm's recipe."""
        return {arm: parse_recipe(merge(self.defaults, data), f"{key}: arm {arm!r}") for arm, data in self.arms.items()}


class Reproduction(Strict):
    """One paper's recipes, by tier."""

    key: str
    card: str
    notes: str = ""
    tiers: dict[Literal["smoke", "desk", "paper"], Tier]
    compare: list[Comparison] = []


def load_reproduction(registry: Registry, key: str) -> Reproduction:
    """Read a registered reproduction.

    :raises UnknownKey: naming the nearest one.
    """
    if key not in registry.entries["recipes"]:
        raise UnknownKey("reproduction", key, registry.keys("recipes"))
    package, _, name = registry.find("recipes", key).target.partition(":")
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"reproduction {key!r}: {name} is not YAML: {error}") from None
    return checked(Reproduction, data, f"reproduction {key!r}")


def reproduce_paper(
    key: str, tier: str, seeds: int | None, device: str, out: Path | None, results: Path | None, *, as_json: bool
) -> None:
    """Run every arm and seed of one tier, each stored as it ends, and print claim beside measurement.

    :raises UsageError: for an unknown key or tier.
    """
    registry = open_registry()
    plan = load_reproduction(registry, key)
    if tier not in plan.tiers:
        raise UnknownKey("tier", tier, plan.tiers, where=key)
    chosen = plan.tiers[tier]
    folder = (out or Path("runs") / "reproduce" / key) / tier
    numbers = chosen.seeds if seeds is None else list(range(seeds))
    quiet_libraries()
    reports = run_arms(registry, plan, chosen, tier, numbers, device, folder, quiet=as_json)
    card = registry.card(plan.card) or {}
    result = judge(plan, chosen, tier, card, reports)
    text = json.dumps(result, indent=1, default=str) + "\n"
    targets = [folder / "result.json"]
    home = results or (Path("reproductions/results") if Path("reproductions/results").is_dir() else None)
    if home is not None and (tier != "smoke" or results is not None):
        targets.append(home / key / f"{tier}.json")
    for target in targets:
        write_atomic(target, lambda temporary: temporary.write_text(text))
    print(text if as_json else "", end="")
    if not as_json:
        print_result(plan, chosen, result)
        print(f"result: {targets[-1]}")


def run_arms(
    registry: Registry,
    plan: Reproduction,
    chosen: Tier,
    tier: str,
    seeds: list[int],
    device: str,
    folder: Path,
    *,
    quiet: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of every arm, one per seed; what an earlier call finished is reused."""
    from condensery.engine import Run
    from condensery.progress import Progress

    reports: dict[str, list[dict[str, Any]]] = {arm: [] for arm in chosen.arms}
    with Progress(quiet=quiet) as progress:
        for seed in seeds:
            for arm, recipe in chosen.recipes(plan.key).items():
                recipe = recipe.model_copy(update={"seed": seed, "paper": plan.card, "name": f"{plan.key}:{arm}"})
                here = folder / f"seed{seed}" / arm
                done = _finished(here, recipe)
                if done is None:
                    progress.line(f"-- {plan.key}, {tier}, seed {seed}, arm {arm}")
                    job = Run(recipe, registry, out=here, device=device, resume=here.is_dir(), tier=tier, show=progress)
                    try:
                        done = job.execute()
                    except KeyboardInterrupt:
                        print("\nstopped; the same command goes on where it was", file=sys.stderr)
                        sys.exit(130)
                reports[arm].append(done)
    return reports


def _finished(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    path = folder / "report.json"
    if not path.is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text())
    if report["recipe"] != json.loads(json.dumps(recipe.dump())):
        raise UsageError(f"{folder} holds a run of another recipe; say another --out")
    return report


def judge(
    plan: Reproduction, chosen: Tier, tier: str, card: Mapping[str, Any], reports: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the result: figures over the seeds, and a verdict on each claim."""
    claims = {c["id"]: c for c in card.get("claims", [])}
    arms: dict[str, Any] = {}
    for arm, runs in reports.items():
        quality = {m: summary([r["after"]["quality"][m] for r in runs]) for m in runs[0]["after"]["quality"]}
        sizes = {n: runs[0]["after"][n] for n in ("parameters", "nonzeros", "macs")}
        arms[arm] = {"quality": quality, **sizes, "wall_s": [r["wall_s"] for r in runs]}
    comparisons = []
    for item in chosen.compare if chosen.compare is not None else plan.compare:
        if item.claim not in claims:
            raise UnknownKey("claim", item.claim, claims, where=f"reproduction {plan.key!r}")
        comparisons.append(_compare(item, claims[item.claim], chosen.scale, reports))
    first = next(iter(reports.values()))[0]
    return {
        "key": plan.key,
        "card": plan.card,
        "tier": tier,
        "scale": chosen.scale,
        "note": chosen.note,
        "date": datetime.date.today().isoformat(),
        "seeds": [r["seed"] for r in next(iter(reports.values()))],
        "epoch": "last",
        "arms": arms,
        "comparisons": comparisons,
        "versions": first["versions"],
        "device": first["device"],
        "environment": first["environment"],
        "commit": _commit(),
        "recipes": {arm: runs[0]["recipe"] for arm, runs in reports.items()},
    }


def _compare(
    item: Comparison, claim: Mapping[str, Any], scale: str, reports: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    measured = [dig(r, item.metric) for r in reports[item.arm]]
    baseline = None if item.baseline_arm is None else [dig(r, item.metric) for r in reports[item.baseline_arm]]
    went = None if baseline is None else direction(measured, baseline, higher_is_better=item.higher_is_better)
    mean = sum(measured) / len(measured)
    value, source = claim["value"]["value"], claim["value"]["source"]
    said = None
    if isinstance(value, (int, float)):
        said = verdict(scale=scale, source=source, claimed=value, measured=mean, tolerance=item.tolerance, went=went)
    return {
        "claim": claim,
        "metric": item.metric,
        "arm": item.arm,
        "baseline_arm": item.baseline_arm,
        "measured": summary(measured),
        "baseline": None if baseline is None else summary(baseline),
        "direction": went,
        "verdict": said or ("scaled-down" if scale != "paper" else None),
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


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def print_result(plan: Reproduction, chosen: Tier, result: Mapping[str, Any]) -> None:
    """Print the claims beside what was measured, and every arm."""
    from rich.console import Console
    from rich.table import Table

    def spread(figures: Mapping[str, Any] | None) -> str:
        if figures is None:
            return "-"
        deviation = "" if figures["std"] is None else f" ± {figures['std']:.2f}"
        return f"{figures['mean']:.2f}{deviation}"

    console = Console()
    table = Table(
        "claim",
        "the paper says",
        "measured here",
        "direction",
        "verdict",
        title=f"{plan.key}, {result['tier']} tier",
        title_justify="left",
    )
    for c in result["comparisons"]:
        claim = c["claim"]
        base = (claim.get("baseline") or {}).get("value")
        source = claim["value"]["source"]
        said = f"{claim['value']['value']} {claim['unit']}"
        marked = f"({source}, not read)" if source == RECALLED else f"({source})"
        says = f"{said if base is None else f'{base} -> {said}'}\n{marked} {claim['model']}, {claim['dataset']}"
        here = f"{spread(c['baseline'])} -> {spread(c['measured'])}" if c["baseline"] else spread(c["measured"])
        table.add_row(
            claim["id"], says, f"{here}\n{c['metric'].rpartition('.')[2]}", c["direction"] or "-", c["verdict"] or "-"
        )
    console.print(table)
    arms = Table(
        "arm",
        *next(iter(result["arms"].values()))["quality"],
        "parameters",
        "non-zero",
        title=f"{len(result['seeds'])} seed(s), last epoch, mean ± deviation",
        title_justify="left",
    )
    for arm, figures in result["arms"].items():
        arms.add_row(
            arm,
            *[spread(q) for q in figures["quality"].values()],
            f"{figures['parameters']:,}",
            f"{figures['nonzeros']:,}",
        )
    console.print(arms)
    if chosen.note:
        console.print(chosen.note, markup=False)
