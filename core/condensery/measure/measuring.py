"""Measuring a net: size, work, speed, memory, quality. Every figure of a report comes from here."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.measure.footprint import peak_memory, without_transforms
from condensery.measure.precision import AS_IT_IS, Precision
from condensery.measure.work import count_work
from condensery.nets import Layer, attached, own_parameters, owner_of
from condensery.tasks import Batch, Split, Subset, Task, channels_last, lay_channels_last

WARM_UP = 3
RUNS, BATCH_RUNS = 15, 5
WORK = ("macs", "effective_macs", "bitops", "moved_bytes")
BATCH = 64
_QUICK = ContextVar("quick", default=False)


def evaluate(
    task: Task,
    model: nn.Module,
    device: torch.device,
    split: Split = "test",
    *,
    batch_size: int = 128,
    subset: Subset | None = None,
    precision: Precision = AS_IT_IS,
    limit: int | None = None,
) -> dict[str, float]:
    """Return the task's metrics over a split, in eval mode; each module's mode is put back.

    :param batch_size: on a CPU larger batches are slower, because what a layer leaves no longer fits its caches, and
        their outputs are the peak of a large net's memory.
    :param limit: stop after this many batches, for a try.
    :raises UsageError: if the task gives no figure for one of its metrics.
    """
    modes = {module: module.training for module in model.modules()}
    handles = []
    if precision.channels_last:
        lay_channels_last(model)
        handles.append(model.register_forward_pre_hook(_lay_channels_last, with_kwargs=True))

    model.eval()
    try:
        with torch.no_grad(), precision.applied(device):
            found = task.evaluate(model, split, batch_size=batch_size, subset=subset, device=device, limit=limit)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode

    missing = [metric.name for metric in task.metrics if metric.name not in found]
    if missing:
        raise UsageError(
            f"task {task.key!r} gives no {missing[0]!r}, which its metrics name; it gives {', '.join(found)}"
        )
    return found


def _lay_channels_last(module: nn.Module, args: Any, kwargs: Any) -> Any:
    return channels_last(args), channels_last(kwargs)


def used_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter with its name, as the layers use it: through its transforms.

    Numbers that a registered layer counts as its parameters are among them, transforms' own parameters are not. What
    two modules share comes once, for the first. One at a time, because together they take as much as the net.
    """
    own, changed = own_parameters(model), {item.target for item in attached(model)}
    for name, parameter in own.items():
        yield name, _used(model, name) if name in changed else parameter.detach()

    for path, module in model.named_modules():
        for name, value in module.counted().items() if isinstance(module, Layer) else ():
            full = f"{path}.{name}" if path else name
            if full not in own:
                yield full, value


@torch.no_grad()
def _used(model: nn.Module, target: str) -> Tensor:
    owner, tensor = owner_of(model, target)
    used: Tensor = getattr(owner, tensor)
    return used


def layer_counts(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return parameters and non-zeros by the path of the module that owns them, see :func:`used_tensors`."""
    found: dict[str, dict[str, int]] = {}
    for name, value in used_tensors(model):
        layer = found.setdefault(name.rpartition(".")[0], {"parameters": 0, "nonzeros": 0})
        layer["parameters"] += value.numel()
        layer["nonzeros"] += int(value.count_nonzero())
    return found


def counts(model: nn.Module) -> dict[str, int]:
    """Return parameters and those of them that are not zero, as the layers use them; transforms' own don't count."""
    layers = layer_counts(model).values()
    return {key: sum(layer[key] for layer in layers) for key in ("parameters", "nonzeros")}


class Latency(NamedTuple):
    """Time of a forward pass.

    :param spread_ms: interquartile range.
    """

    median_ms: float
    spread_ms: float


def latency(
    task: Task, model: nn.Module, device: torch.device, *, batch_size: int = 1, runs: int = RUNS, warm_up: int = WARM_UP
) -> Latency:
    """Time forward passes of one batch, after warming up, with as many threads as torch is set to.

    :param runs: passes that are timed, 2 at least.
    """
    was = model.training
    model.eval()
    batch = Batch(task.example(batch_size)).to(device)

    times = []
    with torch.no_grad():
        for _ in range(warm_up + runs):
            _wait(device)
            start = time.perf_counter()
            task.outputs(model, batch)
            _wait(device)
            times.append(1000 * (time.perf_counter() - start))

    model.train(was)
    low, median, high = statistics.quantiles(times[warm_up:], n=4, method="inclusive")
    return Latency(median, high - low)


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Let :func:`measure` time as few passes as can be, for tests: nobody reads their latencies."""
    token = _QUICK.set(True)
    try:
        yield
    finally:
        _QUICK.reset(token)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    task: Task,
    model: nn.Module,
    device: torch.device,
    *,
    bytes: int | None = None,
    bits: Mapping[str, int] | None = None,
    quality: bool = True,
    precision: Precision = AS_IT_IS,
    batched: bool = False,
) -> dict[str, Any]:
    """Return size, work, speed, memory and quality of a net.

    Work and memory are of one example. Latency is of the net as it is saved: weights are computed once, transforms on
    activations run. Where work can't be counted it is ``None``, and ``macs_unknown`` says why.

    :param bytes: size of the net's file, which only the caller knows.
    :param bits: width of weights that were quantized and baked since, by tensor name.
    :param quality: play the test split; without, no data are needed and ``quality`` is empty.
    :param batched: time batches of 64 as well: their latency, and the examples a second that it makes.
    """
    saved = without_transforms(model, activations=True)
    runs, batch_runs, warm_up = (2, 2, 0) if _QUICK.get() else (RUNS, BATCH_RUNS, WARM_UP)
    one = latency(task, saved, device, runs=runs, warm_up=warm_up)

    many: dict[str, float] = {}
    if batched:
        took = latency(task, saved, device, batch_size=BATCH, runs=batch_runs, warm_up=warm_up).median_ms
        many = {"latency_batch64_ms": round(took, 4), "fps": round(1000 * BATCH / took, 1)}

    return {
        **counts(model),
        **_work(task, model, bits),
        "bytes": bytes,
        "latency_ms": round(one.median_ms, 4),
        "latency_spread_ms": round(one.spread_ms, 4),
        **many,
        "threads": torch.get_num_threads(),
        "memory_bytes": peak_memory(task, model),
        "quality": evaluate(task, model, device, precision=precision) if quality else {},
    }


def _work(task: Task, model: nn.Module, bits: Mapping[str, int] | None) -> dict[str, Any]:
    try:
        work = count_work(task, model, bits)
    except UsageError as error:
        return {**dict.fromkeys(WORK), "macs_unknown": str(error)}
    return {name: getattr(work, name) for name in WORK}


def ratios(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """Return the survey's ratios (section 1.3), ``None`` where a side is unknown or zero.

    ``parameters_removed`` is absolute, in non-zeros, and ``parameters_removed_percent`` relative. The others say how
    many times smaller or faster the net became: ``compression_rate`` file bytes over file bytes, ``speedup`` time over
    time for one example.
    """

    def over(key: str) -> float | None:
        return before[key] / after[key] if before[key] and after[key] else None

    removed = before["nonzeros"] - after["nonzeros"]
    storage = after.get("storage")
    stored = storage["payload"] + storage["tables"] if storage else 0
    fewer = over("macs")
    return {
        "parameters_removed": removed,
        "parameters_removed_percent": 100.0 * removed / before["nonzeros"] if before["nonzeros"] else None,
        "compression_rate": over("bytes"),
        "storage_rate": 4 * before["parameters"] / stored if stored else None,
        "nonzeros": over("nonzeros"),
        "macs": fewer,
        "macs_removed_percent": None if fewer is None else 100.0 * (1 - 1 / fewer),
        "effective_macs": over("effective_macs"),
        "bitops": over("bitops"),
        "moved_bytes": over("moved_bytes"),
        "speedup": over("latency_ms"),
    }
