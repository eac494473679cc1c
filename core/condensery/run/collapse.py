"""What core looks at when a stage ends: whether the student is still alive.

A method may leave a net that runs, is saved and measured, and computes nothing: a layer whose weights are all zero, or
outputs that are the same whatever the input. Its figures mislead, so the report and the artifact say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condensery.errors import NonFiniteNet
from condensery.measure import used_tensors
from condensery.nets import lent
from condensery.run.stage import Stage
from condensery.tasks import Batch, Task, tensors_in

EXAMPLES = 32
TOLERANCE = 1e-6
"""How far outputs may differ and still be the same, as a share of the largest: rows of a product round differently."""
CONSTANT = "outputs are constant"


@dataclasses.dataclass(frozen=True)
class Signs:
    """What there is to see of a net's life.

    :param alive: paths of layers with weights that are not all zero; biases don't count.
    :param dead: paths of the other layers with weights.
    :param constant: whether all examples of the sample get the same outputs.
    :param broken: what is infinite or not a number, if anything.
    """

    alive: list[str]
    dead: list[str]
    constant: bool
    broken: str | None


def look(stage: Stage) -> Signs:
    """Look at the student's weights, as its layers use them, and at its outputs for a seeded sample of the data.

    A copy is looked at, and the generators are put back: the stage goes on as if nobody had looked.
    """
    net = lent(stage.student.module).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[stage.device] if stage.device.type == "cuda" else []):
        answers = [(stage.task.outputs(net, batch), batch) for batch in stage.sample(EXAMPLES)]
        outputs = _compared(stage.task, answers)

    living: dict[str, bool] = {}
    broken = []
    for name, tensor in used_tensors(net):
        path, _, kind = name.rpartition(".")
        if path and "bias" not in kind:
            living[path] = living.get(path, False) or bool(tensor.any())
        if not bool(tensor.isfinite().all()):
            broken.append(name)
    if not all(bool(tensor.isfinite().all()) for tensor in outputs):
        broken.append("an output")

    return Signs(
        alive=[path for path, lives in living.items() if lives],
        dead=[path for path, lives in living.items() if not lives],
        constant=bool(outputs) and all(_same(tensor) for tensor in outputs),
        broken=broken[0] if broken else None,
    )


def _compared(task: Task, answers: Sequence[tuple[Any, Batch]]) -> list[Tensor]:
    """Return what should differ from example to example: class scores, or else each tensor of the outputs.

    :param answers: outputs and batches.
    :returns: float32, ``(decisions, classes)`` or ``(examples, numbers)``.
    """
    found = []
    for outputs, batch in answers:
        rows = task.rows(outputs, batch)
        parts = tensors_in(outputs) if rows is None else [rows]
        found.append([part.float().flatten(1) for part in parts if part.dim() > 1 and part.is_floating_point()])

    # Batches may be padded to different lengths, where only those as long as the first can be compared with it.
    return [torch.cat([p for p in parts if p.shape[1] == parts[0].shape[1]]) for parts in zip(*found, strict=False)]


def _same(outputs: Tensor) -> bool:
    """Tell whether all rows of a tensor are equal but for rounding."""
    spread = (outputs - outputs[:1]).abs().max()
    return bool(spread <= TOLERANCE * outputs.abs().max())


def refuse_broken(net: nn.Module) -> None:
    """Refuse a net that comes in with a number that is none, before a method makes something else of it.

    A buffer may be infinite, as a mask of attention is.

    :raises NonFiniteNet: naming the first tensor.
    """
    for name, value in (*net.named_parameters(), *net.named_buffers()):
        parameter = isinstance(value, nn.Parameter)
        if bool(value.isnan().any()) or (parameter and bool(value.isinf().any())):
            raise NonFiniteNet(f"{name} of the net that comes in is not finite")


def started_alive(stage: Stage) -> Signs:
    """Return how the student is when a stage starts.

    :raises NonFiniteNet: naming what comes in infinite or not a number: a method may rank it as the smallest of all,
        and take it out without a word.
    """
    before = look(stage)
    if before.broken is not None:
        raise NonFiniteNet(f"stage {stage.name!r}: {before.broken} of the net that comes in is not finite")
    return before


def collapsed(stage: Stage, before: Signs) -> list[str]:
    """Return what a stage that has ended took the life of: paths of layers, and whether the outputs became constant.

    Layers that a method has given up (``stage.give_up``) are left out, and so is what was dead when the stage started.

    :param before: how the student was when the stage started.
    :raises NonFiniteNet: naming the stage, its methods, and what is infinite or not a number.
    """
    now = look(stage)
    if now.broken is not None:
        methods = ", ".join(stage.manager.methods) or "no method"
        raise NonFiniteNet(f"stage {stage.name!r} ({methods}): {now.broken} is not finite")

    gone = [path for path in now.dead if path in before.alive and not stage.gave_up(path)]
    return gone + [CONSTANT] * (now.constant and not before.constant)


def marks(stages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what a report and an artifact say of collapses: for each stage with one its methods and what collapsed.

    :param stages: what the units of a run came to.
    """
    return [{"stage": s["name"], "methods": s["methods"], "what": s["collapsed"]} for s in stages if "collapsed" in s]
