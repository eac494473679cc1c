"""Opening a stage: from a unit of the recipe to players, methods and optimizers, ready for the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_type_hints

import torch

from condensery.contract import Facts, Method, Registry, StageManager, build_method, check_words, takes_list
from condensery.errors import MethodError, UsageError
from condensery.recipe import ModelSpec, PlayerSpec, RoundSpec, StageSpec, TrainSpec, Unit, derive_seed, setting_at
from condensery.run.cast import Cast, Net, words_of
from condensery.run.players import Player
from condensery.run.stage import Stage
from condensery.run.steps import Defaults, parse_every
from condensery.surgery.attention import KnownClasses
from condensery.tasks import Subset

DRY_STEPS = 2


class Opener:
    """Opens the stages of one run, in their order.

    :param cast: the nets of the run; says whether it is a dry one.
    """

    def __init__(self, cast: Cast) -> None:
        self.cast, self.recipe, self.dry = cast, cast.recipe, cast.dry
        self._facts: Facts | None = None
        self._stands_in = cast.dry and cast.recipe.trains_first

    def open(self, unit: Unit, train: TrainSpec, net: Net) -> Stage:
        """Return a stage whose methods are prepared and whose players have their optimizers.

        :param net: what the unit before left.
        """
        if self.dry:
            train = train.model_copy(
                update={"epochs": min(train.epochs, 1), "max_steps": DRY_STEPS, "batch_size": min(train.batch_size, 8)}
            )
        torch.manual_seed(derive_seed("stage", self.recipe.seed, unit.id, unit.spec.name))
        stage = self._stage(unit, train)
        self.cast.assign(stage, unit, net)
        if isinstance(unit.spec.student, ModelSpec) and not unit.spec.student.init_from:
            self._stands_in = False  # it starts from its own weights, in a real run as well
        stage.stands_in = self._stands_in
        if self.dry:  # a real run comes after a dry one, which checked every word
            self._check_facts(stage, unit)
        for _, recruit in stage.manager.each("players"):
            for player in recruit(stage=stage) or ():
                if player.name in stage.players:
                    raise UsageError(f"stage {stage.name!r}: two players are named {player.name!r}")
                stage.players[player.name] = player
        _set_players(stage)
        stage.manager.call("prepare", stage=stage)
        stage.ready()
        _set_optimizers(stage)
        self._stands_in |= self.dry and bool(train.epochs or unit.spec.methods)
        return stage

    def _stage(self, unit: Unit, train: TrainSpec) -> Stage:
        data = unit.spec.data or self.recipe.data
        subset = Subset(data.subset.size, data.subset.per_class, tuple(data.subset.without)) if data.subset else None
        stage = Stage(
            unit.spec,
            self.cast.task,
            train,
            seed=self.recipe.seed,
            device=self.cast.device,
            subset=subset,
            labels=data.labels,
            round_index=unit.round,
            rounds=unit.rounds,
            layer=unit.layer,
            dry=self.dry,
            build=self.cast.build,
            classes=KnownClasses(self.cast.registry),
        )
        stage.manager = StageManager(unit.spec.name, methods_of(unit, self.cast.registry), Defaults())
        return stage

    def _check_facts(self, stage: Stage, unit: Unit) -> None:
        if self._facts is None or isinstance(unit.spec.student, ModelSpec):
            self._facts = Facts(words_of(stage))
        roles = ["teacher"] if unit.spec.teachers else []
        self._facts.enter(unit.spec.name, list(stage.manager.methods.items()), roles)


def methods_of(unit: Unit, registry: Registry) -> list[tuple[str, Method]]:
    """Return the methods of a unit by name, with their settings in this pass of the round.

    :raises UsageError: naming the setting that is wrong.
    """
    methods: list[tuple[str, Method]] = []
    for item in unit.spec.methods:
        cls = registry.load("methods", item.key)
        check_words(item.key, cls)
        hints = get_type_hints(cls)
        settings = {
            n: setting_at(
                v, unit.round, unit.rounds, is_list=takes_list(hints.get(n)), where=f"{unit.spec.name}: {item.key}.{n}"
            )
            for n, v in item.settings.items()
        }
        number = 1 + sum(n.partition("#")[0] == item.key for n, _ in methods)
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
    for name, spec in stage.spec.players.items():
        if name not in stage.players:
            known = ", ".join(stage.players)
            raise UsageError(f"stage {stage.name!r}: players: no player {name!r}; there are {known}")
        _configure(stage.players[name], spec)
    for player in stage.players.values():
        player.set_mode()
        if stage.train.channels_last:
            player.module.to(memory_format=torch.channels_last)


def _configure(player: Player, spec: PlayerSpec) -> None:
    if player.name != "student":
        player.trains = spec.train
    player.optimizer_spec = spec.optimizer
    player.every = parse_every(spec.every)


def _set_optimizers(stage: Stage) -> None:
    for player in stage.players.values():
        if not player.trains:
            continue
        player.helpers.to(stage.device)
        groups = player.groups(player.optimizer_spec or stage.train.optimizer)
        try:
            player.optimizer = stage.manager.call("optimizer", stage=stage, player=player, groups=groups)
        except MethodError as error:
            raise UsageError(f"stage {stage.name!r}: optimizer of {player.name}: {error}") from error
        assert player.optimizer is not None
        player.base_rates = [g["lr"] for g in player.optimizer.param_groups]
        if stage.train.carry_optimizer:
            player.load_optimizer_state(player.carried)
