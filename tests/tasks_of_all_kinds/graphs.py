"""A graph net: batches whose examples are no dimension of a tensor, so that the batch says what an example is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn

from condensery import Batch
from condensery.tasks import TaskFacts

FEATURES, CLASSES = 3, 2


@dataclasses.dataclass
class Graphs(Batch):
    """Several graphs as one: ``nodes`` ``(nodes, features)``, ``edges`` ``(2, edges)``, ``graph`` of each node."""

    @property
    def size(self) -> int:
        return int(self.inputs["graph"].max()) + 1

    def part(self, start: int, stop: int) -> Self:
        graph, edges = self.inputs["graph"], self.inputs["edges"]
        inside = (graph >= start) & (graph < stop)
        first = int(inside.nonzero()[0])
        kept = edges[:, inside[edges[0]]] - first
        inputs = {"nodes": self.inputs["nodes"][inside], "edges": kept, "graph": graph[inside] - start}
        return dataclasses.replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[start:stop])


class Rings(Made):
    """Is this ring of nodes longer than five?"""

    key = "made-graphs"
    facts = TaskFacts("graph", outputs=CLASSES, channels=FEATURES)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        lengths = torch.randint(3, 9, (examples,), generator=generator).tolist()
        return [torch.randn(length, FEATURES, generator=generator) for length in lengths]

    def batch(self, examples: Sequence[Tensor]) -> Graphs:
        lengths = torch.tensor([len(nodes) for nodes in examples])
        starts = lengths.cumsum(0) - lengths
        rings = [start + torch.stack([torch.arange(n), (torch.arange(n) + 1) % n]) for start, n in zip(starts, lengths)]  # noqa: B905
        graph = torch.arange(len(examples)).repeat_interleave(lengths)
        inputs = {"nodes": torch.cat(list(examples)), "edges": torch.cat(rings, 1), "graph": graph}
        return Graphs(inputs, (lengths > 5).long())

    def example(self, batch_size: int = 2) -> Any:
        return self.batch(self.make(batch_size, torch.Generator().manual_seed(0))).inputs


class GraphNet(nn.Module):
    """Two rounds of messages along the edges, then the sum over each graph."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(features, 8), nn.Linear(8, 8), nn.Linear(8, classes)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        """Return class scores, ``(graphs, classes)``."""
        for layer in (self.first, self.second):
            told = layer(nodes)
            nodes = torch.relu(told.index_add(0, edges[1], told[edges[0]]))
        whole = nodes.new_zeros(int(graph.max()) + 1, nodes.shape[1]).index_add(0, graph, nodes)
        return self.head(whole)  # type: ignore[no-any-return]


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build a graph net."""
    return GraphNet(facts.channels, facts.outputs)
