"""Who is who in a stage: the nets behind the roles."""

from __future__ import annotations

import dataclasses

from condensery.contract import Registry
from condensery.errors import CondenseryError, UnknownKey, UsageError, nearest
from condensery.nets import clone, copy_from, frozen
from condensery.recipe import ROLE_WORDS, ModelSpec, Recipe, Role, Unit, fingerprint, flat
from condensery.run.base import Base
from condensery.run.builder import Builder, Net
from condensery.run.opening import methods_of
from condensery.run.players import Player
from condensery.run.snapshots import Snapshots


def give_teachers(recipe: Recipe, registry: Registry) -> tuple[Recipe, list[str]]:
    """Return a recipe in which each stage has the teacher that its methods need, and a line for each that got one.

    A stage that names none gets the net at the recipe's start, unless one of its methods brings a teacher: it then
    leaves the word ``teacher``.
    """
    recipe = recipe.model_copy(deep=True)
    lines = []
    for stage in flat(recipe.stages):
        try:
            found = [(name, method.words()) for name, method in methods_of(Unit("", stage), registry, lists=False)]
        except CondenseryError:
            continue  # What is wrong is said when the recipe is checked.

        needing = [name for name, words in found if "teacher" in words.needs]
        if needing and not stage.teachers and not any("teacher" in words.leaves for _, words in found):
            stage.teacher = "original"
            lines.append(f"stage {stage.name!r} names no teacher for {', '.join(needing)}: it gets the original net")
    return recipe, lines


@dataclasses.dataclass(eq=False, repr=False)
class Cast:
    """Gives the roles of a stage to nets of the run.

    :param base: trains teachers that come without weights.
    :param dry: of a dry run: such teachers are not trained.
    :param separate: teachers with a spec of their own that were met before, by its fingerprint.
    """

    builder: Builder
    base: Base
    snapshots: Snapshots
    dry: bool
    separate: dict[str, Net] = dataclasses.field(default_factory=dict)

    def players(self, unit: Unit, previous: Net) -> dict[str, Player]:
        """Return the student and the teachers of a unit by name; the first teacher is ``teacher``, then ``teacher#2``.

        :param previous: what the unit before left.
        :raises UsageError: for a role that can't be given to any net.
        """
        teachers = [self._teacher(role, previous, unit.spec.name) for role in unit.spec.teachers]
        players = {"student": self._student(unit, previous, teachers)}
        for number, net in enumerate(teachers, 1):
            name = "teacher" if number == 1 else f"teacher#{number}"
            players[name] = Player(name, frozen(clone(net.module)), spec=net.spec)
        return players

    def _student(self, unit: Unit, previous: Net, teachers: list[Net]) -> Player:
        """Return what the unit before left, or a net of the unit's own, which may start from another's weights."""
        role, where = unit.spec.student, f"stage {unit.spec.name!r}"
        if role == "previous":
            return previous.student()
        if not isinstance(role, ModelSpec):
            raise UsageError(f"{where}: student must be 'previous' or a model, got {role!r}")

        self._refuse_misspelt(role.key, unit.spec.name)
        net = self.builder.net(role)
        if role.init_from:
            source = {"student": previous, "teacher": teachers[0] if teachers else None}.get(role.init_from)
            if source is None:
                raise UsageError(f"{where}: init_from {role.init_from!r}: say student, or teacher if there is one")
            copy_from(net.module, source.module, role.layers)
        return net.student()

    def _teacher(self, role: Role, previous: Net, label: str) -> Net:
        """Return the net behind a teacher's role."""
        if isinstance(role, ModelSpec):
            self._refuse_misspelt(role.key, label)
            return self._separate_teacher(role)
        if role in ("previous", "input"):
            return previous
        if role not in self.snapshots.nets:
            near = ", ".join(dict.fromkeys(["original", *self.snapshots.nets, "input"]))
            raise UsageError(f"stage {label!r}: no net {role!r} at this point; there are {near}")
        return self.snapshots.nets[role]

    def _refuse_misspelt(self, key: str, label: str) -> None:
        """Refuse a model that there isn't, where a role or a stage has nearly this name: that is what was meant.

        :raises UnknownKey: naming it.
        """
        roles = [*ROLE_WORDS, *(stage.name for stage in flat(self.base.recipe.stages) if stage.name)]
        known = self.builder.registry.entries["models"]
        if key not in known and f"{key.partition('/')[0]}/*" not in known and nearest(key, roles):
            raise UnknownKey("role", key, roles, where=f"stage {label!r}")

    def _separate_teacher(self, spec: ModelSpec) -> Net:
        """Return a net of its own with trained weights; each is built, trained or loaded once in a run."""
        key = fingerprint(spec.model_dump(mode="json"))
        if key not in self.separate:
            ready = self.dry or spec.weights
            self.separate[key] = self.builder.net(spec) if ready else self.base.trained(spec, f"base:{spec.key}")
        return self.separate[key]
