"""Second derivatives of the loss by the weights: rows of single examples, and the diagonals that they give.

The loss of an example is L(f(w)), with f the net's outputs. Its Hessian by the weights is J' H J, with J = df/dw and
H = d2L/df2, plus terms with the second derivatives of f. These vanish at a perfect fit, and Gauss-Newton drops them.
With H = S S', the columns of J' S are the example's rows: the sum of their outer products is J' H J.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from condensery import Batch, Stage, UsageError, Weight
from condensery.nets import evaluating as in_eval_mode
from condensery.tasks import Task, full_precision, head, map_tensors, tensors_in

Rows = Literal["gauss-newton", "sampled", "fisher"]
MOST = 2**28
"""Second derivatives by outputs that are held at once."""
FISHER = "say hessian 'fisher'"
"""What methods with that setting offer where the loss has no second derivatives by the outputs."""


class NoCurvature(UsageError):
    """A method ranks by second derivatives of the loss by the net's outputs, and there are none."""


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a net in eval mode and let it have gradients; at the end each module gets its mode back. A context."""
    # cuDNN's recurrent layers have no gradient in eval mode.
    with in_eval_mode(net), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


def loss_of(stage: Stage, outputs: Any, batch: Batch) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    :param outputs: a tree, as the task's ``outputs`` gives it.
    :raises UsageError: if the stage has no labels, so that there is no loss.
    """
    loss = stage.task.loss(outputs, batch)
    if loss is None:
        raise UsageError(f"stage {stage.name!r}: second derivatives are those of the loss, and there are no labels")
    return loss


def counted(task: Task, batches: Sequence[Batch]) -> list[tuple[Batch, float]]:
    """Return the batches in which something counts, each with how much, beside the others, its mean loss does."""
    weights = [task.weight(batch) for batch in batches]
    return [(batch, weight) for batch, weight in zip(batches, weights, strict=True) if weight]


def parted(task: Task, outputs: Any, batch: Batch) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Tensor]]:
    """Return the outputs that a loss depends on, and the function that lays them out by decisions.

    Between two decisions there are no second derivatives: they are rows of class scores, else examples; where an
    example is no place in dimension 0, as of graphs, the whole batch is one.

    :returns: the tensors, and what makes ``(decisions, numbers)`` of one tensor of each one's shape.
    """
    if type(task).loss is Task.loss:
        scores = head(outputs)
        flat = scores.dim() == 2
        return [scores], lambda found: found[0] if flat else found[0].movedim(1, -1).flatten(0, -2)

    parts = [tensor for tensor in tensors_in(outputs) if tensor.requires_grad]
    rows = batch.size if all(tensor.dim() and len(tensor) == batch.size for tensor in parts) else 1
    return parts, lambda found: torch.cat([tensor.reshape(rows, -1) for tensor in found], 1)


def output_hessians(stage: Stage, outputs: Any, batch: Batch) -> Tensor:
    """Return each decision's second derivatives of the loss by its outputs, of the mean loss times the examples.

    Labels must be there even where they don't matter, as under cross entropy: the task's loss asks for them.

    :param outputs: a tree with gradients.
    :returns: ``(decisions, numbers, numbers)``, see :func:`parted`.
    :raises UsageError: if these are too many to hold.
    """
    parts, lay = parted(stage.task, outputs, batch)
    leaves = [tensor.detach().requires_grad_() for tensor in parts]
    swapped = {id(tensor): leaf for tensor, leaf in zip(parts, leaves, strict=True)}

    # Decisions don't meet in the loss: the derivatives of its sum are each one's own.
    total = loss_of(stage, map_tensors(lambda t: swapped.get(id(t), t), outputs), batch) * batch.size
    slope = lay(torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True))
    if slope.numel() * slope.shape[1] > MOST:
        raise UsageError(
            f"stage {stage.name!r}: {len(slope)} decisions of {slope.shape[1]} outputs each have too many second "
            "derivatives; say hessian 'fisher', which needs none"
        )
    if not slope.requires_grad:  # it is the same whatever the outputs are
        return slope.new_zeros(*slope.shape, slope.shape[1])
    each = (torch.autograd.grad(s.sum(), leaves, retain_graph=True, materialize_grads=True) for s in slope.unbind(1))
    return torch.stack([lay(row) for row in each], 1)


def refuse_linear(stage: Stage, batches: Sequence[Batch], method: str, instead: str = FISHER) -> None:
    """Refuse a loss that has no second derivatives by the net's outputs at any of some examples.

    A loss may be straight at these alone, as a squared hinge is beyond its margin. So a dry run, which has few, refuses
    only what has none where all outputs are zero either, and nothing where its weights stand in for trained ones; the
    real stage comes here again.

    :param batches: the examples; where there are none, nothing is refused.
    :param method: key of the method that asks.
    :param instead: what it offers for such a loss.
    :raises NoCurvature: naming the method and what to do.
    """
    if not batches or stage.stands_in or (stage.dry and stage.step > 0):
        return

    net = stage.student.module
    for batch in batches if stage.dry else ():
        with evaluating(net):
            outputs = map_tensors(lambda t: t * 0 if t.requires_grad else t, stage.task.outputs(net, batch))
            if bool(output_hessians(stage, outputs, batch).any()):
                return

    raise NoCurvature(
        f"{method}: the loss has no curvature by the net's outputs, as nll_loss has none by those of a log_softmax; "
        f"{instead}, or let the net return scores"
    )


def roots(hessians: Tensor) -> Tensor:
    """Return vectors whose outer products sum up to each Hessian; directions of negative curvature are left out.

    :param hessians: symmetric, ``(decisions, numbers, numbers)``.
    :returns: of that shape: a row is a vector, zero for each one that is left out.
    """
    values, vectors = torch.linalg.eigh(hessians.double())
    kept = values > 1e-6 * values.amax(1, keepdim=True).clamp(min=1e-30)
    scaled: Tensor = vectors * (values.clamp(min=0).sqrt() * kept)[:, None]
    return scaled.mT.to(hessians.dtype)


def curvature_rows(
    stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows, *, method: str, instead: str = FISHER
) -> Iterator[Tensor]:
    """Yield the rows of some examples, one after another; the sum of their outer products is not divided by anything.

    An example that counts twice as much as the mean one, as with twice as many tokens, has rows sqrt(2) times as long.

    :param kind: ``gauss-newton``: a row for each direction of the outputs; ``sampled``: one row, these summed with
        random signs, whose outer product is the same in the mean; ``fisher``: the gradient of the loss.
    :param method: key of the method that asks, for messages.
    :param instead: what it offers for a loss without second derivatives by the outputs.
    :returns: tensors of shape ``(numbers of all weights,)``, in the weights' order, zero where a mask holds a number.
    :raises NoCurvature: if no example gives a row, as the loss has no second derivatives by the outputs.
    """
    net, latents = stage.student.module, [w.latent for w in weights]
    generator = torch.Generator().manual_seed(stage.seed)
    examples = [batch.part(i, i + 1) for batch in batches for i in range(batch.size)]
    there = counted(stage.task, examples)
    mean = sum(weight for _, weight in there) / len(examples)

    curved = False
    with evaluating(net):
        for example, weight in there:
            outputs = full_precision(stage.task.outputs(net, example))
            for made, start in _starts(stage, outputs, example, kind, generator):
                grads = torch.autograd.grad(made, latents, start, retain_graph=True, materialize_grads=True)
                row = torch.cat([g.flatten() for g in grads])
                curved = True
                yield row if weight == mean else row * (weight / mean) ** 0.5

    if not curved:
        refuse_linear(stage, [example for example, _ in there], method, instead)


def _starts(
    stage: Stage, outputs: Any, example: Batch, kind: Rows, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what is propagated back from an example's outputs or loss, for one row each, beside its tensor."""
    if kind == "fisher":
        loss = loss_of(stage, outputs, example)
        yield loss, torch.ones_like(loss)
        return

    found = roots(output_hessians(stage, outputs, example))
    kept = found.any(2)
    parts, lay = parted(stage.task, outputs, example)
    made = lay(parts)
    if kind == "gauss-newton":
        for decision, number in reversed(kept.nonzero().tolist()):
            start = torch.zeros_like(made)
            start[decision] = found[decision, number]
            yield made, start
    elif bool(kept.any()):
        signs = torch.zeros(kept.shape)
        signs[kept.cpu()] = torch.randint(0, 2, (int(kept.sum()),), generator=generator).float() * 2 - 1
        signed = found * signs.to(found)[..., None]
        yield made, signed.movedim(1, 0)[kept.any(0)].sum(0)


def row_diagonal(
    stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], kind: Rows, *, method: str, instead: str = FISHER
) -> list[Tensor]:
    """Return the diagonal of the Hessian that the rows of some examples give, for each weight of its shape.

    That is the sum of the squared rows, over the number of examples. The parameters are those of
    :func:`curvature_rows`.
    """
    total = torch.zeros(sum(w.latent.numel() for w in weights), dtype=torch.float64, device=stage.device)
    for row in curvature_rows(stage, weights, batches, kind, method=method, instead=instead):
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
    there = counted(stage.task, batches)
    whole = sum(weight for _, weight in there)
    total = [torch.zeros_like(x, dtype=torch.float64) for x in latents]

    def draw(like: Tensor) -> Tensor:
        return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like.device, like.dtype)

    # The fused attention kernels have no second derivative.
    with evaluating(net), sdpa_kernel(SDPBackend.MATH):
        for batch, weight in there:
            loss = loss_of(stage, full_precision(stage.task.outputs(net, batch)), batch)
            slopes = torch.autograd.grad(loss, latents, create_graph=True, materialize_grads=True)

            for _ in range(probes):
                signs = [draw(x) for x in latents]
                along = sum((s * v).sum() for s, v in zip(slopes, signs, strict=True) if s.requires_grad)
                assert isinstance(along, Tensor)
                products = torch.autograd.grad(along, latents, retain_graph=True, materialize_grads=True)
                for mine, sign, product in zip(total, signs, products, strict=True):
                    mine += (sign * product).double() * (weight / whole / probes)
    return total


def unflatten(flat: Tensor, weights: Sequence[Weight]) -> list[Tensor]:
    """Cut a flat tensor of numbers, ``(numbers of all weights,)``, into one for each weight, of its shape."""
    parts = torch.split(flat, [w.latent.numel() for w in weights])
    return [part.view_as(w.latent) for part, w in zip(parts, weights, strict=True)]
