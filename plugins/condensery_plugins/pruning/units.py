"""What the methods that prune attention nets share: scores of heads, head dimensions, neurons and layers, and a choice.

A score is the mean size of the weights that go with a unit: of |w| for ``l1``, the root of the mean of w squared for
``l2``. A mean, so that units of a wide layer and of a narrow one can be ranked together. Biases don't count; weights
that a mask holds count as zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from condensery import Weight
from condensery.nets import SITE_PREFIX, plain_name
from condensery.surgery.attention import Neurons, Part, View, layout
from condensery_plugins.pruning.weight_groups import living

Criterion = Literal["l1", "l2", "random"]


class Scorer:
    """Scores units by the latent weights of a net.

    :param generator: of the ``random`` control.
    """

    def __init__(self, net: nn.Module, criterion: Criterion, generator: torch.Generator) -> None:
        self.net, self.criterion, self.generator = net, criterion, generator

    def heads(self, view: View) -> Tensor:
        """Return a score for each head of keys and values, with the query heads that share it: ``(kv_heads,)``."""
        groups = view.sizes.kv_heads
        parts = [self._rows(p, groups) for p in (*view.q, *view.k, *view.v)]
        return self._score([(s.sum(1), n.sum(1)) for s, n in [*parts, self._columns(view.out, groups)]])

    def head_dims(self, view: View) -> tuple[Tensor, Tensor]:
        """Return scores of the dimensions of queries and keys, and of values: each ``(kv_heads, dims)``."""
        groups = view.sizes.kv_heads
        qk = self._score([self._rows(p, groups) for p in (*view.q, *view.k)])
        v = self._score([*[self._rows(p, groups) for p in view.v], self._columns(view.out, groups)])
        return qk, v

    def neurons(self, mlp: Neurons) -> Tensor:
        """Return a score for each neuron, ``(neurons,)``."""
        every = torch.arange(mlp.neurons)[None]
        parts = [self._rows(Part(p, every), 1) for p in mlp.up] + [self._columns(Part(mlp.down, every), 1)]
        return self._score(parts).flatten()

    def layer(self, path: str) -> Tensor:
        """Return the score of a whole layer, a scalar."""
        layer = self.net.get_submodule(path)
        named = [plain_name(n) for n, p in layer.named_parameters() if p.dim() > 1 and _is_latent(n)]
        places = [name.rpartition(".") for name in named]
        values = [self._values(layer.get_submodule(inner), tensor) for inner, _, tensor in places]
        return self._score([(v.sum(), torch.tensor(float(v.numel()))) for v in values])

    def _values(self, module: nn.Module, tensor: str) -> Tensor:
        """Return the size of each entry, or its square for ``l2``; zero where a mask holds it."""
        values = living(Weight("", module, tensor)).detach()
        return values.double().abs() if self.criterion == "l1" else values.double().square()

    def _rows(self, part: Part, groups: int) -> tuple[Tensor, Tensor]:
        """Return sums over the weights that make each slot; see :meth:`_along`."""
        return self._along(part, groups, outputs=True)

    def _columns(self, part: Part, groups: int) -> tuple[Tensor, Tensor]:
        """Return sums over the weights that read each slot; see :meth:`_along`."""
        return self._along(part, groups, outputs=False)

    def _along(self, part: Part, groups: int, *, outputs: bool) -> tuple[Tensor, Tensor]:
        """Return sums over the weights of each slot of a part, and how many weights that are; ``(groups, dims)`` each.

        :param groups: how many the part's slots are parted in.
        :param outputs: take the weights that write the slots, not those that read them.
        """
        module, where = layout(self.net, part.module)
        weights = self._values(module, "weight")
        axis = where.out_axis if outputs else where.in_axis
        sums = weights.sum([i for i in range(weights.dim()) if i != axis]).cpu()

        table = part.table.view(groups, -1, part.table.shape[1])
        each = weights.numel() / weights.shape[axis] * table.shape[1]
        return sums[table].sum(1), torch.full((groups, part.table.shape[1]), each, dtype=torch.float64)

    def _score(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the mean over some parts together, or random numbers; of the shape of a part's sums.

        :param parts: sums and how many weights they are of, all of one shape.
        """
        total = torch.stack([s.cpu() for s, _ in parts]).sum(0)
        if self.criterion == "random":
            return torch.rand(total.shape, generator=self.generator, dtype=torch.float64)
        mean = total / torch.stack([n for _, n in parts]).sum(0)
        return mean if self.criterion == "l1" else mean.sqrt()


def _is_latent(name: str) -> bool:
    """Tell whether a parameter is the net's own, with or without transforms, and not a transform's."""
    return "parametrizations." not in plain_name(name) and SITE_PREFIX not in name


def lowest(scores: Mapping[str, Tensor], ratio: float, scope: str, *, least: int = 1) -> dict[str, list[int]]:
    """Return the units with the lowest scores, by module; each module keeps some.

    :param scores: ``(units,)`` by module.
    :param ratio: share of all units, 0 to 1; rounded.
    :param scope: ``global`` ranks the units of all modules together, ``local`` each module's by itself.
    :param least: units that each module keeps.
    """
    if scope == "local":
        return {p: g for path, s in scores.items() for p, g in lowest({path: s}, ratio, "global", least=least).items()}

    budget = round(ratio * sum(len(s) for s in scores.values()))
    ranked = sorted((float(v), place, i) for place, s in enumerate(scores.values()) for i, v in enumerate(s))
    paths = list(scores)
    gone: dict[str, list[int]] = {}
    for _, place, unit in ranked:
        path = paths[place]
        if budget and len(gone.get(path, ())) < len(scores[path]) - least:
            gone.setdefault(path, []).append(unit)
            budget -= 1
    return {p: sorted(g) for p, g in gone.items()}
