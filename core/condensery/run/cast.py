"""Who is who in a stage: the nets behind the roles, and which nets are kept for later stages."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.nets import BATCH_NORMS, clone, copy_from, frozen, is_attention
from condensery.recipe import ModelSpec, Recipe, Role, Unit, fingerprint, flat
from condensery.run.folder import RunFolder
from condensery.run.players import Player
from condensery.run.stage import Stage
from condensery.storage import build_with_weights, describe_net, rebuild_net, unweighted
from condensery.tasks import Task

REFERENCE = re.compile(r"stage:(?P<stage>[^@]+?)(?:\.(?P<player>[a-z#0-9]+))?(?:@epoch=(?P<epoch>\d+))?")


@dataclasses.dataclass
class Net:
    """A net between two stages, with how it was built."""

    module: nn.Module
    spec: ModelSpec
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)


class Cast:
    """The nets of one run, by role.

    :param train: trains a net that comes without weights by the task's base recipe, given its spec and a label.
    :param dry: of a dry run: nothing is written.
    """

    def __init__(
        self,
        recipe: Recipe,
        registry: Registry,
        task: Task,
        device: torch.device,
        folder: RunFolder,
        train: Callable[[ModelSpec, str], Net],
        *,
        dry: bool,
    ) -> None:
        self.recipe, self.registry, self.task, self.device = recipe, registry, task, device
        self.folder, self.train, self.dry = folder, train, dry
        self.snapshots: dict[str, Net] = {}
        self.wanted = references(recipe)
        self._fresh: dict[str, nn.Module] = {}

    def build(self, spec: ModelSpec) -> nn.Module:
        """Build a net with the run's seed."""
        return build_with_weights(spec, self.task.facts, self.registry, self.recipe.seed)

    def described(self, net: Net) -> dict[str, Any]:
        """Return what a checkpoint holds of a net."""
        plain = unweighted(net.spec)
        key = fingerprint(plain.model_dump(mode="json"))
        if key not in self._fresh:
            self._fresh[key] = self.build(plain)
        return describe_net(net.module, net.spec, self._fresh[key], self.registry)

    def rebuilt(self, description: Any) -> Net:
        """Return a net from a checkpoint."""
        module, spec = rebuild_net(description, self.build, self.registry)
        return Net(module.to(self.device), spec)

    def role(self, role: Role, previous: Net, label: str) -> Net:
        """Return a frozen net for a teacher role."""
        if isinstance(role, ModelSpec):
            key = f"teacher:{fingerprint(role.model_dump(mode='json'))}"
            if key not in self.snapshots:
                self.snapshots[key] = self.train(role, f"base:{role.key}")
            found = self.snapshots[key]
        elif role in ("previous", "input"):
            found = previous
        elif role in self.snapshots:
            found = self.snapshots[role]
        else:
            known = [*self.snapshots, "input", "original"]
            near = ", ".join(k for k in known if not k.startswith("teacher:"))
            raise UsageError(f"stage {label!r}: no net {role!r} at this point; there are {near}")
        return Net(frozen(clone(found.module)), found.spec)

    def assign(self, stage: Stage, unit: Unit, net: Net) -> None:
        """Resolve the roles: student and teachers."""
        teachers = [self.role(role, net, unit.spec.name) for role in unit.spec.teachers]
        role = unit.spec.student
        if role == "previous":
            student = Net(clone(net.module), net.spec, net.optimizer)
        elif isinstance(role, ModelSpec):
            module = self.build(role)
            source = {"student": net, "teacher": teachers[0] if teachers else None}.get(role.init_from or "")
            if role.init_from and source is None:
                raise UsageError(
                    f"stage {unit.spec.name!r}: init_from {role.init_from!r}: say student, or teacher if there is one"
                )
            if source is not None:
                copy_from(module, source.module, role.layers)
            student = Net(module, role)
        else:
            raise UsageError(f"stage {unit.spec.name!r}: student must be 'previous' or a model, got {role!r}")
        for number, teacher in enumerate(teachers):
            name = "teacher" if number == 0 else f"teacher#{number + 1}"
            stage.players[name] = Player(name, teacher.module.to(self.device), spec=teacher.spec)
        player = Player("student", student.module.to(self.device), spec=student.spec, trains=True)
        player.carried = student.optimizer
        stage.players = {"student": player, **stage.players}

    def remember(self, stage: Stage, epoch: int | None = None) -> None:
        """Keep the nets that a later stage refers to.

        :param epoch: after this many epochs; ``None``: when the stage ends. A dry run comes here at the end alone, and
            takes the nets of all epochs then.
        """
        for number, reference in enumerate(self.wanted):
            name = reference.player_in(stage.name)
            if name is None or (not self.dry and reference.epoch != epoch):
                continue
            role = reference.role
            if name not in stage.players:
                players = ", ".join(stage.players)
                raise UsageError(f"{role}: stage {stage.name!r} has no player {name!r}; it has {players}")
            found = stage.players[name]
            self.snapshots[role] = Net(frozen(clone(found.module)), found.spec)
            if not self.dry:
                self.folder.save(snapshot_file(number), self.described(self.snapshots[role]))

    def recall(self) -> None:
        """Take the nets kept for later stages from the folder of an interrupted run."""
        for number, reference in enumerate(self.wanted):
            kept = self.folder.load(snapshot_file(number))
            if kept is not None:
                found = self.rebuilt(kept)
                self.snapshots[reference.role] = Net(frozen(found.module), found.spec)


def snapshot_file(number: int) -> str:
    """Return the name of the file that keeps the net of one reference."""
    return f"snapshot-{number}.safetensors"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A role that names a net of an earlier stage.

    :param role: as written, ``stage:<name>[.<player>][@epoch=N]``.
    :param epoch: after this many epochs; ``None``: when the stage ends.
    """

    role: str
    stage: str
    player: str | None
    epoch: int | None

    @classmethod
    def parse(cls, role: str) -> Reference:
        """Read a role.

        :raises UsageError: with the right form.
        """
        match = REFERENCE.fullmatch(role)
        if match is None:
            raise UsageError(f"role {role!r}: write stage:<name>[.<player>][@epoch=N]")
        return cls(role, match["stage"], match["player"], int(match["epoch"]) if match["epoch"] else None)

    def player_in(self, stage: str) -> str | None:
        """Return the name of the player meant in a stage, or ``None`` if another stage is meant.

        A stage's own name may hold a point: ``a.b`` is the student of a stage with this name, or player b of stage a.
        """
        if self.player is not None and f"{self.stage}.{self.player}" == stage:
            return "student"
        return (self.player or "student") if self.stage == stage else None


def references(recipe: Recipe) -> list[Reference]:
    """Return every ``stage:`` role of a recipe, each once.

    :raises UsageError: for one that can't be read.
    """
    roles = [r for s in flat(recipe.stages) for r in s.teachers if isinstance(r, str) and r.startswith("stage:")]
    return [Reference.parse(role) for role in dict.fromkeys(roles)]


def words_of(stage: Stage) -> set[str]:
    """Return the words that hold for a fresh student on a task, see :mod:`condensery.contract.facts`."""
    modules = list(stage.student.module.modules())
    words = {"float-weights", "dense-shape"}
    if stage.task.facts.outputs > 1:
        words.add("classifier-logits")
    if any(isinstance(m, BATCH_NORMS) and m.affine for m in modules):
        words.add("batch-norm")
    if any(is_attention(m) for m in modules):
        words.add("attention")
    return words
