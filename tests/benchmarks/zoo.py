"""``make bench``, part three: nets with half of every group of channels cut, beside Torch-Pruning's own pruner.

Both start from the same random weights and cut to the same MACs; latencies are taken in turn in one process. First come
the processor's seconds of the graph and of a cut beside Torch-Pruning's own, which tries and proves nothing.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from condensery import Registry
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.surgery import ChannelGraph, apply, choose
from condensery.tasks import TaskFacts

NETS = (
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
    "regnety_008",
)
FACTS = TaskFacts("image", outputs=10, channels=3, size=64)
RATIO, ROUNDS, TRIES = 0.5, 9, 6
TIMED = ("resnet18", "resnet50")
FIRST = "at first 20 to 35x"


def macs(net: nn.Module, image: torch.Tensor) -> int:
    """Return multiply-accumulates of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image[:1])
    return int(counter.get_total_flops()) // 2


def ours(net: nn.Module, image: torch.Tensor) -> nn.Module:
    """Cut half of every group by the L1 norm of its first layer."""
    return halved(ChannelGraph(net, image), net)


def halved(graph: ChannelGraph, net: nn.Module) -> nn.Module:
    """Cut half of every group of a graph."""
    groups = [g for g in graph.groups if g.reason is None]
    scores = {g: net.get_parameter(f"{g.layers[0]}.weight").detach().abs().flatten(1).sum(1) for g in groups}
    apply(graph.cut(choose(scores, RATIO, "local")), net)
    return net


def theirs(build: Sequence[nn.Module], image: torch.Tensor, wanted: int) -> nn.Module:
    """Cut with Torch-Pruning's magnitude pruner, by the ratio whose MACs come nearest to the wanted ones."""
    import torch_pruning

    found: list[tuple[int, nn.Module]] = []
    low, high = 0.2, 0.8
    for net in build:
        ratio = (low + high) / 2
        classifier = net.get_classifier()  # type: ignore[operator]
        pruner = torch_pruning.pruner.BasePruner(
            net,
            image,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=ratio,
            ignored_layers=[classifier],
        )
        pruner.step()
        got = macs(net, image)
        found.append((abs(got - wanted), net))
        low, high = (ratio, high) if got > wanted else (low, ratio)
    return min(found, key=lambda pair: pair[0])[1]


def paired_ms(nets: Sequence[nn.Module], image: torch.Tensor) -> list[float]:
    """Return the median time of a forward pass of each net, taken in turn, in milliseconds."""
    times: list[list[float]] = [[] for _ in nets]
    with torch.no_grad():
        for number in range(ROUNDS + 2):
            for net, taken in zip(nets, times, strict=True):
                start = time.perf_counter()
                net(image)
                if number >= 2:
                    taken.append(1000 * (time.perf_counter() - start))
    return [statistics.median(t) for t in times]


def graph_seconds(name: str, registry: Registry, image: torch.Tensor) -> dict[str, float]:
    """Return the seconds of a graph and of a cut of half of all channels, ours and Torch-Pruning's."""
    import torch_pruning

    def took(work: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        found = work()
        return time.process_time() - start, found

    def cut(graph: Any, net: Any) -> None:
        for group in list(graph.get_all_groups(ignored_layers=[net.get_classifier()])):
            group.prune(list(range(len(group[0].idxs) // 2)))

    figures = {}
    for _ in range(2):  # the first time warms up
        mine, peer = (build_net(ModelSpec(key=f"timm/{name}"), FACTS, registry, 0).eval() for _ in range(2))
        figures["graph_s"], graph = took(partial(ChannelGraph, mine, image))
        figures["cut_s"], _ = took(partial(halved, graph, mine))
        build = partial(torch_pruning.DependencyGraph().build_dependency, peer, image)
        figures["peer_graph_s"], graph = took(build)
        figures["peer_cut_s"], _ = took(partial(cut, graph, peer))
    return figures


def main() -> None:
    """Print and store the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    registry = Registry.open()
    figures: dict[str, dict[str, Any]] = {name: {} for name in NETS}
    image = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in TIMED:
        figures[name] = found = graph_seconds(name, registry, image[:2])
        times = [found[part] / found[f"peer_{part}"] for part in ("graph_s", "cut_s")]
        print(
            f"{name}: graph {found['graph_s']:.2f} s, {times[0]:.1f}x Torch-Pruning's ({FIRST}); "
            f"cut {found['cut_s']:.2f} s, {times[1]:.1f}x",
            flush=True,
        )

    for name in NETS:
        made = [build_net(ModelSpec(key=f"timm/{name}"), FACTS, registry, 0).eval() for _ in range(TRIES + 2)]
        dense, mine = made[0], ours(made[1], image)
        peer = theirs(made[2:], image, macs(mine, image))
        work = [macs(net, image) for net in (dense, mine, peer)]
        took = paired_ms((dense, mine, peer), image)
        figures[name] |= {"macs": work, "batch8_ms": took}
        print(
            f"{name}: MACs {work[0] / work[1]:.2f}x (Torch-Pruning {work[0] / work[2]:.2f}x), "
            f"latency {took[0] / took[1]:.2f}x (Torch-Pruning {took[0] / took[2]:.2f}x)",
            flush=True,
        )
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-zoo.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
