"""Which of a student's layers learns from which of a teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from condensery import NotApplicable, Stage, UsageError
from condensery.nets import resolve
from condensery.run import Player

LayerMap = Literal["one-to-one", "skip", "many-to-one"]
"""``one-to-one``: both have as many. ``skip``: each layer of the net with fewer meets the last of an equal share of the
other's. ``many-to-one``: each layer of the teacher teaches the student's layer of that share, several teach one."""


def stages_of(player: Player, key: str) -> list[str]:
    """Return the paths of a net's stages, by its role ``stages``.

    :param key: of the method that asks.
    :raises NotApplicable: if it has none.
    """
    try:
        return resolve(player.module, "stages")
    except UsageError as error:
        raise NotApplicable(key, f"{player.name}: {error}") from None


def paired(kind: LayerMap, students: int, teachers: int) -> list[tuple[int, int]]:
    """Return pairs of a student's and a teacher's layer, as numbers from 0.

    :param students: how many layers the student has.
    :param teachers: how many the teacher has.
    :raises UsageError: for ``one-to-one`` where they aren't as many.
    """
    if kind == "many-to-one":
        return [(number * students // teachers, number) for number in range(teachers)]
    if kind == "one-to-one" and students != teachers:
        raise UsageError(f"one-to-one: the student has {students} stages and the teacher {teachers}; say skip")

    # Rounded up, so that the last layers meet, and each layer of a deeper student has a teacher.
    return [(number, -(-(number + 1) * teachers // students) - 1) for number in range(students)]


def tapped_pairs(stage: Stage, key: str, chosen: Mapping[str, str], kind: LayerMap) -> list[tuple[str, str]]:
    """Tap layers of the student and of the first teacher, and return their paths, in pairs.

    :param key: of the method that asks.
    :param chosen: the teacher's path by the student's; where there is none, the stages of both nets are paired.
    :param kind: how they are.
    :raises NotApplicable: if a net has no stages, or they can't be paired.
    :raises UnknownKey: for a path that a net doesn't have.
    """
    teacher = stage.teachers[0]
    pairs = list(chosen.items())
    if not pairs:
        mine, theirs = stages_of(stage.student, key), stages_of(teacher, key)
        try:
            pairs = [(mine[m], theirs[t]) for m, t in paired(kind, len(mine), len(theirs))]
        except UsageError as error:
            raise NotApplicable(key, str(error)) from None

    for one, other in pairs:
        stage.student.tap(one)
        teacher.tap(other)
    return pairs
