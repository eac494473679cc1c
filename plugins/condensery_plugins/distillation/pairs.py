"""What is looked at in every pair of teacher and student: whether they fit, which is larger and which is better."""

from __future__ import annotations

from condensery import NotApplicable, Stage
from condensery.measure import counts
from condensery.run import Player

EXAMPLES = 256
"""How many training examples the students and teachers are compared on."""


def only_teacher(stage: Stage, key: str) -> Player:
    """Return the teacher of a method that can learn from one alone, in ``prepare``.

    Outputs of several teachers have a mean; their layers, as of nets of other widths, and their values have none. To
    learn from the first and be silent about the others would pass one teacher off as all of them.

    :param key: the method's.
    :raises NotApplicable: if the stage has several.
    """
    first, *others = stage.teachers
    if others:
        raise NotApplicable(key, f"it learns from one teacher, and the stage has {1 + len(others)}; keep one of them")
    return first


def refuse_other_classes(stage: Stage, key: str) -> None:
    """Refuse a teacher whose class scores aren't those of the student's classes, in ``prepare``; keep others' answers.

    :param key: the method's.
    :raises NotApplicable: naming the teacher and both numbers of classes.
    """
    teachers = [teacher for teacher in stage.teachers if teacher.built]  # a copy of the student has its classes
    outputs = stage.play(stage.sample(2)[0], [stage.student, *teachers])
    mine = outputs["student"].rows.shape[1]
    for teacher in teachers:
        theirs = outputs[teacher.name].rows.shape[1]
        if theirs != mine:
            raise NotApplicable(key, f"{teacher.name} tells {theirs} classes apart, the student {mine}")
        teacher.constant = True


def warnings_of(stage: Stage) -> dict[str, float]:
    """Return, for a method's report, what speaks against a pair; nothing where the teacher is larger and better.

    ``student_larger_times``: parameters of the student over those of its smallest teacher. ``teacher_worse_points``: by
    how much of the task's first metric the best teacher is behind the student, on some training examples, not
    augmented; it isn't known where there are no labels, or the stage's are hidden.
    """
    if not stage.teachers:
        return {}
    found = {}

    smallest = min(counts(teacher.module)["parameters"] for teacher in stage.teachers)
    times = counts(stage.student.module)["parameters"] / max(1, smallest)
    if times > 1:
        found["student_larger_times"] = times

    quality = _quality(stage, [stage.student, *stage.teachers])
    if quality:
        behind = quality[0] - max(quality[1:])
        if behind > 0:
            found["teacher_worse_points"] = behind
    return found


def _quality(stage: Stage, players: list[Player]) -> list[float]:
    """Return the task's first metric of some players, turned so that more is better.

    Nothing where there are no labels, and where it isn't measured on batches, as in a game.
    """
    metric = stage.task.metrics[0]
    meters = [stage.task.meter() for _ in players]
    for batch in stage.sample(EXAMPLES):
        if batch.labels is None:
            return []
        outputs = stage.play(batch, players)
        for meter, player in zip(meters, players, strict=True):
            meter.update(outputs[player.name].tree, batch)

    found = [meter.compute() for meter in meters]
    sign = 1 if metric.higher_is_better else -1
    return [sign * figures[metric.name] for figures in found if metric.name in figures]
