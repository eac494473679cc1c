"""Second derivatives of the loss by the weights: rows of single examples, and the diagonals that they give.

The loss of an example is L(f(w)), with f the net's outputs. Its Hessian by the weights is J' H J, with J = df/dw and
H = d2L/df2, plus terms with the second derivatives of f. These vanish at a perfect fit, and Gauss-Newton drops them.
With H = S S', the columns of J' S are the example's rows: the sum of their outer products is J' H J.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from condensery import Batch, Stage, UsageError, Weight
from condensery.nets import evaluating as in_eval_mode
from condensery.tasks import head

Rows = Literal["gauss-newton", "sampled", "fisher"]


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a net in eval mode and let it have gradients; at the end each module gets its mode back. A context."""
    with in_eval_mode(net), torch.enable_grad():
        yield


def loss_of(stage: Stage, logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    :param logits: ``(batch, outputs)``.
    :raises UsageError: if the stage has no labels, so that there is no loss.
    """
    loss = stage.task.loss(logits, batch)
    if loss is None:
        raise UsageError(f"stage {stage.name!r}: second derivatives are those of the loss, and there are no labels")
    return loss


def output_hessians(stage: Stage, logits: Tensor, batch: Batch) -> Tensor:
    """Return each example's second derivatives of its own loss by its outputs.

    Labels must be there even where they don't matter, as under cross entropy: the task's loss asks for them.

    :param logits: ``(batch, outputs)``.
    :returns: ``(batch, outputs, outputs)``.
    """
    # Examples don't meet in the loss: the derivatives of its sum are each example's own.
    outputs = logits.detach().requires_grad_()
    total = loss_of(stage, outputs, batch) * len(outputs)
    (slope,) = torch.autograd.grad(total, outputs, create_graph=True)
    rows = [torch.autograd.grad(s.sum(), outputs, retain_graph=True)[0] for s in slope.unbind(1)]
    return torch.stack(rows, 1)


def factors(hessian: Tensor) -> list[Tensor]:
    """Return vectors whose outer products sum up to a Hessian; directions of negative curvature are left out.

    :param hessian: symmetric, ``(outputs, outputs)``.
    :returns: vectors of shape ``(outputs,)``, none for a Hessian of zeros.
    """
    values, vectors = torch.linalg.eigh(hessian.double())
    kept = values > 1e-6 * values.max().clamp(min=1e-30)
    return list((vectors * values.clamp(min=0).sqrt()).T[kept].to(hessian.dtype))


def curvature_rows(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows) -> Iterator[Tensor]:
    """Yield the rows of some examples, one after another; the sum of their outer products is not divided by anything.

    :param kind: ``gauss-newton``: a row for each direction of the outputs; ``sampled``: one row, these summed with
        random signs, whose outer product is the same in the mean; ``fisher``: the gradient of the loss.
    :returns: tensors of shape ``(numbers of all weights,)``, in the weights' order, zero where a mask holds a number.
    """
    net, latents = stage.student.module, [w.latent for w in weights]
    generator = torch.Generator().manual_seed(stage.seed)

    with evaluating(net):
        for example in [batch.part(i, i + 1) for batch in batches for i in range(batch.size)]:
            logits = head(stage.task.outputs(net, example)).float()
            starts = _starts(stage, logits, example, kind, generator)
            for number, start in enumerate(reversed(starts), start=1):
                more = number < len(starts)  # the graph is needed again
                grads = torch.autograd.grad(logits, latents, start, retain_graph=more, materialize_grads=True)
                yield torch.cat([g.flatten() for g in grads])


def _starts(stage: Stage, logits: Tensor, example: Batch, kind: Rows, generator: torch.Generator) -> list[Tensor]:
    """Return what is propagated back from an example's outputs, for one row each: ``(1, outputs)``."""
    if kind == "fisher":
        return list(torch.autograd.grad(loss_of(stage, logits, example), logits, retain_graph=True))

    found = [factor[None] for factor in factors(output_hessians(stage, logits, example)[0])]
    if kind == "sampled" and found:
        signs = torch.randint(0, 2, (len(found),), generator=generator).tolist()
        return [torch.stack([f if sign else -f for f, sign in zip(found, signs, strict=True)]).sum(0)]
    return found


def row_diagonal(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows) -> list[Tensor]:
    """Return the diagonal of the Hessian that the rows of some examples give, for each weight of its shape.

    That is the sum of the squared rows, over the number of examples.
    """
    total = torch.zeros(sum(w.latent.numel() for w in weights), dtype=torch.float64, device=stage.device)
    for row in curvature_rows(stage, weights, batches, kind):
        total += row.double() ** 2
    return unflatten(total / sum(b.size for b in batches), weights)


def hutchinson_diagonal(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], probes: int) -> list[Tensor]:
    """Return an estimate of the whole Hessian's diagonal for each weight, of its shape.

    The mean of v * (H v) over vectors v of random signs. Exact where the Hessian is diagonal; else its variance falls
    with the number of such vectors. Entries may be negative.

    :param probes: how many vectors are drawn for each batch.
    """
    net, latents = stage.student.module, [w.latent for w in weights]
    generator = torch.Generator().manual_seed(stage.seed)
    examples = sum(b.size for b in batches)
    total = [torch.zeros_like(x, dtype=torch.float64) for x in latents]

    def draw(like: Tensor) -> Tensor:
        return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device, like.dtype)

    # The fused attention kernels have no second derivative.
    with evaluating(net), sdpa_kernel(SDPBackend.MATH):
        for batch in batches:
            loss = loss_of(stage, head(stage.task.outputs(net, batch)).float(), batch)
            slopes = torch.autograd.grad(loss, latents, create_graph=True, materialize_grads=True)

            for _ in range(probes):
                signs = [draw(x) for x in latents]
                along = sum((s * v).sum() for s, v in zip(slopes, signs, strict=True) if s.requires_grad)
                assert isinstance(along, Tensor)
                products = torch.autograd.grad(along, latents, retain_graph=True, materialize_grads=True)
                for mine, sign, product in zip(total, signs, products, strict=True):
                    mine += (sign * product).double() * (batch.size / examples / probes)
    return total


def unflatten(flat: Tensor, weights: Sequence[Weight]) -> list[Tensor]:
    """Cut a flat tensor of numbers, ``(numbers of all weights,)``, into one for each weight, of its shape."""
    parts = torch.split(flat, [w.latent.numel() for w in weights])
    return [part.view_as(w.latent) for part, w in zip(parts, weights, strict=True)]
