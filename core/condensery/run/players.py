"""The networks of a stage, and what they say when they play."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.nets import EMPTY, Taps, TapValues, attached, keep_owners, plain_name
from condensery.recipe import ModelSpec, OptimizerSpec
from condensery.tasks import Batch, Task, in_float32, map_tensors


@dataclasses.dataclass
class Outputs:
    """What one player made of one batch.

    :param tree: what the task's ``outputs`` returned, its floats as float32.
    :param task: whose outputs they are.
    :param batch: that was played.
    :param taps: values by tapped path or role.
    """

    tree: Any
    task: Task
    batch: Batch
    taps: TapValues = dataclasses.field(default_factory=lambda: EMPTY)

    @functools.cached_property
    def rows(self) -> Tensor:
        """The class scores of each decision, ``(rows, classes)``.

        :raises UsageError: if the task has none, which a method rules out that needs ``classifier-logits``.
        """
        rows = self.task.rows(self.tree, self.batch)
        if rows is None:
            raise UsageError(f"task {self.task.key!r} has no class scores that can be softened")
        return rows

    @functools.cached_property
    def row_weights(self) -> Tensor | None:
        """How much each of the rows counts, ``(rows,)``; ``None``: all alike."""
        return self.task.row_weights(self.batch)

    def detached(self) -> Outputs:
        """Return the same without gradient: how partners see it."""
        tree = map_tensors(Tensor.detach, self.tree)
        return Outputs(tree, self.task, self.batch, self.taps.detached() if len(self.taps) else EMPTY)


class Player:
    """A network in a stage.

    :param name: ``student``, ``teacher``, ``peer``...
    :param spec: how its net is built, so that a checkpoint can build it again.
    :param trains: whether it has an optimizer.
    :param plays: whether each batch is given to it; ``False`` for a net that a method calls by itself.
    :param optimizer_spec: of this player alone; ``None``: the stage's.
    :param every: ``(k, n)``: k optimizer steps each n batches.

    ``helpers`` are modules that a method trains beside the net for the stage, such as a regressor. Core sets
    ``optimizer``, and ``base_rates``, the learning rate of each of its groups before any schedule; ``carried`` is the
    state of the optimizer that trained the net last, by plain parameter name.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        spec: ModelSpec,
        trains: bool = False,
        plays: bool = True,
        optimizer_spec: OptimizerSpec | None = None,
        every: tuple[int, int] = (1, 1),
    ) -> None:
        self.name, self.module, self.spec = name, module, spec
        self.trains, self.plays, self.every = trains, plays, every
        self.optimizer_spec = optimizer_spec
        self.optimizer: torch.optim.Optimizer | None = None
        self.base_rates: list[float] = []
        self.carried: dict[str, Any] = {}
        self.helpers = nn.ModuleDict()
        self.taps = Taps(module)

    def tap(self, target: str) -> None:
        """Read a module path or a role (``stages``, ``logits``, ``attention``, ``scores``) each time it plays.

        The value is ``outputs[player].taps[target]``. Core takes the tap off when the stage ends.
        """
        self.taps.add(target)

    def play(self, task: Task, batch: Batch) -> Outputs:
        """Return its outputs for a batch."""
        with self.taps.reading():
            outputs = task.outputs(self.module, batch)
        return Outputs(in_float32(outputs), task, batch, self.taps.collect())

    def set_mode(self) -> None:
        """Train mode with gradients if it trains, else eval mode without; what its builder froze stays so."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(self.trains)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Train mode if it trains, else eval mode, but for what its builder froze."""
        self.module.train(self.trains)
        keep_owners(self.module)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return its parameters by plain name, its transforms' and (as ``helpers:...``) its helpers' among them."""
        named = {plain_name(n): p for n, p in self.module.named_parameters()}
        return named | {f"helpers:{n}": p for n, p in self.helpers.named_parameters()}

    def groups(self, spec: OptimizerSpec) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer; transforms with settings of their own get their own group."""
        own: list[dict[str, Any]] = []
        taken: set[int] = set()
        for item in attached(self.module):
            settings = item.transform.settings
            # A transform that sits on two tensors is met twice, and an optimizer takes a parameter once.
            parameters = [p for p in item.transform.parameters() if id(p) not in taken]
            if not settings or not parameters:
                continue

            taken |= {id(p) for p in parameters}
            rate = spec.lr * settings.get("lr_scale", 1.0)
            decay = settings.get("weight_decay", spec.weight_decay)
            own.append({"params": parameters, "lr": rate, "weight_decay": decay})

        rest = [p for p in self.parameters().values() if id(p) not in taken and p.requires_grad]
        return [{"params": rest, "lr": spec.lr, "weight_decay": spec.weight_decay}, *own]

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state by plain parameter name, so that it survives attached transforms and cuts."""
        if self.optimizer is None:
            return {}
        names = {id(p): n for n, p in self.parameters().items()}
        return {names[id(p)]: dict(s) for p, s in self.optimizer.state.items() if id(p) in names}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """Lay saved state over the optimizer, for the parameters that still have the same shape."""
        assert self.optimizer is not None
        for name, parameter in self.parameters().items():
            saved = state.get(name)
            if saved is None:
                continue
            if any(isinstance(v, Tensor) and v.dim() and v.shape != parameter.shape for v in saved.values()):
                continue

            # Step counters have no dimension, and stay where their optimizer put them.
            self.optimizer.state[parameter] = {
                k: v.clone().to(parameter.device if v.dim() else v.device) if isinstance(v, Tensor) else v
                for k, v in saved.items()
            }
