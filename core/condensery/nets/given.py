"""A net that a user brings: no registry knows how to build it, so it is copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from condensery.contract import hookimpl
from condensery.errors import UsageError
from condensery.nets.cloning import clone, lent
from condensery.nets.foreign import inside, refuse_foreign, unwrap_layers, wrappers_in
from condensery.recipe import ModelSpec, fingerprint
from condensery.tasks import GIVEN, Task, TaskFacts, hash_tree


class Given:
    """A plugin that offers one net, as the model ``given``; the net itself is never changed.

    :param net: any module; its weights count as trained. Wrappers around it or inside are taken off.
    :param task: of the data that came with it, offered as the task ``given``.
    :raises UsageError: for a net that can't be treated.
    """

    condensery_api = 1

    def __init__(self, net: nn.Module, task: type[Task] | None = None) -> None:
        refuse_foreign(net)
        refuse_unfilled(net)
        self.net, self.task = plain_inside(net), task

    @hookimpl
    def register_models(self, register: Callable[[str, Any], None]) -> None:
        """Offer the net."""
        register(GIVEN, self.build)

    @hookimpl
    def register_tasks(self, register: Callable[[str, Any], None]) -> None:
        """Offer the task, if there is one."""
        if self.task is not None:
            register(GIVEN, self.task)

    @property
    def spec(self) -> ModelSpec:
        """How a recipe names the net: what it is made of, and which numbers it holds."""
        values = hash_tree(dict(self.net.state_dict()))
        made = {"structure": fingerprint_of(self.net), "values": values}
        return ModelSpec.model_validate({"key": GIVEN, "weights": "hub", **made})

    def build(self, facts: TaskFacts, name: str, structure: str, values: str, pretrained: bool = False) -> nn.Module:
        """Return a copy of the net.

        :raises UsageError: if what asks for it was made of a net of another structure.
        """
        if structure != fingerprint_of(self.net):
            kind = type(self.net).__name__
            what = "its layers, shapes or types of numbers are others"
            raise UsageError(f"this {kind} is not the net that it was made of: {what}")
        return clone(self.net)


def refuse_unfilled(net: nn.Module) -> None:
    """Refuse a net without memory.

    :raises UsageError: naming the first tensor that has none.
    """
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if tensor.is_meta:
            raise UsageError(f"net: {name} is on the meta device, without numbers; build the net on another device")


def plain_inside(net: nn.Module) -> nn.Module:
    """Return what the wrappers around a net hold; where it has some inside, a copy without, in the net's own memory."""
    net = inside(net)
    if not wrappers_in(net):
        return net
    plain = lent(net)
    unwrap_layers(plain)
    return plain


def fingerprint_of(net: nn.Module) -> str:
    """Return a hash of what a net is made of: the class of each module, name, type and shape of each tensor."""
    classes = {path: type(module).__name__ for path, module in net.named_modules()}
    state = net.state_dict().items()  # what a module adds to it as it likes needn't be a tensor
    shapes = {name: f"{value.dtype} {tuple(value.shape)}" for name, value in state if isinstance(value, Tensor)}
    return fingerprint({"classes": classes, "shapes": shapes})
