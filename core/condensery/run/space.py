"""What a search may set, what it is to make as good as possible, and within which limits. Plain data; loads no torch.

Optuna, which searches draw with, is loaded when a distribution is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt, model_validator

from condensery.errors import UnknownKey, UsageError, short
from condensery.recipe import Misplaced, Strict, holds, variables

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Direction = Literal["maximize", "minimize"]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
TEST = ("before.quality", "after.quality")
"""Where a report says what was measured on the test split, which no search looks at."""


class Parameter(Strict):
    """One dimension of a space: one of some values, or a number in a range.

    :param choice: the values, each as likely. A list alone is short for it.
    :param low: the range goes from here
    :param high: to here, both included.
    :param step: the number is so many steps above ``low``; where all three are whole, it is a whole number.
    :param log: the logarithm is uniform, as is right for learning rates and penalties.
    :param when: by path of a parameter further up, the value, or a list of values, that it must have. Otherwise this
        parameter isn't set.
    :param name: by which ``requires`` calls it.
    """

    choice: list[Any] | None = Field(default=None, min_length=1)
    low: Number | None = None
    high: Number | None = None
    step: Number | None = Field(default=None, gt=0)
    log: bool = False
    when: dict[str, Any] = {}
    name: str = Field(default="", pattern=r"^([A-Za-z_]\w*)?$")

    @model_validator(mode="after")
    def _drawable(self) -> Parameter:
        """Refuse what nothing can be drawn from."""
        bounds = (self.low, self.high)
        if (self.choice is None) is (bounds == (None, None)):
            raise ValueError("give either choice, or low and high")
        if self.choice is not None:
            if self.name and not all(_is_number(value) for value in self.choice):
                raise ValueError("what has a name is calculated with, so each choice must be a number")
            return self

        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"a range goes from a low to a higher number, got {self.low} to {self.high}")
        if self.step is not None and not self._in_steps(self.high):
            raise ValueError(f"steps of {self.step} from {self.low} don't end at {self.high}")
        if self.log and (self.low <= 0 or self.step not in (None, 1)):
            raise ValueError("a logarithmic range starts above 0, and has no steps but those of whole numbers")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a whole number."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step))

    def _in_steps(self, number: float) -> bool:
        steps = (number - (self.low or 0)) / (self.step or 1)
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def contains(self, value: Any) -> bool:
        """Tell whether a value is one that could be drawn; of a choice, ``1``, ``1.0`` and ``true`` differ."""
        if self.choice is not None:
            return _text(value) in map(_text, self.choice)
        if not _is_number(value) or (self.whole and not isinstance(value, int)):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and (self.step is None or self._in_steps(value))

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Tell whether it is set, beside the values that are set further up."""
        return all(
            path in point and _text(point[path]) in map(_text, wanted if isinstance(wanted, list) else [wanted])
            for path, wanted in self.when.items()
        )

    def distribution(self) -> BaseDistribution:
        """Return what optuna draws it from; it knows no lists, so a choice is drawn as JSON."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution([_text(value) for value in self.choice])
        kind: Any = IntDistribution if self.whole else FloatDistribution
        made: BaseDistribution = kind(self.low, self.high, log=self.log, step=self.step)
        return made

    def encoded(self, value: Any) -> Any:
        """Return a value as optuna has it."""
        return value if self.choice is None else _text(value)

    def decoded(self, drawn: Any) -> Any:
        """Return the value that optuna drew."""
        return drawn if self.choice is None else json.loads(drawn)


class Limit(Strict):
    """What a number of the report must keep."""

    at_least: Number | None = None
    at_most: Number | None = None

    @model_validator(mode="after")
    def _limits(self) -> Limit:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most, or both")
        return self

    def excess(self, number: float) -> float:
        """Return by how much a number breaks the limit; 0 or less where it keeps it."""
        below = -math.inf if self.at_least is None else self.at_least - number
        above = -math.inf if self.at_most is None else number - self.at_most
        return max(below, above)


def _parameter(value: Any) -> Any:
    """Accept a list for ``{choice: [...]}``."""
    return {"choice": value} if isinstance(value, list) else value


class Space(Strict):
    """What a search may set, what for, and within which limits.

    :param parameters: by the path that they set, see :mod:`condensery.recipe.overrides`.
    :param requires: conditions that a point must meet, of parameters' names, such as ``bits * width <= 8``. One that
        speaks of a parameter that isn't set is met.
    :param objectives: numbers of the report by dotted path, such as ``validation.accuracy``, and where each is to go.
    :param limits: numbers of the report that must stay within limits.
    """

    parameters: dict[str, Annotated[Parameter, BeforeValidator(_parameter)]] = Field(min_length=1)
    requires: list[str] = []
    objectives: dict[str, Direction] = Field(min_length=1)
    limits: dict[str, Limit] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        for place, problem in self._problems():
            raise Misplaced(place, problem)
        return self

    def _problems(self) -> Iterator[tuple[tuple[int | str, ...], str]]:
        """Yield what is wrong between parts of the space, and where."""
        above: list[str] = []
        names = {"": ""}
        for path, parameter in self.parameters.items():
            for other in parameter.when:
                if other not in above:
                    yield ("parameters", path), str(UnknownKey("parameter above this one", other, above, where="when"))
            if parameter.name and parameter.name in names:
                yield ("parameters", path), f"{names[parameter.name]} is named {parameter.name!r} already"
            above.append(path)
            names[parameter.name] = path

        for number, condition in enumerate(self.requires):
            try:
                names_used = variables(condition)
                for name in sorted(names_used - names.keys()):
                    raise UnknownKey("name of a parameter", name, names.keys() - {""})
                holds(condition, dict.fromkeys(names_used, 1.0))
            except UsageError as error:
                yield ("requires", number), str(error)

        for field in ("objectives", "limits"):
            for path in getattr(self, field):
                if path.startswith(TEST):
                    yield (field, path), f"{path} is measured on the test split; say validation.<metric>"

    # ---------------------------------------------------------------- points

    def point(self, choose: Callable[[str, Parameter], Any]) -> dict[str, Any]:
        """Return a point: by path, the values that are chosen for those parameters that apply."""
        found: dict[str, Any] = {}
        for path, parameter in self.parameters.items():
            if parameter.applies(found):
                found[path] = choose(path, parameter)
        return found

    def meets(self, point: Mapping[str, Any]) -> bool:
        """Tell whether a point meets the conditions."""
        values = {p.name: point[path] for path, p in self.parameters.items() if p.name and path in point}
        return all(holds(condition, values) for condition in self.requires if variables(condition) <= values.keys())

    def problem(self, overrides: Mapping[str, Any]) -> str | None:
        """Return why these overrides are no point of the space, or ``None``."""
        wanted = self.point(lambda path, _: overrides.get(path))
        if overrides.keys() != wanted.keys():
            return f"it sets {', '.join(sorted(overrides))}; to be set are {', '.join(sorted(wanted))}"
        for path, value in overrides.items():
            if not self.parameters[path].contains(value):
                return f"{path} = {short(value)} can't be drawn"
        return None if self.meets(overrides) else f"it doesn't meet {' and '.join(self.requires)}"

    # ---------------------------------------------------------------- reports

    def values(self, report: Mapping[str, Any]) -> tuple[float, ...]:
        """Return the number of each objective.

        :raises UsageError: as :func:`figure` does.
        """
        return tuple(figure(report, path) for path in self.objectives)

    def excess(self, report: Mapping[str, Any]) -> dict[str, float]:
        """Return by how much each limit is broken, by path; 0 or less where it is kept.

        :raises UsageError: as :func:`figure` does.
        """
        return {path: limit.excess(figure(report, path)) for path, limit in self.limits.items()}


def figure(report: Mapping[str, Any], path: str) -> float:
    """Return a number of a report.

    :param path: keys from the outside in, separated by dots; keys may contain dots themselves.
    :returns: not a number where the report holds nothing, as for work that can't be counted.
    :raises UnknownKey: if the report has no such key.
    :raises UsageError: if what is there is no number.
    """
    node: Any = report
    parts = path.split(".")
    while parts:
        known = node if isinstance(node, Mapping) else {}
        fits = (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known)
        taken = next(fits, None)
        if taken is None:
            raise UnknownKey("number of the report", ".".join(parts), map(str, known), where=path)
        node, parts = known[".".join(parts[:taken])], parts[taken:]
    if node is None:
        return math.nan
    if not _is_number(node):
        raise UsageError(f"{path} is no number in the report: {short(node)}")
    return float(node)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
