"""Opening a stage: from a unit of the recipe to players, methods and optimizers, ready for the first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import get_type_hints

import torch

from condensery.contract import Facts, Method, Registry, StageManager, build_method, check_words, takes_list
from condensery.errors import MethodError, UsageError
from condensery.measure import code_of, digest, origin
from condensery.nets import BATCH_NORMS, Reach, clone, fill_from, is_attention, lent
from condensery.recipe import (
    ModelSpec,
    PlayerSpec,
    Recipe,
    RoundSpec,
    StageSpec,
    TrainSpec,
    Unit,
    derive_seed,
    setting_at,
)
from condensery.run.builder import Builder
from condensery.run.checks import check_optimizer, check_players
from condensery.run.memory import Memory, room
from condensery.run.players import Player
from condensery.run.processes import ALONE, Processes
from condensery.run.stage import Stage
from condensery.run.steps import Defaults, parse_every
from condensery.run.validation import held_out
from condensery.surgery.attention import KnownClasses
from condensery.tasks import Subset, seed_generators

DRY_STEPS = 2
"""Batches of a dry stage, unless a player steps less often."""


class Opener:
    """Opens the stages of one run, in their order: :meth:`open`, then :meth:`prepare`.

    :param processes: that play the run.
    :param dry: of a dry run: a few batches, and the words that methods declare are checked.
    """

    def __init__(self, recipe: Recipe, builder: Builder, processes: Processes = ALONE, *, dry: bool) -> None:
        self.recipe, self.builder, self.processes, self.dry = recipe, builder, processes, dry
        self._facts: Facts | None = None
        # In a dry run no base is trained, so that weights stand in for trained ones from the start.
        self._stands_in = dry and recipe.trains_first

    def open(self, unit: Unit, train: TrainSpec, players: Mapping[str, Player], seed: int) -> Stage:
        """Return a stage whose methods are built and have done nothing yet.

        :param players: student and teachers by name.
        :param seed: of everything random in the stage.
        """
        # After the roles were given, so that a teacher that had to be trained first leaves no trace in the draws.
        seed_generators(derive_seed("stage", seed, unit.id, unit.spec.name))
        if self.dry:
            # Each player that steps once in a few batches does so.
            steps = max([DRY_STEPS, *(parse_every(player.every)[1] for player in unit.spec.players.values())])
            train = train.model_copy(
                update={"epochs": min(train.epochs, 1), "max_steps": steps, "batch_size": min(train.batch_size, 8)}
            )

        data = self.recipe.data_of(unit.spec)
        part, share = data.subset, held_out(self.recipe, self.builder.task)
        subset = Subset(part.size, part.per_class, tuple(part.without), share) if part else None
        if share and subset is None:
            subset = Subset(held_out=share)
        stage = Stage(
            unit.spec,
            self.builder.task if data.augment else self.builder.task.as_stored(),
            train,
            seed=seed,
            device=self.builder.device,
            subset=subset,
            labels=data.labels,
            round_index=unit.round,
            rounds=unit.rounds,
            layer=unit.layer,
            dry=self.dry,
            build=self.builder.build,
            classes=KnownClasses(self.builder.registry),
            reach=Reach.of(self.builder.registry),
            processes=self.processes,
        )
        stage.graphs = self.builder.graphs
        stage.players.update(players)
        stage.manager = StageManager(unit.spec.name, methods_of(unit, self.builder.registry), Defaults())
        return stage

    def prepare(self, stage: Stage) -> None:
        """Let the methods prepare, and give the players their optimizers.

        :raises NotApplicable: in a dry run, if a method needs what the net, the task or an earlier stage doesn't give.
        :raises UsageError: for a player that isn't there, or is there twice, and for an optimizer that can't be built.
        """
        own = isinstance(stage.spec.student, ModelSpec)
        if own and not stage.spec.student.init_from:
            self._stands_in = False  # it starts from its own weights, in a real run as well
        stage.stands_in = self._stands_in
        if self.dry:  # a real run comes after a dry one, which checked every word
            if self._facts is None or own:
                self._facts = Facts(words_of(stage))
            roles = ["teacher"] if stage.spec.teachers else []
            self._facts.enter(stage.name, list(stage.manager.methods.items()), roles)

        stage.stepping = False
        for method, recruit in stage.manager.each("players"):
            for player in check_players(stage, method, recruit(stage=stage)):
                if player.name in stage.players:
                    raise UsageError(f"stage {stage.name!r}: two players are named {player.name!r}")
                stage.players[player.name] = player
        _set_players(stage)
        stage.manager.call("prepare", stage=stage)
        _build_copies(stage)
        stage.ready()
        _set_optimizers(stage)
        if not self.dry:
            _give_memories(stage)
        self._stands_in |= self.dry and bool(stage.train.epochs or stage.manager.methods)


def words_of(stage: Stage) -> set[str]:
    """Return the words that hold for a fresh student on a task, see :mod:`condensery.contract.facts`."""
    modules = list(stage.student.module.modules())
    words = {"float-weights", "dense-shape"}
    if has_rows(stage):
        words.add("classifier-logits")
    if any(isinstance(m, BATCH_NORMS) and m.affine for m in modules):
        words.add("batch-norm")
    if any(is_attention(m) for m in modules):
        words.add("attention")
    return words


def has_rows(stage: Stage) -> bool:
    """Tell whether the task finds class scores in what the student makes of two training examples."""
    net, (batch, *_) = lent(stage.student.module).eval(), stage.sample(2)
    with torch.no_grad():
        return stage.task.rows(stage.task.outputs(net, batch), batch) is not None


def methods_of(unit: Unit, registry: Registry, *, lists: bool = True) -> list[tuple[str, Method]]:
    """Return the methods of a unit by name, with their settings in this pass of the round.

    :param lists: read lists with one entry for each pass; otherwise these settings keep their defaults.
    :raises UsageError: naming the setting that is wrong.
    """
    methods: list[tuple[str, Method]] = []
    for item in unit.spec.methods:
        cls = registry.load("methods", item.key)
        check_words(item.key, cls)

        hints = get_type_hints(cls)
        settings = {}
        for setting, value in item.settings.items():
            where = f"{unit.spec.name}: {item.key}.{setting}"
            is_list = takes_list(hints.get(setting))
            if isinstance(value, list) and not (lists or is_list):
                continue
            settings[setting] = setting_at(value, unit.round, unit.rounds, is_list=is_list, where=where)

        number = 1 + sum(name.partition("#")[0] == item.key for name, _ in methods)
        name = item.key if number == 1 else f"{item.key}#{number}"
        methods.append((name, build_method(item.key, cls, settings, registry.card(item.key))))
    return methods


def check_settings(items: Sequence[StageSpec | RoundSpec], registry: Registry, passes: int = 1) -> None:
    """Check the settings in every pass of the rounds: a dry run meets only the first two.

    Nothing is checked inside a round whose passes aren't known before: one over layers, and one that may stop earlier.

    :param passes: of the round that the items are in.
    :raises UsageError: naming the stage, its pass and the setting.
    """
    for item in items:
        if isinstance(item, RoundSpec):
            check_settings(item.stages, registry, 0 if item.over or item.until else item.repeat)
            continue

        for number in range(passes):
            unit = Unit("", item, number, passes)
            try:
                methods_of(unit, registry)
            except UsageError as error:
                why = str(error).removeprefix(f"{item.name}: ")
                raise (UsageError(f"{unit.title}: {why}") if number else error) from None


def _set_players(stage: Stage) -> None:
    """Set how each player trains, as the recipe says, and whether it is in train or in eval mode."""
    for name, spec in stage.spec.players.items():
        if name not in stage.players:
            known = ", ".join(stage.players)
            raise UsageError(f"stage {stage.name!r}: players: no player {name!r}; there are {known}")
        _configure(stage.players[name], spec)

    for player in stage.players.values():
        if player.built:
            _set_mode(player, stage)


def _set_mode(player: Player, stage: Stage) -> None:
    player.set_mode()
    if stage.train.channels_last:
        player.lay_channels_last()


def _build_copies(stage: Stage) -> None:
    """Build the players that are like another one, which has prepared; and hold what was frozen before a cut.

    :raises UsageError: for a player to copy that isn't there, or is a copy itself.
    """
    for player in stage.players.values():
        if player.built:
            player.start_epoch()
            continue

        origin = stage.players.get(player.like or "")
        if origin is None or origin.like is not None:
            known = ", ".join(name for name, other in stage.players.items() if other.like is None)
            raise UsageError(f"stage {stage.name!r}: player {player.name!r} is like {player.like!r}; there are {known}")
        player.take(clone(origin.module))
        if player.spec != origin.spec:
            fill_from(player.module, stage.build(player.spec))
        _set_mode(player, stage)


def _give_memories(stage: Stage) -> None:
    """Let the answers of teachers that stay as they are be kept, where the user gives room for them."""
    limit = room()
    for player in stage.players.values() if limit else ():
        if not player.constant or player.trains:
            continue
        net = player.module
        identity = {
            "task": stage.task.describe(),
            "code": code_of(type(stage.task), *{type(module) for module in net.modules()}),
            "net": [player.spec.model_dump(mode="json"), str(net), digest(net)],
            "precision": dataclasses.astuple(stage.precision),
            "origin": origin(stage.device.type),
        }
        player.memory = Memory(identity, limit)


def _configure(player: Player, spec: PlayerSpec) -> None:
    """Set what the recipe says of one player; the student trains in any case."""
    if player.name != "student":
        player.trains = spec.train
    player.optimizer_spec = spec.optimizer
    player.every = parse_every(spec.every)


def _set_optimizers(stage: Stage) -> None:
    """Give each player that trains its optimizer, over its net, its helpers and its transforms' own parameters."""
    for player in stage.players.values():
        if not player.trains:
            continue

        player.helpers.to(stage.device)
        groups = player.groups(player.optimizer_spec or stage.train.optimizer)
        method, make = stage.manager.chosen("optimizer", player.name)
        try:
            made = make(stage=stage, player=player, groups=groups)
            if made is None:
                made = stage.manager.default("optimizer")(stage=stage, player=player, groups=groups)
        except MethodError as error:
            raise UsageError(f"stage {stage.name!r}: optimizer of {player.name}: {error}") from error

        player.optimizer = check_optimizer(stage, method, made)
        player.base_rates = [g["lr"] for g in player.optimizer.param_groups]
        if stage.train.carry_optimizer:
            player.load_optimizer_state(player.carried)
