"""What a dry run tries of the end of a recipe: what its artifact will hold, and the metrics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensery.errors import CondenseryError, MethodError, UsageError
from condensery.measure import Precision, evaluate
from condensery.run.builder import Builder, Net
from condensery.storage import as_saved, bake
from condensery.tasks import Batch, Task, head


def try_artifact(net: Net, builder: Builder) -> nn.Module:
    """Bake a net, describe it and build it again, in memory; returns the baked net.

    Of weights that are coded alike only the smallest is coded.

    :raises CondenseryError: for what can't be coded, described or built again, or gives other outputs then.
    """
    baked = Net(bake(net.module, builder.registry, trial=True).net, net.spec)
    loaded = builder.rebuilt(as_saved(builder.described(baked))).module.eval()
    there, here = (_outputs(builder.task, each) for each in (loaded, baked.module))
    if there.shape != here.shape or not torch.allclose(there, here, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise MethodError("what this recipe leaves gives other outputs when it is saved and loaded")
    return baked.module


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
