"""What the distillation methods share: softened outputs and their divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from condensery.run import Outputs


def softened(logits: Tensor | Sequence[Tensor], temperature: float) -> Tensor:
    """Return the softmax at a temperature, ``(rows, classes)``; of several nets, the mean of their probabilities.

    :param logits: ``(rows, classes)``, or one such tensor per net.
    """
    if isinstance(logits, Tensor):
        return torch.softmax(logits / temperature, 1)
    return torch.stack([torch.softmax(one / temperature, 1) for one in logits]).mean(0)


def divergence(student: Outputs, target: Tensor, temperature: float) -> Tensor:
    """Return KL(target || softened student), summed over classes and averaged over the task's rows, in nats.

    Without the factor T^2. Rows of classes that the task's loss weighs more weigh more here as well; where a batch has
    no row at all it is 0.

    :param student: with logits as rows, ``(rows, classes)``.
    :param target: probabilities, of that shape.
    :param temperature: of the student; the target has been softened already.
    :returns: shape ``()``.
    """
    log_student = torch.log_softmax(student.rows / temperature, 1)
    weights = student.row_weights
    if weights is not None:
        each = torch.nn.functional.kl_div(log_student, target, reduction="none").sum(1)
        return (weights * each).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)

    # torch's "mean" divides by the classes as well, and "batchmean" gives no number where there is no row.
    return torch.nn.functional.kl_div(log_student, target, reduction="sum") / max(1, len(target))
