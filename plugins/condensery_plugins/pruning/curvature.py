"""Second derivatives of the loss: Gauss-Newton rows of single examples, and what can be made of them.

The loss of an example is L(f(w)) with f the net's outputs. Its Hessian is J' H J, with J = df/dw and H = d2L/df2, plus
terms with the second derivatives of f, which vanish at a perfect fit and which Gauss-Newton drops. With H = S S', the
rows are the columns of J' S: the sum of their outer products is J' H J.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from condensery.errors import UsageError
from condensery.nets import Weight
from condensery.run import Stage
from condensery.tasks import Batch, head

Rows = Literal["gauss-newton", "sampled", "fisher"]


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run a net in eval mode, with gradients; each module's mode is put back."""
    modes = {m: m.training for m in net.modules()}
    net.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def loss_of(stage: Stage, logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss of a batch.

    :raises UsageError: if there is none, because the stage has no labels.
    """
    loss = stage.task.loss(logits, batch)
    if loss is None:
        raise UsageError(f"stage {stage.name!r}: second derivatives are those of the loss, and there are no labels")
    return loss


def output_hessians(stage: Stage, logits: Tensor, batch: Batch) -> Tensor:
    """Return each example's second derivatives of its own loss by its outputs.

    It asks for labels even where these don't matter, as under cross entropy: the task's loss does.

    :param logits: ``(batch, outputs)``.
    :returns: ``(batch, outputs, outputs)``.
    """
    outputs = logits.detach().requires_grad_()
    total = loss_of(stage, outputs, batch) * len(outputs)
    (slope,) = torch.autograd.grad(total, outputs, create_graph=True)
    rows = [torch.autograd.grad(s.sum(), outputs, retain_graph=True)[0] for s in slope.unbind(1)]
    return torch.stack(rows, 1)


def factors(hessian: Tensor) -> list[Tensor]:
    """Return vectors whose outer products sum up to a Hessian; directions of negative curvature are left out.

    :param hessian: symmetric, ``(outputs, outputs)``.
    """
    values, vectors = torch.linalg.eigh(hessian.double())
    kept = values > 1e-6 * values.max().clamp(min=1e-30)
    return list((vectors * values.clamp(min=0).sqrt()).T[kept].to(hessian.dtype))


def curvature_rows(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows) -> Iterator[Tensor]:
    """Yield the rows of some examples, each flat over all weights in order; the mean over examples is still to take.

    :param kind: ``gauss-newton``: a row for each direction of the outputs; ``sampled``: one row, these summed with
        random signs, whose outer product is the same in the mean; ``fisher``: the gradient of the loss.
    :returns: tensors of shape ``(numbers,)``, zero where a mask holds the weight.
    """
    net, latents = stage.student.module, [w.latent for w in weights]
    generator = torch.Generator().manual_seed(stage.seed)
    with evaluating(net):
        for batch in batches:
            for number in range(batch.size):
                example = batch.part(number, number + 1)
                logits = head(stage.task.outputs(net, example)).float()
                if kind == "fisher":
                    starts = list(torch.autograd.grad(loss_of(stage, logits, example), logits, retain_graph=True))
                else:
                    starts = [f[None] for f in factors(output_hessians(stage, logits, example)[0])]
                if kind == "sampled" and starts:
                    signs = torch.randint(0, 2, (len(starts),), generator=generator).tolist()
                    starts = [torch.stack([f if sign else -f for f, sign in zip(starts, signs, strict=True)]).sum(0)]
                for left, start in enumerate(reversed(starts)):
                    grads = torch.autograd.grad(
                        logits, latents, start, retain_graph=left < len(starts) - 1, materialize_grads=True
                    )
                    yield torch.cat([g.flatten() for g in grads])


def row_diagonal(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows) -> list[Tensor]:
    """Return the diagonal of the rows' second moment for each weight, exact for the given examples."""
    total = torch.zeros(sum(w.latent.numel() for w in weights), dtype=torch.float64, device=stage.device)
    for row in curvature_rows(stage, weights, batches, kind):
        total += row.double() ** 2
    return unflatten(total / sum(b.size for b in batches), weights)


def hutchinson_diagonal(stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], probes: int) -> list[Tensor]:
    """Return an estimate of the whole Hessian's diagonal for each weight: the mean of v * (H v) over random signs v.

    Exact where the Hessian is diagonal; else its variance falls with the number of probes. Entries may be negative.
    """
    net, latents = stage.student.module, [w.latent for w in weights]
    generator = torch.Generator().manual_seed(stage.seed)
    examples = sum(b.size for b in batches)
    total = [torch.zeros_like(x, dtype=torch.float64) for x in latents]
    # The fused attention kernels have no second derivative.
    with evaluating(net), sdpa_kernel(SDPBackend.MATH):
        for batch in batches:
            loss = loss_of(stage, head(stage.task.outputs(net, batch)).float(), batch)
            slopes = torch.autograd.grad(loss, latents, create_graph=True, materialize_grads=True)
            for _ in range(probes):
                signs = [
                    (torch.randint(0, 2, x.shape, generator=generator) * 2 - 1).to(x.device, x.dtype) for x in latents
                ]
                along = sum((s * v).sum() for s, v in zip(slopes, signs, strict=True) if s.requires_grad)
                assert isinstance(along, Tensor)
                products = torch.autograd.grad(along, latents, retain_graph=True, materialize_grads=True)
                for mine, sign, product in zip(total, signs, products, strict=True):
                    mine += (sign * product).double() * (batch.size / examples / probes)
    return total


def unflatten(flat: Tensor, weights: Sequence[Weight]) -> list[Tensor]:
    """Cut a flat tensor into one for each weight, of its shape."""
    parts = torch.split(flat, [w.latent.numel() for w in weights])
    return [part.view_as(w.latent) for part, w in zip(parts, weights, strict=True)]
