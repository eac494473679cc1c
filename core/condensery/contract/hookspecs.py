"""The two contracts: what a plugin may offer, and how a method may act in a running stage.

Offering hooks are called once, when a :class:`condensery.Registry` opens. They are cheap and must not import torch.
Acting hooks are called on the methods of the running stage only; each stage has a manager of its own.

Mark implementations with :data:`hookimpl`, which imports without torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from condensery.errors import PluginError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from condensery.run import Bucket, Outputs, Player, Stage
    from condensery.tasks import Batch

PROJECT = "condensery"
API = 1
"""Version of these hooks; a plugin states the one that it was written for, ``condensery_api = 1``."""
MARK = f"{PROJECT}_impl"
"""The attribute that ``@hookimpl`` puts on a function."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[[str, str | type], None]
"""``register(key, "package.module:Name")``: offers one thing; a key that is taken is refused by name.

The class itself will do in place of its name, as in a notebook; a plugin's module would have to import torch for that.
"""
RegisterCard = Callable[[str, Mapping[str, Any]], None]
"""``register(key, card)``: offers one paper's card, as plain data."""


RegisterWeighted = Callable[[str, Mapping[str, tuple[int, int]]], None]
"""``register("package.module.Class", {"weight": (0, 1)})``: offers what is known of one class's weights, as data."""


class OfferingSpecs:
    """What a plugin may offer. Each hook is called once and gets a ``register`` callback.

    A duplicate key is refused and reported with the plugins that made it; nothing is renamed or replaced.
    """

    @hookspec
    def register_papers(self, register: RegisterCard) -> None:
        """Offer cards: what the survey and the paper say, as data.

        :param register: ``register(key, card)``; the card follows :class:`condensery.contract.cards.Card`.
        """

    @hookspec
    def register_methods(self, register: Register) -> None:
        """Offer methods: ``register("hinton-kd", "package.module:HintonKD")``, a :class:`condensery.Method`."""

    @hookspec
    def register_models(self, register: Register) -> None:
        """Offer models: the target is called as ``build(facts, name, **config)`` and returns a ``torch.nn.Module``.

        :param register: a key that ends in ``/*`` stands for a family; ``name`` is then what follows the slash.
        """

    @hookspec
    def register_tasks(self, register: Register) -> None:
        """Offer tasks: the target is a :class:`condensery.tasks.Task`, built as ``Task(**config)``."""

    @hookspec
    def register_layers(self, register: Register) -> None:
        """Offer modules that checkpoints and artifacts rebuild from a JSON config: transforms and special layers.

        :param register: the target is a :class:`condensery.Transform` or a :class:`condensery.Layer`.
        """

    @hookspec
    def register_codecs(self, register: Register) -> None:
        """Offer ways to store a tensor in an artifact: the target is a Leaf or a Branch of ``condensery.nets``."""

    @hookspec
    def register_attention(self, register: Register) -> None:
        """Offer what attention nets are made of: where a class keeps its heads, so that some can be cut out.

        :param register: the key is the qualified name of one class, ``"package.module.Class"``; the target an
            ``Attention``, an ``Mlp`` or a ``Block`` of ``condensery.surgery.attention``, imported when a net has that
            class.
        """

    @hookspec
    def register_weighted(self, register: RegisterWeighted) -> None:
        """Offer which tensors of a class of modules are weights, so that methods reach them: ``stage.weights()``.

        :param register: the key is the qualified name of one class, and holds for its subclasses; the target is by
            name of a tensor, or a pattern such as ``weight_*``, the axis of the layer's outputs and that of its inputs.
            Torch's own classes are known.
        """

    @hookspec
    def register_recipes(self, register: Register) -> None:
        """Offer reproductions: the target is ``"package:file.yaml"``, a file inside an importable package."""

    @hookspec
    def register_searches(self, register: Register) -> None:
        """Offer outer loops over recipes: the target is a :class:`condensery.run.Search`."""


class StageSpecs:
    """How a method may act. All arguments are passed by keyword; an implementation takes the ones it wants.

    Recipe order is call order. A method's per-player hooks are called only for the players in its ``acts_on``.
    """

    # ---------------------------------------------------------------- once per stage

    @hookspec
    def players(self, stage: Stage) -> Sequence[Player] | None:
        """Return networks beyond student and teacher. Collected; called before any train/eval mode is set.

        A method whose teacher trains unless the recipe says otherwise sets ``trains`` of that player here.

        :returns: players made by ``stage.recruit(...)``; one with ``plays=False`` is called by the method itself, and
            one ``like="student"`` is a copy of the student as it is after the last ``prepare``.
        """

    @hookspec
    def prepare(self, stage: Stage) -> None:
        """Attach transforms, taps and helpers; freeze; sample data; cut. Called once; no optimizer exists yet.

        ``stage.play`` is a look here, as in ``end_stage``: no statistics move. Nets are cut in these two hooks alone.

        Runs again when an interrupted stage is resumed, before the saved progress is laid over it.
        """

    @hookspec(firstresult=True)
    def optimizer(self, stage: Stage, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | None:
        """Return the optimizer of one training player. First result for each player; by default the recipe's.

        :param groups: parameter groups with ``lr`` and ``weight_decay`` set, transforms' own settings included.
        """

    @hookspec
    def end_stage(self, stage: Stage) -> None:
        """Write back, attach, cut. Called once after the last epoch; taps and helpers are still there."""

    @hookspec
    def report(self, stage: Stage) -> Mapping[str, float] | None:
        """Return measured numbers, unit in the key (``"density_percent"``). Core prefixes them with the method."""

    # ---------------------------------------------------------------- per epoch

    @hookspec(firstresult=True)
    def batches(self, stage: Stage) -> Iterable[Batch] | None:
        """Return one epoch's batches. First result; asked anew each epoch; core's default is the task's data.

        Give them a ``len`` if they aren't as many as the task's: the schedule of the learning rate counts them. What
        other methods plan in ``prepare`` goes by ``stage.steps_per_epoch``, which may be set in ``players``.
        """

    @hookspec
    def after_epoch(self, stage: Stage) -> None:
        """Act after the last step of an epoch; ``stage.epoch`` is still that epoch."""

    # ---------------------------------------------------------------- per step (hot: no ``.item()``, no module walks)

    @hookspec
    def before_step(self, stage: Stage, batch: Batch) -> None:
        """Act before the batch is played: ramps over ``stage.epoch`` and ``stage.step``, which counts batches."""

    @hookspec(firstresult=True)
    def training_step(self, stage: Stage, batch: Batch) -> bool | None:
        """Do the whole step and return ``True``; anything else is refused. First result.

        Core's default is ``stage.gradients(batch)``, then ``stage.update(player)`` for each training player. A step of
        your own goes through the same verbs, so that the other methods of the stage still act. For outputs of your own
        they are ``stage.terms(player, batch, outputs)``, which asks every method, ``stage.backward(player, terms)``,
        which takes more terms than these, and ``stage.update(player)``. The dry run counts: a method whose hooks are
        never called for a player that trains is refused beside this one.
        """

    @hookspec
    def loss_terms(
        self, stage: Stage, batch: Batch, outputs: Mapping[str, Outputs], player: Player
    ) -> Mapping[str, Tensor] | None:
        """Return named scalar terms to add to one player's loss.

        :param outputs: by player name; those of partners are detached, ``player``'s own are not.
        :returns: 0-dim tensors, already weighted. Core prefixes the names, so two methods never clash.
        """

    @hookspec
    def task_weight(self, stage: Stage, player: Player) -> float | None:
        """Return the factor of the task's own loss for one player. Multiplied; 0 means that it isn't computed."""

    @hookspec(firstresult=True)
    def exchange(self, stage: Stage, player: Player, bucket: Bucket) -> Tensor | None:
        """Combine one parameter's gradients from all workers. First result for each player; by default the mean.

        :param player: whose parameter it is: what is kept from step to step is kept for each player and name.
        :param bucket: ``bucket.values`` is flat, of shape ``(workers of this process, numbers)``; see
            :class:`condensery.run.Bucket` for what workers may tell each other. What is kept for each of them is saved
            for all by ``stage.workers.of_all`` in ``state()``, and taken up by ``of_own``.
        :returns: shape ``(numbers,)``.
        """

    @hookspec
    def after_backward(self, stage: Stage, player: Player) -> None:
        """Act on ``.grad`` once per step: agreed between workers, summed over micro-batches, unscaled."""

    @hookspec
    def after_step(self, stage: Stage, player: Player) -> None:
        """Act after the optimizer's step of one player, and after its transforms have settled."""


OFFERING_HOOKS = tuple(n for n in vars(OfferingSpecs) if not n.startswith("_"))
STAGE_HOOKS = tuple(n for n in vars(StageSpecs) if not n.startswith("_"))
FIRST_RESULT_HOOKS = ("optimizer", "batches", "training_step", "exchange")
STEP_HOOKS = ("loss_terms", "task_weight", "exchange", "after_backward", "after_step")
"""Called in each step, for each player that the method acts on."""
PER_PLAYER_HOOKS = (*STEP_HOOKS, "optimizer")


def check_marked(what: str, plugin: object, hooks: Iterable[str]) -> None:
    """Refuse what pluggy would take and then not call, or call wrongly.

    :param what: names the plugin, for messages.
    :param plugin: a method, or a module or object that offers something.
    :raises PluginError: for a class, a function named like a hook or nearly so but not marked, or a default argument on
        a hook.
    """
    if inspect.isclass(plugin):
        raise PluginError(f"{what}: register a module or an instance, not the class {plugin.__name__}")

    owner = plugin if inspect.ismodule(plugin) else type(plugin)
    found = {hook: function for hook in hooks if callable(function := getattr(owner, hook, None))}
    bare = [hook for hook, function in found.items() if not hasattr(function, MARK)]
    if bare:
        lack = "lacks" if len(bare) == 1 else "lack"
        raise PluginError(f"{what}: {', '.join(bare)} {lack} @hookimpl and would never run")

    own = {name for name, value in vars(owner).items() if name[0] != "_" and inspect.isfunction(value)}
    for name in own - found.keys():
        near = nearest(name, hooks, 0.85)
        if near is not None and not hasattr(getattr(owner, name), MARK):
            raise PluginError(f"{what}: {name} looks like the hook {near} and would never run; mark it, or rename it")

    # pluggy passes no argument that has a default, so the hook would always see the default.
    for hook, function in found.items():
        for parameter in inspect.signature(function).parameters.values():
            if parameter.default is not inspect.Parameter.empty:
                raise PluginError(f"{what}: {hook} has a default for {parameter.name!r}, which hides the call's value")
