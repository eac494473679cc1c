"""Back-propagation of diagonal second derivatives, as Optimal Brain Damage does it.

Becker, LeCun: "Improving the convergence of back-propagation learning with second order methods", 1988. With a the sum
and x the state of a unit: d2E/dx_j2 = sum_i w_ij^2 d2E/da_i2, d2E/da_i2 = f'(a_i)^2 d2E/dx_i2 (f'' is dropped), and
d2E/du_k2 = sum of d2E/da_i2 x_j^2 over all connections (i, j) that use parameter u_k.

Each operation runs as usual, but its result is given another gradient: that of a surrogate with squared coefficients.
So one ordinary backward pass carries the second derivatives of all examples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from condensery import Batch, NotApplicable, Stage, Weight
from condensery_plugins.pruning.curvature import counted, evaluating, output_hessians, parted, refuse_linear

LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
ELEMENTWISE = {"relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu", "softplus", "batch_norm"}
"""Batch normalization counts among them: in eval mode it is a factor and a shift for each channel."""
MOVES = {"flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "cat", "pad"}
CHOICES = {"__getitem__", "max_pool1d", "max_pool2d", "max_pool3d", "dropout"}
LOOKS = {"float", "__get__", "size", "dim", "numel", "is_floating_point"}
SUMS = {"add", "__add__", "__radd__", "__iadd__"}
SELECTIONS = MOVES | CHOICES | LOOKS | SUMS
"""Operations whose coefficients are 0 and 1, which squaring leaves as they are; dropout is one in eval mode."""


class CurvatureMode(TorchFunctionMode):
    """While it is on, gradients of what is computed are second derivatives. A context.

    :param weights: parameters to take the second derivatives by, with their current values (through masks).
    :param method: key of the method that asks, for messages.
    """

    def __init__(self, weights: Sequence[tuple[Weight, Tensor]], method: str) -> None:
        super().__init__()
        self.method = method
        self.sums = [torch.zeros_like(value, requires_grad=True) for _, value in weights]
        """Zeros in the place of the sums of d2E/da2 x^2: what a backward pass leaves as their gradient."""
        self._of = {id(value): sum_ for (_, value), sum_ in zip(weights, self.sums, strict=True)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation of torch, and give its result the gradient that its kind wants.

        :raises NotApplicable: for an operation whose kind isn't known, on the way from weights to outputs.
        """
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")

        if name in LAYERS:
            return self._layer(func, *args, **kwargs)
        if (name in SELECTIONS and "alpha" not in kwargs) or not _carries([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        if name in ELEMENTWISE and not (name == "batch_norm" and args[1] is None):
            return _elementwise(func, *args, **kwargs)
        if name == "mean" or (name == "adaptive_avg_pool2d" and _divides(*args[:2])):
            return _mean(func, *args, **kwargs)
        raise NotApplicable(self.method, f"hessian 'backprop' can't pass through {name!r}; say 'gauss-newton'")

    def _layer(
        self,
        func: Callable[..., Tensor],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **more: Any,
    ) -> Tensor:
        """Run a layer: its sums a have the derivatives w^2 by the states x, and x^2 by the weights."""
        with torch.no_grad():
            value = func(x, weight, bias, *rest, **more)

        # Added terms are zero: they only carry the gradients.
        by_weight = self._of.get(id(weight), torch.zeros_like(weight))
        by_bias = None if bias is None else self._of.get(id(bias), torch.zeros_like(bias))
        value = value + func(x.detach() ** 2, by_weight, by_bias, *rest, **more)
        if x.requires_grad:
            value = value + func(x - x.detach(), weight.detach() ** 2, None, *rest, **more)
        return value


def _carries(values: Sequence[Any]) -> bool:
    """Tell whether curvature has to pass through a call, given its arguments."""
    return any(
        v.requires_grad if isinstance(v, Tensor) else isinstance(v, list | tuple) and _carries(v) for v in values
    )


def _divides(x: Tensor, size: int | Sequence[int]) -> bool:
    """Tell whether pooling to a size takes every pixel once: then it is a mean."""
    sizes = (size, size) if isinstance(size, int) else size
    return all(side % part == 0 for side, part in zip(x.shape[-2:], sizes, strict=True))


def _elementwise(func: Callable[..., Tensor], x: Tensor, *rest: Any, inplace: bool = False, **more: Any) -> Tensor:
    """Run an operation on each number alone, with the square of its slope as its derivative.

    :param inplace: whether the result is written over ``x``, so that the net sees it there too.
    """
    with torch.enable_grad():
        alone = x.detach().requires_grad_()
        value = func(alone, *rest, **more)
        (slope,) = torch.autograd.grad(value.sum(), alone)
    found = value.detach() + slope**2 * (x - x.detach())
    return x.copy_(found) if inplace else found


def _mean(func: Callable[..., Tensor], x: Tensor, *rest: Any, **more: Any) -> Tensor:
    """Run a mean; its gradient has the factor 1/n and gets another, as if the coefficients were squared."""
    value = func(x.detach(), *rest, **more)
    return value + func(x - x.detach(), *rest, **more) * (value.numel() / x.numel())


def backprop_diagonal(
    stage: Stage, weights: Sequence[Weight], batches: Sequence[Batch], *, method: str
) -> list[Tensor]:
    """Return the diagonal second derivatives of the loss for each weight, of its shape: the mean over some examples.

    :param method: key of the method that asks, for messages.
    :raises NotApplicable: naming the operation through which the rules above don't lead.
    :raises NoCurvature: if the loss has no second derivatives by the outputs.
    """
    net = stage.student.module
    there = counted(stage.task, batches)
    whole = sum(weight for _, weight in there)
    total = [torch.zeros_like(w.latent, dtype=torch.float64) for w in weights]

    curved = False
    for batch, weight in there:
        # Cached, so that the tensors that the layers use are the ones looked up here.
        with evaluating(net), parametrize.cached():
            mode = CurvatureMode([(w, getattr(w.module, w.tensor)) for w in weights], method)
            with mode:
                outputs = stage.task.outputs(net, batch)
            start = torch.diagonal(output_hessians(stage, outputs, batch), dim1=1, dim2=2)
            curved = curved or bool(start.any())
            parts, lay = parted(stage.task, outputs, batch)
            found = torch.autograd.grad(lay(parts), mode.sums, start, materialize_grads=True)
        for mine, part in zip(total, found, strict=True):
            mine += part.double() * (weight / batch.size) / whole

    if not curved:
        refuse_linear(stage, [batch for batch, _ in there], method)
    return total
