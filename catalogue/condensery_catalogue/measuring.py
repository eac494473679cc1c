"""``measure``: size, work, speed and memory of one net, by its model's key or from an artifact."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.front import figure
from condensery.recipe import ModelSpec, TaskSpec, checked, parse_model, parse_task
from condensery.run import check_device, find_device
from condensery_catalogue.app import waited_for
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.metrics import BATCHED, FIGURES
from condensery_catalogue.running import quiet_libraries

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from condensery.tasks import Task

DEFAULT_TASK = "digits"
SUFFIX = ".safetensors"


@dataclasses.dataclass
class Target:
    """A net to measure.

    :param bytes: of its file, or of the one that it would have.
    :param bits: width of weights that were quantized, by tensor name.
    :param trained: whether its quality says anything.
    :param sizes: where an artifact's bytes are.
    """

    net: nn.Module
    task: Task
    bytes: int
    bits: Mapping[str, int]
    trained: bool
    sizes: Mapping[str, float] | None = None


def measure_target(
    target: str, task: str | None, device: str, *, layers: bool = False, batched: bool = False, as_json: bool = False
) -> None:
    """Measure a net and print the figures.

    :param target: a model, ``vit(dim=24)``, or the path of an artifact.
    :param task: that the net fits; by default the artifact's, or the first one whose default model it is, or digits.
    :param batched: time batches of 64 as well.
    :raises UsageError: for a target, task or device that there isn't.
    """
    check_device(device)
    registry = open_registry()
    quiet_libraries()
    given = None if task is None else checked(TaskSpec, parse_task(task), "task")
    with waited_for("measuring"):
        found = (_of_artifact if target.endswith(SUFFIX) else _of_model)(target, given, registry)

        # Here, because it loads torch, which a wrong name above doesn't need.
        from condensery.measure import measure

        where = find_device(device)
        figures = measure(
            found.task,
            found.net.to(where),
            where,
            bytes=found.bytes,
            bits=found.bits,
            quality=found.trained,
            batched=batched,
        )
    said = {"target": target, "task": found.task.key, "device": str(where), **figures}
    if found.sizes is not None:
        said["sizes"] = dict(found.sizes)
    if layers:
        said["layers"] = layer_rows(found)

    if as_json:
        print(json.dumps(said, indent=1))
    else:
        print_figures(said)


def _of_model(target: str, task: TaskSpec | None, registry: Registry) -> Target:
    """Build a net from its spelling; without weights it is untrained."""
    spec = checked(ModelSpec, parse_model(target), "model")
    if spec.init_from is not None:
        raise UsageError("model: 'init_from' copies the net of a role, and there are no roles here; leave it out")
    entry = registry.find("models", spec.key).key

    from condensery.measure import dense_bytes
    from condensery.storage import build_with_weights
    from condensery.tasks import build_task

    if task is None:
        fitting = (k for k in registry.keys("tasks") if registry.load("tasks", k).default_model == entry)
        task = TaskSpec(key=next(fitting, DEFAULT_TASK))
    built = build_task(task, registry)
    net = build_with_weights(spec, built.facts, registry, 0)
    return Target(net, built, dense_bytes(net), {}, trained=spec.weights is not None)


def _of_artifact(target: str, task: TaskSpec | None, registry: Registry) -> Target:
    """Load the net of an artifact.

    :raises UsageError: if neither the artifact nor the user names a task.
    """
    from condensery.storage import open_artifact
    from condensery.tasks import build_task

    artifact = open_artifact(Path(target), registry)
    task = task or artifact.task
    if task is None:
        raise UsageError(f"{target} doesn't say which task it was made on; say --task")

    sizes = artifact.sizes
    return Target(artifact.net, build_task(task, registry), sizes.file, artifact.bits, trained=True, sizes=sizes.dump())


def layer_rows(target: Target) -> list[dict[str, Any]]:
    """Return one row for each module that has parameters or multiplies; work is ``None`` where it can't be counted."""
    from torch.nn.utils.parametrize import type_before_parametrizations

    from condensery.measure import LayerWork, count_work, layer_counts

    sizes = layer_counts(target.net)
    work: dict[str, LayerWork] = {}
    unknown: int | None = 0
    try:
        work = {layer.path: layer for layer in count_work(target.task, target.net, target.bits).layers}
    except UsageError:
        unknown = None

    rows = []
    for path, module in target.net.named_modules():
        if path not in sizes and path not in work:
            continue
        row = {"path": path, "class": type_before_parametrizations(module).__name__}
        row |= sizes.get(path, {"parameters": 0, "nonzeros": 0})
        done = work.get(path)
        for name in ("macs", "effective_macs", "bitops", "moved_bytes"):
            row[name] = getattr(done, name) if done else unknown
        row["bits"] = [list(pair) for pair in done.bits] if done else []
        rows.append(row)
    return rows


def print_figures(said: Mapping[str, Any]) -> None:
    """Print the figures of one net, and of its layers where they were asked for."""
    out = console()
    if "layers" in said:
        out.print(_layers_table(said["layers"]))
    out.print(_figures_table(said))

    if "macs_unknown" in said:
        out.print(said["macs_unknown"], markup=False, highlight=False)
    if sizes := said.get("sizes"):
        parts = [f"{sizes[name]:,} {name}" for name in ("payload", "tables", "header", "manifest")]
        out.print(f"file: {' + '.join(parts)}", markup=False, highlight=False)
    if not said["quality"]:
        out.print("quality: not measured, the net is untrained", markup=False, highlight=False)


def _layers_table(layers: list[dict[str, Any]]) -> Table:
    from rich.markup import escape

    shown = table("layer", "class", "parameters", "non-zero", "MACs", "effective", "bits")
    for column in shown.columns[2:]:
        column.justify = "right"

    for row in layers:
        numbers = [figure(row[key]) for key in ("parameters", "nonzeros", "macs", "effective_macs")]
        bits = ", ".join(f"{weight}x{value}" for weight, value in row["bits"])
        shown.add_row(escape(row["path"]) or "(the net itself)", row["class"], *numbers, bits)
    return shown


def _figures_table(said: Mapping[str, Any]) -> Table:
    from rich.markup import escape

    threads = f"{said['threads']} thread{'s' * (said['threads'] != 1)}"
    shown = table("", "", title=escape(f"{said['target']} on {said['task']}, {said['device']}, {threads}"))
    shown.show_header = False
    shown.columns[1].justify = "right"

    rows = [(words, figure(said[key])) for key, words in FIGURES.items()]
    latency = f"{said['latency_ms']:,.3f} ± {said['latency_spread_ms'] / 2:,.3f}"
    rows.append(("latency, batch 1 (ms, median ± half the interquartile range)", latency))
    rows += [(words, figure(said[key])) for key, words in BATCHED.items() if key in said]
    rows += [(name, figure(value)) for name, value in said["quality"].items()]
    for row in rows:
        shown.add_row(*row)
    return shown
