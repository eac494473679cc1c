"""What a dry run tries of the end of a recipe: the artifact and the metrics."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from condensery.errors import CondenseryError, MethodError, UsageError
from condensery.files import size_limit
from condensery.measure import Precision, dense_bytes, evaluate
from condensery.run.builder import Builder, Net
from condensery.storage import bake, load, save_artifact
from condensery.tasks import Batch, Task, head


def try_artifact(net: Net, builder: Builder) -> nn.Module:
    """Bake a net, save and load it; of weights that are coded alike only the smallest is. Returns the baked net.

    A net that is larger than what may be loaded without being told so is only baked.

    :raises CondenseryError: for what can't be coded, saved or loaded, or gives other outputs then.
    """
    baked = bake(net.module, builder.registry, trial=True)
    if dense_bytes(baked.net) > size_limit():
        return baked.net

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "artifact.safetensors"
        save_artifact(path, baked, net.spec, builder.task.facts, builder.registry)
        loaded = load(path, builder.registry)
    there, here = (_outputs(builder.task, each) for each in (loaded, baked.net))
    if there.shape != here.shape or not torch.allclose(there, here, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise MethodError("the artifact of this recipe gives other outputs than the net that it was made of")
    return baked.net


def _outputs(task: Task, net: nn.Module) -> Tensor:
    """Return what a net makes of two examples, the same each time also where it draws."""
    torch.manual_seed(0)
    with torch.no_grad():
        return head(task.outputs(net, Batch(task.example(2)))).float()


def try_metrics(task: Task, net: nn.Module, precision: Precision) -> None:
    """Evaluate a net on two small batches, so that a broken metric is found before anything trains.

    :raises UsageError: naming the task and what is wrong with it.
    """
    if "test" not in task.splits:
        return
    try:
        evaluate(task, net, torch.device("cpu"), batch_size=8, precision=precision, limit=2)
    except CondenseryError:
        raise
    except Exception as error:  # a metric is anybody's code
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"task {task.key!r} can't be evaluated: {why}") from error
