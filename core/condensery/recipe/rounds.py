"""From a recipe's stages and rounds to the units that run, one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from condensery.errors import UnknownKey, UsageError
from condensery.recipe.formula import variables
from condensery.recipe.schema import RoundSpec, StageSpec


@dataclasses.dataclass(frozen=True)
class Unit:
    """One stage that runs once.

    :param id: place in the unrolled recipe, ``"2"`` or ``"1.0.3"``: item, pass, item...
    :param spec: the stage, as it is in this pass.
    :param round: number of the innermost round's pass, of ``rounds``.
    :param layer: path of the layer, in a round over layers.
    """

    id: str
    spec: StageSpec
    round: int = 0
    rounds: int = 1
    layer: str | None = None

    @property
    def title(self) -> str:
        """How messages name it."""
        if self.layer is not None:
            return f"{self.spec.name} [{self.layer}]"
        return self.spec.name + (f" [{self.round + 1}/{self.rounds}]" if self.rounds > 1 else "")


Decide = Callable[[str, Callable[[], Any]], Any]
"""``decide(id, ask)``: the recorded decision, or what ``ask()`` says now."""


def check_conditions(items: Sequence[StageSpec | RoundSpec], known: Sequence[str]) -> None:
    """Check what the rounds' ``until`` asks about, before anything runs.

    :param known: the names that have a value after a pass.
    :raises UnknownKey: naming the nearest known name.
    :raises UsageError: for a condition that can't be read.
    """
    for item in items:
        if isinstance(item, StageSpec):
            continue

        for name in sorted(variables(item.until) if item.until else ()):
            if name not in known:
                raise UnknownKey("name", name, known, where=f"until: {item.until}")
        check_conditions(item.stages, known)


def unroll(
    items: Sequence[StageSpec | RoundSpec],
    *,
    decide: Decide,
    layers: Callable[[], list[str]],
    holds: Callable[[str], bool],
    prefix: str = "",
    outer: tuple[int, int, str | None] = (0, 1, None),
) -> Iterator[Unit]:
    """Yield the units of a recipe in order.

    What depends on the net (layers, ``until``) is asked through ``decide`` and recorded, so that a resumed run takes
    the same way.

    :param layers: returns the paths of the net's layers with weights, as they are now.
    :param holds: tells whether a condition of a round holds now.
    :param prefix: of the units' ids, and ``outer`` their round, rounds and layer: those of the round they are in.
    :raises UsageError: for a round over layers where there are none.
    """
    for number, item in enumerate(items):
        here = f"{prefix}{number}"
        if isinstance(item, StageSpec):
            yield Unit(here, item.in_pass(*outer[:2]), *outer)
            continue

        inner = partial(unroll, item.stages, decide=decide, layers=layers, holds=holds)
        if item.over == "layers":
            paths: list[str] = decide(f"{here}:layers", layers)
            if not paths:
                raise UsageError("a round over layers found no layer with weights")
            for i, path in enumerate(paths):
                yield from inner(prefix=f"{here}.{i}.", outer=(i, len(paths), path))
            continue

        for i in range(item.repeat):
            yield from inner(prefix=f"{here}.{i}.", outer=(i, item.repeat, None))
            if item.until and decide(f"{here}.{i}:until", partial(holds, item.until)):
                break
