"""``make bench``: the engine's cost beside a loop by hand, and how fast the command line starts.

Each comparison runs both sides in turn in one process and gives ratios; times on a shared machine mean little alone.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from condensery import Registry
from condensery.contract import StageManager
from condensery.measure import environment, versions
from condensery.nets import build_net
from condensery.recipe import ModelSpec, StageSpec, TaskSpec, TrainSpec
from condensery.run import Defaults, Player, Stage
from condensery.tasks import Batch, build_task
from condensery_plugins.distillation.hinton_kd import HintonKD

PAIRS, STEPS = 30, 20


def engine_step(spec: ModelSpec, registry: Registry) -> Callable[[Batch], None]:
    """Return one step of a stage with hinton-kd, as the engine makes it."""
    task = build_task(TaskSpec(key="digits"), registry)
    stage = Stage(StageSpec(name="bench"), task, TrainSpec(), seed=0, device=torch.device("cpu"))
    stage.players["student"] = Player("student", build_net(spec, task.facts, registry, 0), spec=spec, trains=True)
    stage.players["teacher"] = Player("teacher", build_net(spec, task.facts, registry, 1), spec=spec)
    stage.manager = StageManager("bench", [("hinton-kd", HintonKD())], Defaults())
    for player in stage.players.values():
        player.set_mode()
    stage.ready()
    student = stage.student
    groups = student.groups(stage.train.optimizer)
    student.optimizer = stage.manager.default("optimizer")(stage=stage, player=student, groups=groups)
    student.base_rates = [0.1]

    def step(batch: Batch) -> None:
        stage.set_rates()
        stage.manager.call("before_step", stage=stage, batch=batch)
        stage.manager.call("training_step", stage=stage, batch=batch)
        stage.sums.clear()

    return step


def hand_step(spec: ModelSpec, registry: Registry) -> Callable[[Batch], None]:
    """Return the same step as a loop by hand."""
    task = build_task(TaskSpec(key="digits"), registry)
    student, teacher = build_net(spec, task.facts, registry, 0), build_net(spec, task.facts, registry, 1)
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

    def step(batch: Batch) -> None:
        logits, labels = student(batch.inputs), batch.labels
        assert labels is not None
        with torch.no_grad():
            target = torch.softmax(teacher(batch.inputs) / 4.0, 1)
        soft = nn.functional.kl_div(torch.log_softmax(logits / 4.0, 1), target, reduction="batchmean")
        loss = 0.1 * nn.functional.cross_entropy(logits, labels) + 0.9 * 16 * soft
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def paired(left: Callable[[Batch], None], right: Callable[[Batch], None], batch: Batch) -> tuple[float, float, float]:
    """Return medians over pairs taken in turn: milliseconds of a step by ``right``, what ``left`` adds, the ratio."""

    def steps_ms(step: Callable[[Batch], None]) -> float:
        start = time.process_time()
        for _ in range(STEPS):
            step(batch)
        return 1000 * (time.process_time() - start) / STEPS

    # The process's own time, in pairs: what else the machine does slows both sides. The first pairs still warm up.
    pairs = [(steps_ms(left), steps_ms(right)) for _ in range(PAIRS + 2)][2:]
    median = statistics.median
    return median(b for _, b in pairs), median(a - b for a, b in pairs), median(a / b for a, b in pairs)


def process_s(*arguments: str, runs: int = 9) -> float:
    """Return the median time of a whole process in seconds."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print and store the figures."""
    torch.set_num_threads(1)
    registry = Registry.open()
    figures: dict[str, object] = {"versions": versions(), "environment": environment()}
    for width in (0.5, 1.0, 2.0):
        spec = ModelSpec(key="resnet8", width=width)
        task = build_task(TaskSpec(key="digits"), registry)
        batch = next(iter(task.batches("train", batch_size=64)))
        hand, added, ratio = paired(engine_step(spec, registry), hand_step(spec, registry), batch)
        name = f"hinton-kd step, resnet8 x{width}"
        print(f"{name}: by hand {hand:.3f} ms, the engine adds {1000 * added:.0f} us, ratio {ratio:.3f}")
        figures |= {f"step_added_us_width_{width}": 1000 * added, f"step_ratio_width_{width}": ratio}
    for name, arguments in {
        "list": ("-m", "condensery_catalogue.cli", "list"),
        "show": ("-m", "condensery_catalogue.cli", "show", "qkd"),
        "import condensery": ("-c", "import condensery"),
        "import torch": ("-c", "import torch"),
        "import condensery.run.engine": ("-c", "import condensery.run.engine"),
    }.items():
        took = process_s(*arguments)
        print(f"{name}: {took:.3f} s")
        figures[f"{name}_s"] = took
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
