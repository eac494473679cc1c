"""How often a forward pass read each parameter: a layer that reads two things can't be cut to suit one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def uses(outputs: Iterable[Tensor]) -> Counter[int]:
    """Return how many operations behind some outputs read each parameter, by the parameter's identity.

    :param outputs: of any shapes, with their graph; parameters that want no gradient aren't seen.
    """
    found: Counter[int] = Counter()
    todo: list[Any] = [tensor.grad_fn for tensor in outputs]
    seen = set(todo)
    while todo:
        for behind, _ in todo.pop().next_functions:
            if behind is None:
                continue

            # A leaf of the graph holds the parameter itself, and is reached once for each operation that reads it.
            if hasattr(behind, "variable"):
                found[id(behind.variable)] += 1
            elif behind not in seen:
                seen.add(behind)
                todo.append(behind)
    return found


def is_used_once(module: nn.Module, modules: Iterable[nn.Module], counts: Mapping[int, int]) -> bool:
    """Tell whether a layer has a weight of its own, which no other layer has, and is called once.

    :param modules: all modules of the net, each once.
    :param counts: see :func:`uses`.
    """
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        return False

    # A layer may be tied to one that the forward pass leaves out: a cut would untie them all the same.
    holders = sum(weight is held for other in modules for held in other.parameters(recurse=False))
    return counts[id(weight)] == holders == 1
