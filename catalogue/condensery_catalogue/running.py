"""``run`` and ``compose``: from a file or a line to a report."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.files import unwritable
from condensery.front import figure, report_table
from condensery.recipe import apply_overrides, load_yaml, parse, parse_model, parse_recipe
from condensery.run import check_device
from condensery_catalogue.app import waited_for
from condensery_catalogue.launching import launch
from condensery_catalogue.listing import console, open_registry
from condensery_catalogue.wording import collapses

if TYPE_CHECKING:
    from condensery.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the commands that run something have in common.

    :param set: changes of single values, ``stages.0.hinton-kd.T=2``.
    :param seed: of the run; ``None``: the recipe's.
    :param out: folder for report, log and checkpoints; ``None``: the next free one.
    :param resume: go on with what ``out`` holds.
    :param launch: processes that play it.
    :param explain: print the resolved recipe and the call order instead of running.
    """

    set: Sequence[str] = ()
    seed: int | None = None
    device: str = "auto"
    out: Path | None = None
    resume: bool = False
    launch: int = 1
    explain: bool = False
    as_json: bool = False


def run_file(path: Path, options: RunOptions) -> None:
    """Run a recipe file.

    :raises UsageError: for a missing or broken file.
    """
    _run(recipe_data(path), path.stem, open_registry(), options)


def recipe_data(path: Path) -> Mapping[str, Any]:
    """Return what a recipe file says, as plain data.

    :raises UsageError: for a missing or broken file.
    """
    data = load_yaml(path)
    if not isinstance(data, Mapping):
        raise UsageError(f"{path}: a recipe is a mapping with model, task and stages")
    return data


def run_composition(composition: str, model: str | None, task: str, epochs: int | None, options: RunOptions) -> None:
    """Run a composition; without a model, on the task's own."""
    stages = parse(composition)
    registry = open_registry()
    task_data = parse_model(task)
    with waited_for("starting"):
        cls = registry.load("tasks", task_data["key"])
    data = {
        "model": parse_model(model) if model else {"key": cls.default_model},
        "task": task_data,
        "train": training_of(cls, epochs),
        "stages": stages,
    }
    _run(data, "compose", registry, options)


def training_of(task: type[Task], epochs: int | None) -> dict[str, Any]:
    """Return how a stage of a composition trains: half as long as the task's own base recipe, unless told otherwise."""
    return {**task.base, "epochs": max(1, task.base.get("epochs", 2) // 2) if epochs is None else epochs}


def _run(data: Mapping[str, Any], name: str, registry: Registry, options: RunOptions) -> None:
    changed = apply_overrides(data, options.set)
    if options.seed is not None:
        changed["seed"] = options.seed
    recipe = parse_recipe(changed)
    check_device(options.device)
    if options.resume and not options.out:
        raise UsageError("--resume: say --out, the folder that holds the run")
    quiet_libraries()

    folder = options.out or free_folder(Path("runs"), recipe.name or name)
    how = f"the same command with --out {folder} --resume"
    with stoppable(folder, how), nullcontext() if options.out else kept_if_used(folder):
        with waited_for("starting"):
            from condensery.run import Run
            from condensery_catalogue.estimates import Foretold

        with Foretold([recipe], registry, quiet=options.as_json) as progress:
            job = Run(recipe, registry, out=folder, device=options.device, resume=options.resume, show=progress)
            if options.launch > 1:
                job.check()  # what is wrong is said once
                launch(options.launch, folder)
                return
            if options.explain:
                said = job.explain()
                print(json.dumps(said, indent=1) if options.as_json else yaml.safe_dump(said, sort_keys=False))
                return
            report = job.execute()

    if not job.processes.first:
        return
    if options.as_json:
        print(json.dumps(report, indent=1, default=str, allow_nan=False))
    else:
        print_report(report, folder)


@contextmanager
def stoppable(folder: Path, how: str) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 and a line that says how to go on.

    :param folder: holds something as soon as there is something to go on with.
    :param how: the command that goes on.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = f"{folder} keeps what is done; go on with {how}" if folder.exists() else "nothing was written"
        print(f"stopped: {kept}", file=sys.stderr)
        sys.exit(130)


def quiet_libraries() -> None:
    """Silence warnings of libraries that a user of this command can't act on."""
    warnings.filterwarnings("ignore", module=r"(torch|transformers|timm)\..*")


def free_folder(parent: Path, name: str) -> Path:
    """Make and return ``parent/name-1``, or the next number that is free; two commands at once get two folders.

    :raises FileError: if it can't be made.
    """
    for number in itertools.count(1):
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise unwritable(folder, error) from None
        break
    return folder


@contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Remove a folder at the end if nothing was written there: a wrong recipe leaves nothing behind."""
    try:
        yield
    finally:
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()  # only where it is empty, too


def print_report(report: Mapping[str, Any], folder: Path) -> None:
    """Print what a run came to."""
    out = console()
    out.print(report_table(report))
    for line in collapses(report.get("collapsed", [])):
        out.print(line, style="bold red", markup=False, highlight=False)

    storage = report["after"]["storage"]
    parts = ", ".join(f"{storage[name]:,} {name}" for name in ("payload", "tables", "header", "manifest"))
    rate = f"{report['ratios']['storage_rate']:.2f}x as papers count, without header and manifest"
    out.print(f"bytes after: {parts}; {rate}", highlight=False)
    for side in ("before", "after"):
        if "macs_unknown" in report[side]:
            out.print(f"{side}: {report[side]['macs_unknown']}", markup=False, highlight=False)

    for stage in report["stages"]:
        said = ", ".join(f"{name} {figure(value)}" for name, value in stage["report"].items())
        cached = " (from the cache)" if stage.get("cached") else ""
        line = f"stage {stage['name']}{cached}: {stage['epochs']} epochs, {stage['wall_s']:.0f} s  {said}"
        out.print(line, markup=False)
    out.print(f"report: {folder / 'report.json'}", markup=False, soft_wrap=True)
    out.print(f"artifact: {folder / report['artifact']}", markup=False, soft_wrap=True)
