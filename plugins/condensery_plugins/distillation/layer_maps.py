"""Which of a student's layers learns from which of a teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from condensery import NotApplicable, Stage, UsageError
from condensery.nets import TapValues, resolve
from condensery.run import Player
from condensery_plugins.distillation.pairs import only_teacher

LayerMap = Literal["one-to-one", "skip", "many-to-one"]
"""``one-to-one``: both have as many. ``skip``: each layer of the net with fewer meets the last of an equal share of the
other's. ``many-to-one``: each layer of the teacher teaches the student's layer of that share, several teach one."""


@contextmanager
def fitting(key: str) -> Iterator[None]:
    """Turn an error about layers that don't fit into one that says that the method doesn't apply.

    :param key: of the method.
    :raises NotApplicable: for an error of ours.
    """
    try:
        yield
    except UsageError as error:
        raise NotApplicable(key, str(error)) from None


def stages_of(player: Player, key: str) -> list[str]:
    """Return the paths of a net's stages, by its role ``stages``.

    :param key: of the method that asks.
    :raises NotApplicable: if it has none.
    """
    with fitting(key):
        return resolve(player.module, "stages")


def paired(kind: LayerMap, students: int, teachers: int) -> list[tuple[int, int]]:
    """Return pairs of a student's and a teacher's layer, as numbers from 0.

    :param students: how many layers the student has.
    :param teachers: how many the teacher has.
    :raises UsageError: for ``one-to-one`` where they aren't as many.
    """
    if kind == "many-to-one" and students <= teachers:
        return [(number * students // teachers, number) for number in range(teachers)]
    if kind == "many-to-one":
        return [(_up_to(number, teachers, students), number) for number in range(teachers)]
    if kind == "one-to-one" and students != teachers:
        raise UsageError(f"one-to-one: the student has {students} stages and the teacher {teachers}; say skip")

    return [(number, _up_to(number, students, teachers)) for number in range(students)]


def _up_to(number: int, these: int, those: int) -> int:
    """Return which of some layers goes with one of others: rounded up, so that the last ones meet."""
    return -(-(number + 1) * those // these) - 1


def tapped_pairs(stage: Stage, key: str, chosen: Mapping[str, str], kind: LayerMap) -> list[tuple[str, str]]:
    """Tap layers of the student and of its one teacher, and return their paths, in pairs.

    :param key: of the method that asks.
    :param chosen: the teacher's path by the student's; where there is none, the stages of both nets are paired.
    :param kind: how they are.
    :raises NotApplicable: if there are several teachers, a net has no stages, or they can't be paired.
    :raises UnknownKey: for a path that a net doesn't have.
    """
    teacher = only_teacher(stage, key)
    pairs = list(chosen.items())
    if not pairs:
        mine, theirs = stages_of(stage.student, key), stages_of(teacher, key)
        with fitting(key):
            pairs = [(mine[m], theirs[t]) for m, t in paired(kind, len(mine), len(theirs))]

    for one, other in pairs:
        stage.student.tap(one)
        teacher.tap(other)
    return pairs


def tapped_values(stage: Stage) -> tuple[TapValues, TapValues]:
    """Return what the taps of the student and of its teacher read on two examples; for their shapes."""
    student, teacher = stage.student, stage.teachers[0]
    outputs = stage.play(stage.sample(2)[0], [student, teacher])
    return outputs[student.name].taps, outputs[teacher.name].taps
