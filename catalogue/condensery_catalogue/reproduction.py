"""What a reproduction is, as data: recipes by tier and arm, and which measured figure answers which claim."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.recipe import Recipe, Strict, checked, load_yaml, merge, parse_recipe, set_values
from condensery_catalogue.results import TierName, recipe_file
from condensery_catalogue.verdict import claimed


class Comparison(Strict):
    """Which measured figure answers which claim; what the claim says, and which way is better, its card knows.

    :param claim: its id in the reproduction's card, or ``card:id`` in another one.
    :param metric: dotted path in the report.
    :param baseline_arm: a gain or a loss is judged against it.
    :param cause: why it didn't come out as claimed: what was tried, and what that gave.
    """

    claim: str
    metric: str
    arm: str
    baseline_arm: str | None = None
    cause: str = ""

    @property
    def arms(self) -> list[str]:
        """The arm, and the one that it is compared with if there is one."""
        return [arm for arm in (self.arm, self.baseline_arm) if arm is not None]


class PublishedSpec(Strict):
    """A claim that is drawn as a point: its figure is the height, and ``at`` its x as the source states it."""

    claim: str
    at: float = Field(allow_inf_nan=False)


class FigureSpec(Strict):
    """What is drawn over what.

    :param x: dotted path in the report, as ``y`` is; their labels are made of the metric and its unit.
    :param series: arms that a line joins, by its name; any other arm is a point of its own.
    :param baseline_arm: drawn as a level line.
    :param ranks: dotted paths; how alike they and ``y`` rank the arms is told beside the picture.
    :param published: points of papers, which have another training and another base.
    """

    x: str
    y: str
    x_label: str = ""
    y_label: str = ""
    series: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    baseline_arm: str | None = None
    ranks: list[str] = []
    published: list[PublishedSpec] = []

    @model_validator(mode="after")
    def _once(self) -> FigureSpec:
        twice = {arm for arm in self.arms if self.arms.count(arm) > 1}
        if twice:
            raise ValueError(f"arm {min(twice)!r} is there twice")
        return self

    @property
    def arms(self) -> list[str]:
        """The arms that are named: the baseline and those of the series."""
        return [*([] if self.baseline_arm is None else [self.baseline_arm]), *chain(*self.series.values())]


class Tier(Strict):
    """One size of a reproduction: recipes by arm, with what they share under ``defaults``.

    :param takes: how long all of its runs take, by the recipe's own estimate.
    :param grid: values by path of a recipe, such as ``train.optimizer.lr: [0.02, 0.05]``. Each arm gets those of its
        own that do best on a share of the training data, ``held_out``; the runs that count then train on all of them.
    :param follows: by arm, those that get its values instead of trying the grid themselves: names, or patterns such as
        ``lsq-*``.
    :param once: names or patterns of the arms that only the first seed plays.
    """

    scale: Literal["paper", "scaled-down"] = "scaled-down"
    seeds: list[int] = Field(default=[0], min_length=1)
    note: str = ""
    takes: str = Field("", pattern=r"^(\d+ (minutes|hours) on (one GPU|two CPU cores))?$")
    defaults: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    held_out: float = Field(default=0.1, gt=0, lt=1)
    follows: dict[str, list[str]] = {}
    once: list[str] = []
    compare: list[Comparison] | None = None
    figure: FigureSpec | None = None

    @model_validator(mode="after")
    def _arms_are_there(self) -> Tier:
        leaders = set(self.follows)
        for name in [*self.follows, *chain(*self.follows.values()), *self.once]:
            if not any(fnmatchcase(arm, name) for arm in self.arms):
                raise ValueError(f"follows and once: no arm is called {name!r}")
        for arm in sorted(leaders):
            if self.leader(arm) != arm:
                raise ValueError(f"follows: {arm!r} follows {self.leader(arm)!r}, so that no arm can follow it")
        return self

    def leader(self, arm: str) -> str:
        """Return the arm whose trials decide on an arm's values, mostly the arm itself."""
        return next((leader for leader, names in self.follows.items() if _fits(arm, names)), arm)

    def plays(self, arm: str, first: bool) -> bool:
        """Tell whether an arm is played with a seed, the first one or another."""
        return first or not _fits(arm, self.once)

    def recipes(self, key: str) -> dict[str, Recipe]:
        """Return each arm's recipe."""
        return {arm: self.recipe(key, arm) for arm in self.arms}

    def recipe(self, key: str, arm: str, values: Mapping[str, Any] | None = None) -> Recipe:
        """Return one arm's recipe, with some of its values changed."""
        data = set_values(merge(self.defaults, self.arms[arm]), values or {})
        return parse_recipe(data, f"{key}: arm {arm!r}")


def _fits(arm: str, names: Iterable[str]) -> bool:
    """Tell whether one of some names or patterns is an arm's."""
    return any(fnmatchcase(arm, name) for name in names)


class Reproduction(Strict):
    """One paper's recipes, by tier.

    :param compare: holds for every tier that has none of its own.
    """

    key: str
    card: str
    notes: str = ""
    tiers: dict[TierName, Tier]
    compare: list[Comparison] = []

    def comparisons(self, tier: Tier, card: Mapping[str, Any]) -> list[tuple[Comparison, Mapping[str, Any]]]:
        """Return a tier's comparisons, each with the claim it answers.

        :raises UnknownKey: for a claim that the card doesn't have, or an arm that the tier doesn't have.
        :raises UsageError: for a gain or a loss without a baseline arm, or a size without the quality that it was
            claimed at.
        """
        found = []
        for item in self.compare if tier.compare is None else tier.compare:
            claim = self._claim(item.claim, card)
            self._arms(tier, item.arms)
            found.append((item, claim))

        compared = {(item.claim, item.arm) for item, _ in found}
        for item, claim in found:
            where = f"reproduction {self.key!r}: claim {item.claim!r}"
            says = claimed(claim)
            if says is not None and says.says in ("gain", "loss") and item.baseline_arm is None:
                raise UsageError(f"{where} is a {says.says}: say the baseline_arm")
            if claim.get("at") and (claim["at"], item.arm) not in compared:
                raise UsageError(f"{where} was made at {claim['at']!r}: compare that with arm {item.arm!r} too")
        return found

    def published(self, tier: Tier, card: Mapping[str, Any]) -> list[tuple[PublishedSpec, Mapping[str, Any]]]:
        """Return the published points of a tier's figure, each with its claim.

        :raises UnknownKey: for a claim that the card doesn't have.
        :raises UsageError: for one that isn't a number.
        """
        found = [(item, self._claim(item.claim, card)) for item in (tier.figure.published if tier.figure else [])]
        for item, claim in found:
            if not isinstance(claim["value"]["value"], (int, float)):
                raise UsageError(f"reproduction {self.key!r}: claim {item.claim!r} is no number, so it can't be drawn")
        return found

    def ready(self, tier: Tier, card: Mapping[str, Any], known: Mapping[str, Mapping[str, str]]) -> Tier:
        """Return the tier with its figure's labels filled in, after looking up every name in it.

        :param known: what each arm's report will hold: dotted path, and what it is in words.
        :raises UnknownKey: for a claim, an arm or a metric that isn't there, naming the nearest.
        """
        for item, _ in self.comparisons(tier, card):
            for arm in item.arms:
                self._metric(item.metric, known[arm])
        self.published(tier, card)
        if tier.figure is None:
            return tier

        figure = tier.figure
        self._arms(tier, figure.arms)
        if set(tier.arms) == {figure.baseline_arm}:
            raise UsageError(f"reproduction {self.key!r}: its figure shows no arm but the baseline")
        for arm in tier.arms:
            for metric in (figure.x, figure.y, *figure.ranks):
                self._metric(metric, known[arm])

        words = next(iter(known.values()))
        labels = {"x_label": figure.x_label or words[figure.x], "y_label": figure.y_label or words[figure.y]}
        return tier.model_copy(update={"figure": figure.model_copy(update=labels)})

    def _claim(self, key: str, card: Mapping[str, Any]) -> Mapping[str, Any]:
        claims: dict[str, Mapping[str, Any]] = {c["id"]: c for c in card.get("claims", [])}
        if key not in claims:
            raise UnknownKey("claim", key, claims, where=f"reproduction {self.key!r}")
        return claims[key]

    def _arms(self, tier: Tier, arms: Iterable[str]) -> None:
        for arm in arms:
            if arm not in tier.arms:
                raise UnknownKey("arm", arm, tier.arms, where=f"reproduction {self.key!r}")

    def _metric(self, metric: str, known: Iterable[str]) -> None:
        if metric not in known:
            raise UnknownKey("metric", metric, known, where=f"reproduction {self.key!r}")


def card_of(registry: Registry, plan: Reproduction) -> dict[str, Any]:
    """Return a reproduction's card; claims of others that it compares stand beside its own, as ``card:id``.

    :raises UsageError: naming a card that isn't there.
    """
    compared = [*plan.compare, *chain(*(tier.compare or [] for tier in plan.tiers.values()))]
    others = dict.fromkeys(item.claim.partition(":")[0] for item in compared if ":" in item.claim)
    card = dict(registry.card(plan.card) or {})
    for key in others:
        other = registry.card(key)
        if other is None:
            raise UsageError(f"reproduction {plan.key!r}: it compares a claim of {key!r}, which has no card")
        claims = [{**claim, "id": f"{key}:{claim['id']}"} for claim in other.get("claims", [])]
        card["claims"] = [*card.get("claims", []), *claims]
    return card


def load_reproduction(registry: Registry, key: str) -> Reproduction:
    """Read a registered reproduction.

    :raises UnknownKey: naming the nearest one.
    :raises UsageError: naming what is wrong with its file.
    """
    return checked(Reproduction, load_yaml(recipe_file(registry, key)), f"reproduction {key!r}")
