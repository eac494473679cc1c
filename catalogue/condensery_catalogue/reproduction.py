"""What a reproduction is, as data: recipes by tier and arm, and which measured figure answers which claim."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import Recipe, Strict, checked, merge, parse_recipe
from condensery.registry import Registry


class Comparison(Strict):
    """Which measured figure answers which claim.

    :param metric: dotted path in the report.
    :param answers: whether the claim is the arm's ``value``, its ``gain`` over the baseline arm, or a ``bound`` that
        the arm's value must reach, such as a rate of compression: better is as good.
    :param tolerance: in the claim's unit.
    """

    claim: str
    metric: str
    arm: str
    baseline_arm: str | None = None
    answers: Literal["value", "gain", "bound"] = "value"
    higher_is_better: bool = True
    tolerance: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _baseline(self) -> Comparison:
        if self.answers == "gain" and self.baseline_arm is None:
            raise ValueError("a gain needs a baseline_arm")
        return self


class Tier(Strict):
    """One size of a reproduction: recipes by arm, with what they share under ``defaults``."""

    scale: Literal["paper", "scaled-down"] = "scaled-down"
    seeds: list[int] = Field(default=[0], min_length=1)
    note: str = ""
    defaults: dict[str, Any] = {}
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    compare: list[Comparison] | None = None

    def recipes(self, key: str) -> dict[str, Recipe]:
        """Return each arm's recipe."""
        return {arm: parse_recipe(merge(self.defaults, data), f"{key}: arm {arm!r}") for arm, data in self.arms.items()}


class Reproduction(Strict):
    """One paper's recipes, by tier.

    :param compare: holds for every tier that has none of its own.
    """

    key: str
    card: str
    notes: str = ""
    tiers: dict[Literal["smoke", "desk", "paper"], Tier]
    compare: list[Comparison] = []

    def comparisons(self, tier: Tier, card: Mapping[str, Any]) -> list[tuple[Comparison, Mapping[str, Any]]]:
        """Return a tier's comparisons, each with the claim it answers.

        :raises UnknownKey: for a claim that the card doesn't have, or an arm that the tier doesn't have.
        """
        claims = {c["id"]: c for c in card.get("claims", [])}
        found = []
        for item in self.compare if tier.compare is None else tier.compare:
            if item.claim not in claims:
                raise UnknownKey("claim", item.claim, claims, where=f"reproduction {self.key!r}")
            for arm in (item.arm, item.baseline_arm):
                if arm is not None and arm not in tier.arms:
                    raise UnknownKey("arm", arm, tier.arms, where=f"reproduction {self.key!r}")
            found.append((item, claims[item.claim]))
        return found


def load_reproduction(registry: Registry, key: str) -> Reproduction:
    """Read a registered reproduction.

    :raises UnknownKey: naming the nearest one.
    :raises UsageError: naming what is wrong with its file.
    """
    if key not in registry.entries["recipes"]:
        raise UnknownKey("reproduction", key, registry.keys("recipes"))
    entry = registry.find("recipes", key)
    package, _, name = entry.target.partition(":")
    try:
        data = yaml.safe_load(resources.files(package).joinpath(name).read_text(encoding="utf-8"))
    except (ImportError, OSError) as error:
        raise UsageError(f"plugin {entry.plugin!r}: reproduction {key!r} can't be read: {error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"reproduction {key!r}: {name} is not YAML: {' '.join(str(error).split())}") from None
    return checked(Reproduction, data, f"reproduction {key!r}")
