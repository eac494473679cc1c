"""What must hold after a run: equal nets, no hooks left, an artifact that gives the same outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.nets import attached
from condensery.storage import ROOT, cost_of, open_artifact
from condensery.tasks import Batch, Task, build_task, head
from condensery.testing.runs import Finished


def different_tensors(left: nn.Module, right: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers that two nets don't share bit for bit."""
    a, b = ({**dict(net.named_parameters()), **dict(net.named_buffers())} for net in (left, right))
    shared = a.keys() & b.keys()
    return sorted((a.keys() ^ b.keys()) | {name for name in shared if not torch.equal(a[name], b[name])})


def hooks_left(net: nn.Module) -> list[str]:
    """Return the paths of the modules with a hook that isn't the site of a transform on their input or output."""
    sites = {item.target for item in attached(net)}
    found = []
    for path, module in net.named_modules():
        kept = (f"{path}:input" in sites, f"{path}:output" in sites, False, False)
        hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
        if any(len(there) > expected for there, expected in zip(hooks, kept, strict=True)):
            found.append(path)
    return found


def outputs_of(task: Task, net: nn.Module) -> Tensor:
    """Return a net's outputs on five examples, ``(5, outputs)``."""
    with torch.no_grad():
        return head(task.outputs(net.eval(), Batch(task.example(5))))


def stored_outputs(path: Path) -> list[list[float]]:
    """Return the outputs of an artifact's net, as plain numbers; for a process that has trained nothing."""
    registry = Registry.open()
    found = open_artifact(path, registry)
    assert found.task is not None
    answer: list[list[float]] = outputs_of(build_task(found.task, registry), found.net).tolist()
    return answer


def check_artifact(finished: Finished, registry: Registry) -> None:
    """Assert that a run's artifact holds the baked net bit for bit, and that its size was known before it was written.

    :raises AssertionError: naming what differs.
    """
    run, path = finished.run, finished.folder / "artifact.safetensors"
    assert run.baked is not None
    found = open_artifact(path, registry)
    assert torch.equal(outputs_of(run.task, found.net), outputs_of(run.task, run.baked.net)), "other outputs"
    assert run.baked.moved < 1e-6, f"baking moved a weight by {run.baked.moved}"

    records = {
        tensor if module == ROOT else f"{module}.{tensor}": record
        for module, parts in found.manifest["tensors"].items()
        for tensor, record in parts.items()
    }
    tensors = {**dict(run.baked.net.named_parameters()), **dict(run.baked.net.named_buffers())}
    for name, stored in run.baked.stored.items():
        estimate = stored.coding.cost(tensors[name])
        assert estimate == cost_of(records[name], registry), f"{name}: estimate and file differ"

    content, sizes = path.read_bytes(), found.sizes
    assert sizes.header == 8 + int.from_bytes(content[:8], "little"), "the header's size"
    assert sizes.payload + sizes.tables + sizes.header + sizes.manifest == len(content), "the file's size"
