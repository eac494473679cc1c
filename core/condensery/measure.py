"""Measuring a net: size, work, speed, quality."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from condensery.clone import clone
from condensery.tasks import Batch, Task
from condensery.transforms import attached, owner_of

# Ops that FlopCounterMode counts as nothing without a warning, though they do the work of a layer.
UNCOUNTED = ("lstm", "gru", "rnn_", "_int_mm", "bilinear", "_transformer_encoder_layer", "_native_multi_head_attention")


def evaluate(task: Task, model: nn.Module, device: torch.device, *, batch_size: int = 500) -> dict[str, float]:
    """Return the task's metrics over the test split, in eval mode and float32."""
    was = model.training
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.no_grad():
        for batch in task.batches("test", batch_size=batch_size, device=device):
            assert batch.labels is not None
            logits.append(task.logits(model, batch.inputs).float().cpu())
            labels.append(batch.labels.cpu())
    model.train(was)
    return task.score(torch.cat(logits), torch.cat(labels))


def counts(model: nn.Module) -> dict[str, int]:
    """Return parameters and those of them that are not zero, as the layers use them; transforms' own don't count."""
    own = {id(p) for a in attached(model) for p in a.transform.parameters()}
    values: dict[int, Tensor] = {id(p): p for p in model.parameters() if id(p) not in own}
    with torch.no_grad():
        for item in attached(model):
            owner, tensor = owner_of(model, item.target)
            if not tensor.startswith(":"):
                values[id(owner.parametrizations[tensor].original)] = getattr(owner, tensor)  # type: ignore[union-attr, index]
    return {
        "parameters": sum(v.numel() for v in values.values()),
        "nonzeros": sum(int(v.count_nonzero()) for v in values.values()),
    }


class _Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def macs(task: Task, model: nn.Module) -> int | None:
    """Return multiply-accumulates of one example, or ``None`` if the net uses an op that can't be counted."""
    net = clone(model).cpu().eval()
    batch = Batch(task.example_input(1))
    with torch.no_grad():
        with _Ops() as ops:
            task.logits(net, batch.inputs)
        if any(word in name for name in ops.names for word in UNCOUNTED):
            return None
        with FlopCounterMode(display=False) as counter:
            task.logits(net, batch.inputs)
    return int(counter.get_total_flops()) // 2


def latency(task: Task, model: nn.Module, device: torch.device, *, batch_size: int = 1, runs: int = 15) -> float:
    """Return the median time of a forward pass in milliseconds, after warming up."""
    was = model.training
    model.eval()
    batch = Batch(task.example_input(batch_size)).to(device)
    times = []
    with torch.no_grad():
        for number in range(runs + 3):
            start = time.perf_counter()
            task.logits(model, batch.inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 3:
                times.append(time.perf_counter() - start)
    model.train(was)
    return 1000 * statistics.median(times)


def measure(task: Task, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return size, work, speed and quality of a net. ``bytes`` is known only for a saved artifact."""
    batch_ms = latency(task, model, device, batch_size=64, runs=5)
    return {
        **counts(model),
        "macs": macs(task, model),
        "bytes": None,
        "latency_ms": round(latency(task, model, device), 4),
        "fps": round(64_000 / batch_ms, 1),
        "quality": evaluate(task, model, device),
    }


def ratios(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """Return the survey's ratios (section 1.3): parameters removed in percent of non-zeros, MACs and speed-up."""

    def over(a: float | None, b: float | None) -> float | None:
        return None if not a or not b else a / b

    return {
        "parameters_removed": 100.0 * (1 - after["nonzeros"] / before["nonzeros"]),
        "compression_rate": over(before["bytes"], after["bytes"]),
        "macs": over(before["macs"], after["macs"]),
        "speedup": over(before["latency_ms"], after["latency_ms"]),
    }
