"""The networks of a stage, and what they say when they play."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from condensery.errors import Misuse, UnknownKey, UsageError
from condensery.nets import EMPTY, Taps, TapValues, attached, keep_owners, plain_name, with_gradients
from condensery.recipe import ModelSpec, OptimizerSpec
from condensery.run.memory import Memory
from condensery.tasks import Batch, Task, full_precision, lay_channels_last, map_tensors

V = TypeVar("V")


@dataclasses.dataclass
class Outputs:
    """What one player made of one batch.

    :param tree: what the task's ``outputs`` returned, no float of it in half precision.
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


class ByPlayer(dict[str, V]):
    """What a stage has of each player, by name: the players themselves, or their outputs."""

    def __missing__(self, name: str) -> NoReturn:
        ask = "; a method that needs a teacher says so, needs = frozenset({'teacher'})" if name == "teacher" else ""
        raise Misuse(f"there is no player {name!r}; there are {', '.join(self)}{ask}")


class Player:
    """A network in a stage.

    :param name: ``student``, ``teacher``, ``peer``...
    :param spec: how its net is built, so that a checkpoint can build it again.
    :param trains: whether it has an optimizer.
    :param plays: whether each batch is given to it; ``False`` for a net that a method calls by itself.
    :param optimizer_spec: of this player alone; ``None``: the stage's.
    :param every: ``(k, n)``: k optimizer steps each n batches.
    :param like: the player of which its net will be a copy, see ``Stage.recruit``; until then it has no ``module``.

    ``helpers`` are modules that a method trains beside the net for the stage, such as a regressor. Core sets
    ``optimizer``, and ``base_rates``, the learning rate of each of its groups before any schedule; ``carried`` is the
    state of the optimizer that trained the net last, by plain parameter name. ``measured`` holds what taps with a
    measure came to in the step, from ``after_backward`` on. A method sets ``constant`` in ``prepare`` where a net that
    doesn't train stays as it is for the stage: core may then keep its answers in a ``memory``.
    """

    module: nn.Module
    taps: Taps

    def __init__(
        self,
        name: str,
        module: nn.Module | None,
        *,
        spec: ModelSpec,
        trains: bool = False,
        plays: bool = True,
        optimizer_spec: OptimizerSpec | None = None,
        every: tuple[int, int] = (1, 1),
        like: str | None = None,
    ) -> None:
        self.name, self.spec, self.like = name, spec, like
        self.trains, self.plays, self.every = trains, plays, every
        self.optimizer_spec = optimizer_spec
        self.optimizer: torch.optim.Optimizer | None = None
        self.base_rates: list[float] = []
        self.carried: dict[str, Any] = {}
        self.helpers = nn.ModuleDict()
        self.measures: dict[str, Callable[[Any], Tensor]] = {}
        self.measured: dict[str, Tensor] = {}
        self._targets: list[str] = []
        self._frozen: list[str] = []
        self._held: list[nn.Parameter] = []
        self.relaid = self.constant = False
        self.memory: Memory | None = None
        if module is not None:
            self.take(module)

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("module", "taps"):
            raise UsageError(
                f"player {self.name!r} has no net yet: after the last prepare it is a copy of {self.like!r}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def built(self) -> bool:
        """Whether it has its net; a copy of another player's is made after the last ``prepare``."""
        return "module" in vars(self)

    def take(self, module: nn.Module) -> None:
        """Play with this net from now on."""
        self.module, self.taps = module, Taps(module)
        for target in self._targets:
            self.taps.add(target)

    def tap(self, target: str, measure: Callable[[Any], Tensor] | None = None) -> None:
        """Read a module path, a module's input or a role each time it plays.

        ``layer1`` is what that module gives, ``fc:input`` what it gets; roles are ``stages``, ``logits``, ``features``
        (the input of the classifier), ``attention`` and ``scores``. The value is ``outputs[player].taps[target]``. Core
        takes the tap off when the stage ends.

        :param measure: makes a statistic of the value, read as ``player.measured[target]`` in ``after_backward`` and
            ``after_step``: once in a step, the mean over its micro-batches and workers by their share.
        """
        self._targets.append(target)
        if self.built:
            self.taps.add(target)
        if measure is not None:
            self.measures[target] = measure

    def gauge(self, outputs: Outputs, share: float) -> None:
        """Add what the measures make of one part of a step.

        :param share: of this part in its step.
        """
        with torch.no_grad():
            for target, measure in self.measures.items():
                seen = measure(outputs.taps[target]) * share
                self.measured[target] = self.measured[target] + seen if target in self.measured else seen

    def play(self, task: Task, batch: Batch) -> Outputs:
        """Return its outputs for a batch."""
        if self.memory is not None and not self._targets and not torch.is_grad_enabled():
            tree = self.memory.answer(batch, lambda: full_precision(task.outputs(self.module, batch)))
            return Outputs(tree, task, batch)
        with self.taps.reading():
            outputs = task.outputs(self.module, batch)
        return Outputs(full_precision(outputs), task, batch, self.taps.collect())

    def set_mode(self) -> None:
        """Train mode with gradients if it trains, else eval mode without; what is frozen stays so."""
        with_gradients(self.module, wanted=self.trains)
        self.start_epoch()

    def lay_channels_last(self) -> None:
        """Lay images' channels last in memory for the stage, if the net doesn't have them so already."""
        last = torch.channels_last
        images = [p for p in self.module.parameters() if p.dim() == 4]
        self.relaid = not any(p.is_contiguous(memory_format=last) and not p.is_contiguous() for p in images)
        lay_channels_last(self.module)

    def start_epoch(self) -> None:
        """Train mode if it trains, else eval mode; what is frozen, by its builder too, stays so without gradients."""
        self.module.train(self.trains)
        keep_owners(self.module)
        for path in self._frozen:
            module = self.module.get_submodule(path).eval()
            held = [parameter for parameter in module.parameters() if parameter.requires_grad]
            for parameter in held:
                parameter.requires_grad_(False)
            self._held += held

    def freeze(self, paths: Iterable[str]) -> None:
        """Hold modules for the stage: their weights, their transforms and their batch statistics; in ``prepare``.

        :param paths: of the modules, with all that is in them.
        :raises UnknownKey: for a path that the net doesn't have.
        """
        known = dict(self.module.named_modules())
        for path in paths:
            if path not in known:
                raise UnknownKey("module", path, known, where=f"freeze in {self.name}")
            self._frozen.append(path)
        self.start_epoch()

    def thaw(self) -> None:
        """Let go of what was frozen or laid otherwise, when the stage has ended: later stages meet it as in a file."""
        if self.relaid:
            self.module.to(memory_format=torch.contiguous_format)
        self._frozen.clear()
        for parameter in self._held:
            parameter.requires_grad_(True)
        self._held.clear()

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
