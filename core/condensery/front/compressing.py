"""A net of the user's own, on the user's own data, compressed in one call."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import UsageError, short
from condensery.front.result import Result
from condensery.front.targets import check_target, with_target
from condensery.nets import Given, clone, wrappers_in
from condensery.recipe import merge_train, parse, parse_recipe
from condensery.run import Observer, Progress, Run, Told, check_device
from condensery.storage import load
from condensery.tasks import GIVEN, Loader, Metric, Split, generators_kept, given_task

TRAIN: Mapping[str, Any] = {
    "optimizer": {"lr": 0.01, "options": {"momentum": 0.9}},
    "schedule": {"name": "cosine"},
}
"""How a stage trains where the user doesn't say: gently, since the net is trained."""
SHOWN = 0.1
"""Above 0 in a recipe, each epoch is measured on validation data; where there are some, none are held out for it."""


@generators_kept()  # what the user draws afterwards doesn't depend on what was drawn here
def compress(
    net: nn.Module,
    composition: str | Sequence[Mapping[str, Any]],
    *,
    train: Loader,
    test: Loader | None = None,
    validation: Loader | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    metrics: Mapping[str | Metric, Any] | None = None,
    rows: Callable[[Any, Any], Tensor] | None = None,
    epochs: int | None = None,
    train_settings: Mapping[str, Any] | None = None,
    target: Mapping[str, float] | None = None,
    observer: Observer | Callable[[dict[str, Any]], object] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    quiet: bool = False,
    registry: Registry | None = None,
) -> Result:
    """Compress a trained net; the net itself is not changed.

    Of a net that was compiled, or is a ``DataParallel``, the one inside is compressed, and a plain net comes back.

    It is the engine of the command line: the same dry run before anything trains, folder, resume and report.

    ::

        result = condensery.compress(net, "network-slimming(ratio=0.5) -> hinton-kd", train=loader, test=loader)
        print(result)
        result.save("net.safetensors")
        again = condensery.load("net.safetensors", into=MyNet())

    :param composition: as on the command line, or a recipe's list of stages.
    :param train: a ``DataLoader``, or another iterable that can be gone through again and again, of batches: pairs of
        inputs and labels, or mappings with ``labels`` whose other entries the net takes by name.
    :param test: without it no quality is measured.
    :param validation: what rounds with ``until`` and searches look at.
    :param loss: takes outputs and labels, returns their mean loss. By default cross entropy over classes.
    :param metrics: by name, or by :class:`condensery.tasks.Metric` where less is better: a function of outputs and
        labels that returns a batch's mean, or an object of torchmetrics. By default accuracy, and the loss alone where
        a loss is given.
    :param rows: takes outputs and labels, returns ``(rows, classes)``: what distillation softens where a loss is given.
    :param epochs: of each stage.
    :param train_settings: fields of a recipe's ``train``. A ``batch_size`` below the loader's plays its batches in
        parts.
    :param target: ``{"bytes": 0.1}``: the largest file, MACs or latency to end with, as a share of the dense net's
        where it is at most 1, else in bytes, MACs or milliseconds. The composition must have one method with one number
        to set; a short search without training finds it.
    :param observer: is told how the run goes: an :class:`condensery.run.Observer`, or a function that gets a dict
        after each epoch: ``stage``, ``epoch``, ``steps``, ``wall_s``, and each loss and metric by name.
    :param out: folder of the run, which ``resume=True`` goes on with; by default one that goes with the result.
    :raises CondenseryError: in one line that names the culprit; nothing was trained.
    """
    check_device(device)
    check_kinds(composition, train_settings, out, registry)
    aim = None if target is None else check_target(target)
    told = observer if isinstance(observer, Observer) else Told(observer)
    made, registry = given_recipe(
        net, registry, train=train, test=test, validation=validation, loss=loss, metrics=metrics, rows=rows
    )
    made["train"] = settings(made["train"]["batch_size"], epochs, train_settings or {})
    stages = parse(composition) if isinstance(composition, str) else list(composition)
    recipe = parse_recipe({**made, "seed": seed, "stages": stages}, "compress")
    if resume and out is None:
        raise UsageError("resume: say out, the folder that holds the run")

    with Progress(quiet=quiet) as show, run_folder(out) as folder:
        for path, kind in wrappers_in(net).items():
            show.line(
                f"{kind} around {f'layer {path!r}' if path else 'the net'} is taken off: what is inside comes back"
            )
        if aim is not None:
            recipe = with_target(recipe, *aim, registry, show)
        run = Run(recipe, registry, out=folder, device=device, resume=resume, show=show, observer=told)
        try:
            report = run.execute()
        except KeyboardInterrupt:
            if out is not None and folder.exists():
                show.line(f"stopped: {folder} keeps what is done; the same call with resume=True goes on")
            raise

        artifact = folder / report["artifact"]
        result = Result(load(artifact, registry), report, artifact)
    if out is None:
        weakref.finalize(result, shutil.rmtree, folder.parent, ignore_errors=True)
    return result


def given_recipe(
    net: nn.Module,
    registry: Registry | None,
    *,
    train: Loader,
    test: Loader | None = None,
    validation: Loader | None = None,
    **how: Any,
) -> tuple[dict[str, Any], Registry]:
    """Return a recipe without stages for a net and data of the user's own, and a registry that knows both.

    :param how: ``loss``, ``metrics`` and ``rows``, see :func:`compress`.
    :raises UsageError: for data that are none.
    """
    loaders: dict[Split, Loader] = {"train": train}
    loaders |= {} if validation is None else {"validation": validation}
    loaders |= {} if test is None else {"test": test}
    given = Given(net)
    if not any(parameter.numel() for parameter in given.net.parameters()):
        raise UsageError(f"net: this {type(given.net).__name__} has no parameters: there is nothing to compress")
    given.task = given_task(loaders, clone(given.net), **how)

    recipe = {
        "model": given.spec.model_dump(exclude_defaults=True),
        "task": GIVEN,
        "base": "none",
        "validation": 0.0 if validation is None else SHOWN,
        "train": settings(given.task().largest, None, {}),
    }
    return recipe, (registry or Registry.open()).extended(GIVEN, given)


def check_kinds(composition: object, train_settings: object, out: object, registry: object) -> None:
    """Refuse arguments of :func:`compress` that are of another kind than it takes.

    :raises UsageError: naming the first one, and saying what to give.
    """
    kinds: tuple[tuple[str, object, Any, str], ...] = (
        (
            "composition",
            composition,
            str | Sequence,
            "a line, 'magnitude -> hinton-kd', or a list of a recipe's stages",
        ),
        ("train_settings", train_settings, Mapping | None, "fields of a recipe's train, {'optimizer': {'lr': 0.01}}"),
        ("out", out, str | os.PathLike | None, "the name of a folder"),
        ("registry", registry, Registry | None, "a condensery.Registry"),
    )
    for name, value, kind, words in kinds:
        if not isinstance(value, kind):
            raise UsageError(f"{name}: give {words}, not {short(value)}")


@contextlib.contextmanager
def run_folder(out: str | Path | None) -> Iterator[Path]:
    """Give the folder of a run: the user's, or one of its own, which an error removes.

    :raises UsageError: for an empty name, as of a variable that isn't set.
    """
    if out is not None and not str(out):
        raise UsageError("out is empty: that would be the folder you are in; name one")
    if out is not None:
        yield Path(out)
        return
    parent = tempfile.mkdtemp(prefix="condensery-")
    try:
        yield Path(parent) / "run"
    except BaseException:
        shutil.rmtree(parent, ignore_errors=True)
        raise


def settings(largest: int, epochs: int | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the stages train.

    :param largest: examples in the largest batch of the training data.
    :param own: what the user says.
    :raises UsageError: for a batch size that the data don't give.
    """
    size = own.get("batch_size", largest)
    if isinstance(size, int) and size > largest:
        raise UsageError(f"train_settings: batch_size {size}, but the training data come in batches of {largest}")
    if epochs is not None and "epochs" in own:
        raise UsageError(f"epochs {epochs} and train_settings: epochs {own['epochs']!r} are one setting; say it once")
    train = merge_train({**TRAIN, "batch_size": largest}, own)
    return train if epochs is None else {**train, "epochs": epochs}
