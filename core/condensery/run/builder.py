"""The nets of a run: how one is built from its spec, described for a checkpoint, and built again from that."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from condensery.contract import Registry
from condensery.measure import code_of
from condensery.nets import build_unfilled, hollow, lent
from condensery.recipe import ModelSpec, fingerprint
from condensery.run.players import Player
from condensery.storage import build_with_weights, describe_net, rebuild_net, unweighted
from condensery.surgery import ChannelGraph
from condensery.tasks import Task


@dataclasses.dataclass
class Net:
    """A net between two stages, with how it was built.

    :param optimizer: the state of the optimizer that trained it last, by plain parameter name.
    """

    module: nn.Module
    spec: ModelSpec
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, player: Player) -> Net:
        """Return the net of a player whose stage has ended."""
        return cls(player.module, player.spec, player.optimizer_state())

    def student(self) -> Player:
        """Return the net as the student of a stage, which trains its weights where they lie: only one stage may."""
        player = Player("student", lent(self.module), spec=self.spec, trains=True)
        player.carried = self.optimizer
        return player


@dataclasses.dataclass(eq=False, repr=False)
class Builder:
    """Builds the nets of one run.

    :param device: nets are on it when a run gets them.
    :param seed: of initial weights; each spec's own is added to it.
    :param fresh: nets as their specs build them, by fingerprint: a checkpoint says where a net differs from that.
    :param graphs: how channels hang together in the net that was cut last, for stages that meet it again.
    """

    task: Task
    registry: Registry
    device: torch.device
    seed: int
    fresh: dict[str, nn.Module] = dataclasses.field(default_factory=dict)
    graphs: list[ChannelGraph] = dataclasses.field(default_factory=list)

    def build(self, spec: ModelSpec, seed: int | None = None) -> nn.Module:
        """Build a module, still on the CPU, with the weights that its spec names or random ones.

        :param seed: instead of the run's.
        :raises UsageError: for an unknown model, a setting it doesn't have, or weights that don't fit.
        """
        return build_with_weights(spec, self.task.facts, self.registry, self.seed if seed is None else seed)

    def net(self, spec: ModelSpec, seed: int | None = None) -> Net:
        """Build a net, see :meth:`build`."""
        return Net(self.build(spec, seed).to(self.device), spec)

    def identity(self, spec: ModelSpec) -> dict[str, Any]:
        """Return what a cache's key holds of a task and a net: what the user decided, and the code of both."""
        code = code_of(type(self.task), self.registry.load("models", spec.key))
        return {"task": self.task.describe(), "model": spec.model_dump(mode="json"), "code": code}

    def described(self, net: Net) -> dict[str, Any]:
        """Return what a checkpoint holds of a net, the state of its optimizer too.

        :raises PluginError: for a transform or layer that no plugin registers.
        """
        plain = unweighted(net.spec)
        key = fingerprint(plain.model_dump(mode="json"))
        if key not in self.fresh:
            self.fresh[key] = hollow(self._unfilled(plain))
        return describe_net(net.module, net.spec, self.fresh[key], self.registry) | {"optimizer": net.optimizer}

    def rebuilt(self, description: Any) -> Net:
        """Return a net from a checkpoint."""
        module, spec = rebuild_net(description, self._unfilled, self.registry)
        return Net(module.to(self.device), spec, description["optimizer"])

    def _unfilled(self, spec: ModelSpec) -> nn.Module:
        return build_unfilled(spec, self.task.facts, self.registry)
