"""What the tests of the quantizers share: stages on small nets, a layer that has seen a batch, gemmlowp's rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from condensery import Registry, Stage
from condensery.nets import Reach, build_net
from condensery.recipe import ModelSpec, StageSpec, TaskSpec, TrainSpec
from condensery.run import Player
from condensery.tasks import Subset, build_task
from condensery_plugins.quantization.folded_layers import Folded

torch.set_num_threads(1)
REGISTRY = Registry.open()


def stage_of(model: str, task: str = "digits", **config: Any) -> Stage:
    """Return a stage of one epoch on 256 examples, eight steps, with a fresh student."""
    given = build_task(TaskSpec(key=task), REGISTRY)
    spec = ModelSpec(key=model, **config)
    made = Stage(
        StageSpec(),
        given,
        TrainSpec(batch_size=32),
        seed=0,
        device=torch.device("cpu"),
        subset=Subset(256),
        reach=Reach.of(REGISTRY),
    )
    made.epochs = 1
    made.players["student"] = Player("student", build_net(spec, given.facts, REGISTRY, 0), spec=spec, trains=True)
    return made


def settle(layer: Folded, x: Tensor) -> Folded:
    """Give a layer the statistics and ranges of one batch, and return it in eval mode."""
    layer.follows_batches = layer.follows_ranges = True
    layer.train()(x)
    layer.follows_batches = layer.follows_ranges = False
    return layer.eval()


def outputs(net: nn.Module, stage: Stage, kind: type[nn.Module]) -> dict[str, list[Tensor]]:
    """Return every layer's output on the test split, and the logits under the name of the net; all are alive."""
    got: dict[str, list[Tensor]] = {"": []}
    handles = [
        m.register_forward_hook(lambda m, a, o, p=p: got.setdefault(p, []).append(o))
        for p, m in net.named_modules()
        if isinstance(m, kind)
    ]
    with torch.no_grad():
        for batch in stage.task.batches("test", batch_size=100, device=stage.device):
            got[""].append(stage.task.outputs(net, batch))
    for handle in handles:
        handle.remove()

    for path, parts in got.items():
        assert parts[0].std(0).max() > 0, f"{path or 'the net'} gives the same for every example"
    return got


def gemmlowp(x: int, multiplier: int, shift: int) -> int:
    """A rounding high multiply and shift in whole numbers of Python, as the kernels' document describes them.

    Ties of the product go up, those of the shift away from zero; ``shift`` is to the right.
    """
    high = (x * multiplier + 2**30) // 2**31
    quotient, rest = divmod(high, 2**shift)
    return int(quotient + (rest > (2**shift - 1) // 2 + (high < 0)))
