"""What the distillation methods share: softened outputs and their divergence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def softened(logits: Tensor | Sequence[Tensor], temperature: float) -> Tensor:
    """Return the softmax at a temperature; of several nets, the mean of their probabilities.

    :param logits: ``(batch, classes)``, or one such tensor per net.
    """
    if isinstance(logits, Tensor):
        return torch.softmax(logits / temperature, 1)
    return torch.stack([torch.softmax(one / temperature, 1) for one in logits]).mean(0)


def divergence(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return KL(target || softened student), summed over classes and averaged over the batch, in nats.

    Without the factor T^2. The default ``mean`` of torch divides by the classes as well, which makes the term
    as many times too weak.

    :param student: logits ``(batch, classes)``; ``target``: probabilities of that shape.
    """
    log_student = torch.log_softmax(student / temperature, 1)
    return torch.nn.functional.kl_div(log_student, target, reduction="batchmean")
