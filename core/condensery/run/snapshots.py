"""The nets that later stages refer to, kept as they were when a stage ended or after one of its epochs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from condensery.errors import UsageError
from condensery.nets import clone, frozen
from condensery.recipe import Recipe, flat
from condensery.run.builder import Builder, Net
from condensery.run.folder import RunFolder
from condensery.run.stage import Stage

REFERENCE = re.compile(r"stage:(?P<stage>[^@]+?)(?:\.(?P<player>[a-z#0-9]+))?(?:@epoch=(?P<epoch>\d+))?")


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


class Snapshots:
    """Copies of nets by the role that names them: ``original``, and each ``stage:`` role of the recipe.

    :param dry: of a dry run: nothing is written.
    :param files: by role, the file that keeps its net. What a run goes on from names them, so that a net which was
        written after that doesn't count.
    :raises UsageError: for a ``stage:`` role that can't be read.
    """

    def __init__(self, recipe: Recipe, builder: Builder, folder: RunFolder, *, dry: bool) -> None:
        self.builder, self.folder, self.dry = builder, folder, dry
        self.nets: dict[str, Net] = {}
        self.files: dict[str, str] = {}
        roles = dict.fromkeys(r for s in flat(recipe.stages) for r in s.teachers if isinstance(r, str))
        self.asked = frozenset(roles)
        self.wanted = [Reference.parse(role) for role in roles if role.startswith("stage:")]

    def keep(self, role: str, net: Net) -> None:
        """Keep a frozen copy of a net under a role, if any stage asks for it."""
        if role in self.asked:
            self.nets[role] = Net(frozen(clone(net.module)), net.spec)

    def take(self, stage: Stage, unit: str, epoch: int | None = None) -> None:
        """Keep those nets of a stage that a later one refers to.

        :param unit: id of the stage's unit, which tells the passes of a round apart.
        :param epoch: after this many epochs; ``None``: when the stage ends. A dry run comes here at the end alone, and
            takes the nets of all epochs then.
        :raises UsageError: for a player that the stage doesn't have.
        """
        for number, reference in enumerate(self.wanted):
            name = reference.player_in(stage.name)
            if name is None or (not self.dry and reference.epoch != epoch):
                continue

            if name not in stage.players:
                players = ", ".join(stage.players)
                raise UsageError(f"{reference.role}: stage {stage.name!r} has no player {name!r}; it has {players}")
            player = stage.players[name]
            self.keep(reference.role, Net(player.module, player.spec))
            if not self.dry:
                when = "" if epoch is None else f"@{epoch}"
                self.files[reference.role] = f"snapshot-{number}-{unit}{when}.safetensors"
                self.folder.save(self.files[reference.role], self.builder.described(self.nets[reference.role]))

    def recall(self, files: Mapping[str, str]) -> None:
        """Take the nets kept for later stages from the folder of an interrupted run.

        :param files: by role, as the point that the run goes on from names them.
        :raises ArtifactError: naming a file that is missing or damaged.
        """
        for role, file in files.items():
            found = self.builder.rebuilt(self.folder.needed(file))
            self.nets[role] = Net(frozen(found.module), found.spec)
        self.files = dict(files)

    def tidy(self) -> None:
        """Remove the files of nets that a later pass of a round has replaced."""
        self.folder.tidy(self.files.values(), "snapshot-*.safetensors")
