"""What hooks return, looked at where it enters, and the dry run's look at who was called."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsFloat

import torch
from torch import Tensor

from condensery.contract import DEFAULTS, STEP_HOOKS
from condensery.errors import CRASH, CondenseryError, PluginError, short
from condensery.run.players import Player
from condensery.tasks import Batch

if TYPE_CHECKING:
    from condensery.run.training import Training
    from condensery.run.workers import Bucket


def returned(stage: Training, method: str, hook: str, wanted: str, found: object) -> PluginError:
    """Return the error for a hook that returned the wrong thing.

    :param wanted: what it should have returned, in words.
    """
    if isinstance(found, Tensor):
        shown = f"a tensor of shape {tuple(found.shape)}"
    elif isinstance(found, type):
        shown = f"the class {found.__name__}"
    else:
        shown = "None" if found is None else f"{type(found).__name__} {short(found)}"
    line = stage.manager.line(method, hook.partition(",")[0])
    return PluginError(f"stage {stage.name!r}, {method}, {hook}: must return {wanted}, got {shown}{line}")


def check_terms(stage: Training, method: str, terms: Any) -> Mapping[str, Tensor]:
    """Return the loss terms of one method, by name.

    A term without a gradient is looked for in the dry run alone: it would be shown and change nothing.

    :raises PluginError: for anything but 0-dim tensors by name.
    """
    if terms is None:
        return {}
    if not isinstance(terms, Mapping):
        raise returned(stage, method, "loss_terms", "a mapping of names to scalar tensors", terms)

    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.dim():
            raise returned(stage, method, f"loss_terms, term {name!r}", "a scalar tensor", term)
        if stage.dry and not term.requires_grad and bool(term):
            what = "a tensor that carries a gradient; this one has lost its own, by detach() or item()"
            raise returned(stage, method, f"loss_terms, term {name!r}", what, term)
    return terms


def check_factor(stage: Training, method: str, factor: Any) -> float:
    """Return one method's factor of the task's loss; 1 where it has none.

    :raises PluginError: for anything but a number.
    """
    if factor is None:
        return 1.0
    if not isinstance(factor, (int, float)):
        raise returned(stage, method, "task_weight", "a number", factor)
    return factor


def check_exchanged(stage: Training, method: str, bucket: Bucket, agreed: Any) -> Tensor:
    """Return the gradient that the workers of one parameter agreed on; their mean where a method leaves it to core.

    :raises PluginError: for anything but a tensor of as many numbers.
    """
    if agreed is None:
        return bucket.mean(bucket.values)
    if not isinstance(agreed, Tensor) or agreed.numel() != bucket.shape.numel():
        wanted = f"{bucket.shape.numel()} numbers for {bucket.name}"
        raise returned(stage, method, "exchange", wanted, agreed)
    return agreed


def check_optimizer(stage: Training, method: str, optimizer: Any) -> torch.optim.Optimizer:
    """Return an optimizer.

    :raises PluginError: for anything else, such as the class of one.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise returned(stage, method, "optimizer", "an optimizer of torch", optimizer)
    return optimizer


def check_batches(stage: Training) -> Iterator[Batch]:
    """Yield one epoch's batches, as many as the stage plays at most; the schedule counts them where they have a length.

    :raises PluginError: for anything but batches, where there is none, as the epoch would train nothing, and for more
        than were counted: rates would go on beyond the schedule's end.
    :raises MethodError: if a method's generator of batches raises something unexpected.
    """
    method, make = stage.manager.chosen("batches")
    found = make(stage=stage)
    if found is None:
        method, found = DEFAULTS, stage.manager.default("batches")(stage=stage)
    if not isinstance(found, Iterable):
        raise returned(stage, method, "batches", "batches", found)
    length = operator.length_hint(found)
    if length:
        stage.steps_per_epoch = stage.at_most(length)

    number = 0
    for number, batch in enumerate(itertools.islice(_drawn(stage, method, found), stage.train.max_steps), 1):
        if not isinstance(batch, Batch):
            raise returned(stage, method, "batches", "batches, each a condensery.tasks.Batch(inputs, labels)", batch)
        if number > stage.steps_per_epoch:
            how = "the task's steps() must count them" if method == DEFAULTS else "return what has a len()"
            counted = f"an epoch has more than the {stage.steps_per_epoch} that the schedule counts on"
            raise PluginError(f"stage {stage.name!r}, {method}, batches: {counted}; {how}")
        yield batch
    if not number:
        raise PluginError(f"stage {stage.name!r}, {method}, batches: an epoch has no batch: nothing would train")


def _drawn(stage: Training, method: str, found: Iterable[Any]) -> Iterator[Any]:
    """Yield what is in an epoch's batches; a generator of a method's runs here, outside of its hook."""
    try:
        yield from found
    except CondenseryError:
        raise
    except CRASH as error:
        if method == DEFAULTS:
            raise
        raise stage.manager.error(method, "batches", error) from error


def check_players(stage: Training, method: str, found: Any) -> Sequence[Player]:
    """Return the players that a method brings.

    :raises PluginError: for anything but a list of players.
    """
    if found is None:
        return ()
    if not isinstance(found, (list, tuple)) or not all(isinstance(player, Player) for player in found):
        raise returned(stage, method, "players", "a list of players, each made by stage.recruit(name)", found)
    return found


def check_report(stage: Training, method: str, found: Any) -> dict[str, float]:
    """Return the numbers that a method reports.

    :raises PluginError: for anything but numbers by key.
    """
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise returned(stage, method, "report", "a mapping of keys to numbers", found)
    for key, value in found.items():
        single = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, SupportsFloat)
        if not single:
            raise returned(stage, method, f"report, {key!r}", "a number", value)
        if not math.isfinite(float(value)):
            raise returned(stage, method, f"report, {key!r}", "a finite number", float(value))
    return {key: float(value) for key, value in found.items()}


def refuse_silenced(stage: Training) -> None:
    """Refuse a step of a method's own that goes round another method, once some batches have been played dry.

    A player that hasn't moved by then, as a generator that steps now and then, can't tell who would be silenced.

    :raises PluginError: naming both, the hook and the player.
    """
    for own, _ in stage.manager.each("training_step"):
        for player in stage.moved():
            for hook in STEP_HOOKS:
                for name, _ in stage.calls(hook, player.name):
                    if name != own and not stage.called[name, hook, player.name]:
                        raise PluginError(
                            f"stage {stage.name!r}: {own} silences {name}, whose {hook} is never called for "
                            f"{player.name}: {own}'s training_step must go through stage.gradients, or stage.terms "
                            "and stage.backward, and then stage.update"
                        )
