"""What builders check before they build."""

from __future__ import annotations

from condensery.errors import UsageError
from condensery.tasks import TaskFacts


def need(facts: TaskFacts, name: str, kind: str, *, least: int = 0) -> None:
    """Refuse a task of another kind, or images that are too small.

    :raises UsageError: naming the model and what it takes.
    """
    if facts.kind != kind:
        raise UsageError(f"model {name!r} takes {kind}s, the task gives {facts.kind}s")
    if kind == "image" and facts.size < least:
        raise UsageError(
            f"model {name!r} needs images of at least {least}x{least}, the task's are {facts.size}x{facts.size}"
        )


def scaled(width: float, channels: int) -> int:
    """Return a number of channels times a width, at least one."""
    return max(1, round(channels * width))
