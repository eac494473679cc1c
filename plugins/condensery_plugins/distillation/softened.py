"""What the distillation methods share: softened outputs and their divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def softened(logits: Tensor | Sequence[Tensor], temperature: float) -> Tensor:
    """Return the softmax at a temperature, ``(batch, classes)``; of several nets, the mean of their probabilities.

    :param logits: ``(batch, classes)``, or one such tensor per net.
    """
    if isinstance(logits, Tensor):
        return torch.softmax(logits / temperature, 1)
    return torch.stack([torch.softmax(one / temperature, 1) for one in logits]).mean(0)


def divergence(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return KL(target || softened student), summed over classes and averaged over the batch, in nats.

    Without the factor T^2.

    :param student: logits, ``(batch, classes)``.
    :param target: probabilities, of that shape.
    :param temperature: of the student; the target has been softened already.
    :returns: shape ``()``.
    """
    log_student = torch.log_softmax(student / temperature, 1)
    # torch's default, "mean", divides by the classes as well: the term would be as many times too weak.
    return torch.nn.functional.kl_div(log_student, target, reduction="batchmean")
