"""The arms of stored results, as rows that can be compared: within one model, task and tier, and only there."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from condensery.contract import Registry
from condensery.tasks import Metric
from condensery_catalogue.site.result_pages import page_name
from condensery_catalogue.site.svg import Curve, Dot, Summary
from condensery_catalogue.wording import collapse

RATE = "file, before over after (x)"
"""What arms without a figure of their own are compared over."""


@dataclass(frozen=True)
class Arm:
    """One arm of a stored result.

    :param page: of the result, less the suffix.
    :param net: model and task in words.
    :param methods: keys of the methods that act in it; none in a net that nothing compresses.
    :param metric: the task's main figure, which ``quality`` is a summary of; more is better if ``higher``.
    :param rate: of the file's bytes, before over after; ``None`` where no seed holds it.
    :param figure: what the result's own figure has of it, with ``x`` and ``y``, if there is one.
    """

    page: str
    card: str
    tier: str
    net: str
    name: str
    methods: tuple[str, ...]
    seeds: int
    metric: str
    higher: bool
    quality: Summary
    rate: Summary | None
    bytes: float | None
    macs: float | None
    collapsed: str
    figure: Mapping[str, Summary] | None
    labels: tuple[str, str]

    @property
    def place(self) -> tuple[str, str]:
        """Within what it may be ranked: the net on its task, and the tier."""
        return self.net, self.tier


def arms_of(results: Sequence[Mapping[str, Any]], registry: Registry) -> list[Arm]:
    """Return all arms of all results, in their order."""
    tasks = {recipe["task"]["key"] for result in results for recipe in result["recipes"].values()}
    mains = {key: registry.load("tasks", key).metrics[0] for key in sorted(tasks)}
    return [_arm(result, name, mains) for result in results for name in result["arms"]]


def _arm(result: Mapping[str, Any], name: str, mains: Mapping[str, Metric]) -> Arm:
    found, recipe = result["arms"][name], result["recipes"][name]
    main = mains[recipe["task"]["key"]]
    spec = result.get("figure")

    return Arm(
        page=page_name(result),
        card=result["card"],
        tier=result["tier"],
        net=f"{_words(recipe['model'])} on {_words(recipe['task'])}",
        name=name,
        methods=tuple(dict.fromkeys(methods_in(recipe.get("stages", [])))),
        seeds=len(result["seeds"]),
        metric=main.name,
        higher=main.higher_is_better,
        quality=found["quality"][main.name],
        rate=_summary(found.get("compression_rate", [])),
        bytes=_mean(found.get("storage", {}).get("file", [])),
        macs=_mean(found.get("macs_ratio", [])),
        collapsed=collapse(found),
        figure=found.get("figure"),
        labels=(spec["x_label"], spec["y_label"]) if spec else (RATE, f"{main.name} ({main.unit})"),
    )


def methods_in(node: Any) -> Iterator[str]:
    """Yield the keys of the methods that act in stages, with those in rounds, as plain data."""
    if isinstance(node, Mapping):
        yield from (method["key"] for method in node.get("methods", []))
        for value in node.values():
            yield from methods_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from methods_in(value)


def _words(part: Mapping[str, Any]) -> str:
    """Return a model or a task in words: its key and what is set of it; where weights lie says nothing of the net."""
    said = [f"{name} {_value(value)}" for name, value in part.items() if name not in ("key", "weights", "tokenizer")]
    key = str(part["key"]).replace("$CONDENSERY_DATA/", "")
    return f"{key} ({', '.join(said)})" if said else key


def _value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _summary(values: Sequence[float | None]) -> Summary | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    spread = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "std": spread, "values": known}


# ---------------------------------------------------------------- accuracy over compression


@dataclass(frozen=True)
class Shown:
    """The arms of one result on one net, for the page of a method."""

    page: str
    net: str
    tier: str
    seeds: int
    curve: Curve


def curves(arms: Sequence[Arm], key: str, parts: Sequence[str] = ()) -> list[Shown]:
    """Return a curve for each result and net on which a method was run.

    :param parts: keys of the methods that make it up, where a composition does; only its own results count then.
    """
    found = []
    for (page, net), group in groupby(arms, key=lambda arm: (arm.page, arm.net)):
        members = list(group)
        own = {arm.name for arm in members if _uses(arm, key, parts)}
        dots = [dot for arm in members if arm.methods and (dot := _dot(arm, own=arm.name in own))]
        if any(dot.own for dot in dots):
            lines = {arm.name: _place(arm)[1] for arm in members if not arm.methods}
            one = members[0]
            found.append(Shown(page, net, one.tier, one.seeds, Curve(*one.labels, dots, lines)))
    return found


def _uses(arm: Arm, key: str, parts: Sequence[str]) -> bool:
    if parts:
        return arm.card == key and set(parts) <= set(arm.methods)
    return key in arm.methods


def _place(arm: Arm) -> tuple[Summary | None, Summary]:
    """Return where an arm stands: as its result's figure has it, else by rate and quality."""
    return (arm.figure["x"], arm.figure["y"]) if arm.figure else (arm.rate, arm.quality)


def _dot(arm: Arm, *, own: bool) -> Dot | None:
    x, y = _place(arm)
    return None if x is None else Dot(arm.name, own, x, y, f"../r/{arm.page}.html#arms")


# ---------------------------------------------------------------- the best


def ranked(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """Return the arms by net and tier: first the nets that nothing compresses, then the others, best first.

    A place where nothing is compressed ranks nothing and is left out.
    """
    places: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        places.setdefault(arm.place, []).append(arm)
    return {
        place: sorted(members, key=lambda arm: (bool(arm.methods), _worse(arm), arm.name))
        for place, members in sorted(places.items())
        if any(arm.methods for arm in members)
    }


def ranking(arms: Sequence[Arm], simulated: Collection[str]) -> list[dict[str, Any]]:
    """Return the tables of the best: each arm with its rank, how it stands against the first row, and its marks.

    :param simulated: keys of the methods that hold weights or activations at few levels in floats.
    """
    return [
        {"net": net, "tier": tier, "rows": _rows(members, simulated)} for (net, tier), members in ranked(arms).items()
    ]


def _rows(members: Sequence[Arm], simulated: Collection[str]) -> list[dict[str, Any]]:
    first = members[0]
    rows, rank = [], 0
    for arm in members:
        # A net to compare with stands among the others, and takes no rank from them.
        rank += bool(arm.methods)
        marks = {
            "simulated": bool(set(arm.methods) & set(simulated)),
            "1 seed": arm.seeds == 1,
            arm.collapsed: bool(arm.collapsed),
        }
        rows.append(
            {
                "arm": arm,
                "rank": rank if arm.methods else None,
                "against": "-" if arm is first else against(arm, first),
                "marks": [mark for mark, holds in marks.items() if holds],
            }
        )
    return rows


def best_of(arms: Sequence[Arm], key: str, parts: Sequence[str] = ()) -> list[Arm]:
    """Return the best arm of a method on each net in each tier; see :func:`curves`."""
    found: dict[tuple[str, str], Arm] = {}
    for arm in sorted(arms, key=lambda arm: (arm.place, _worse(arm), arm.name)):
        if _uses(arm, key, parts):
            found.setdefault(arm.place, arm)
    return list(found.values())


def against(arm: Arm, other: Arm) -> str:
    """Return in words how an arm's quality stands to another's: beyond noise where mean +- deviation don't meet."""
    one, two = arm.quality, other.quality
    if one["std"] is None or two["std"] is None:
        return "unknown"
    if abs(one["mean"] - two["mean"]) <= one["std"] + two["std"]:
        return "within noise"
    return "better" if _worse(arm) < _worse(other) else "worse"


def _worse(arm: Arm) -> float:
    """Return a number that is larger for a worse arm."""
    return -float(arm.quality["mean"]) if arm.higher else float(arm.quality["mean"])
