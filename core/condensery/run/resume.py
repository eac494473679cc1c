"""The state of a running stage: what a checkpoint holds and how it is laid over a fresh start of the stage.

A resumed stage starts as it did the first time (players, prepare), then the saved progress is laid over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from condensery.contract import settings_of
from condensery.errors import PluginError
from condensery.run.stage import Stage
from condensery.run.workers import Exchanged
from condensery.storage import as_saved, load_tensors, tensors_of
from condensery.tasks import load_rng_state, rng_state


def state_of(stage: Stage) -> dict[str, dict[str, Any]]:
    """Return the state of a stage's methods by name: every attribute that ends in ``_``, or what ``state()`` returns.

    :raises PluginError: naming method and attribute, for one that no checkpoint can hold.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, method in stage.manager.methods.items():
        custom = getattr(method, "state", None)
        kept = [n for n in vars(method) if n.endswith("_") and n not in settings_of(type(method))]
        found[name] = dict(custom()) if callable(custom) else {n: getattr(method, n) for n in kept}
        for attribute, value in found[name].items():
            wrong = _not_plain(value)
            if wrong:
                raise PluginError(f"stage {stage.name!r}, {name}: {attribute} holds {wrong}")
    return found


def unsaved(stage: Stage) -> dict[tuple[str, str], list[Any]]:
    """Return what is in those attributes of a stage's methods that no checkpoint holds, by method and attribute.

    :raises PluginError: for a parameter: a cut puts another one in its place.
    """
    found: dict[tuple[str, str], list[Any]] = {}
    for name, method in stage.manager.methods.items():
        if hasattr(method, "state"):
            continue
        for attribute, value in vars(method).items():
            leaves = [] if attribute.endswith("_") else tree_leaves(value)
            if any(isinstance(leaf, nn.Parameter) for leaf in leaves):
                raise PluginError(f"stage {stage.name!r}, {name}: {attribute} holds {PARAMETER}")
            found[name, attribute] = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    return found


def load_state(stage: Stage, state: Mapping[str, Mapping[str, Any]]) -> None:
    """Lay saved state over methods that have just prepared."""
    for name, method in stage.manager.methods.items():
        custom = getattr(method, "load_state", None)
        if callable(custom):
            custom(state[name])
            continue
        for attribute, value in state[name].items():
            setattr(method, attribute, value)


def rehearse(stage: Stage, before: Mapping[tuple[str, str], list[Any]]) -> None:
    """Save the methods' state and load it again, in memory, as a dry run does it.

    :param before: what :func:`unsaved` found when the epoch began.
    :raises PluginError: naming method and attribute, for one that no checkpoint can hold, or that none does.
    """
    for (name, attribute), leaves in unsaved(stage).items():
        known = before.get((name, attribute), [])
        if len(known) != len(leaves) or not all(map(_same, known, leaves)):
            raise PluginError(
                f"stage {stage.name!r}, {name}: {attribute} changed while the stage trained and isn't saved, so that a "
                f"resumed run would start it anew; call it {attribute}_"
            )
    load_state(stage, as_saved(state_of(stage)))


def _same(one: Any, two: Any) -> bool:
    """Tell whether two values are the same, as far as they can be saved."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return torch.equal(one, two)
    return bool(_not_plain(one) or _not_plain(two) or one == two)


PARAMETER = "a parameter, which a cut replaces: keep its path, and look it up in stage.weights()"


def _not_plain(value: Any) -> str | None:
    """Return what a value holds that a checkpoint can't give back as it is, and what to do instead, or ``None``."""
    if isinstance(value, nn.Parameter):
        return PARAMETER
    if isinstance(value, nn.Module):
        kind = type(value).__name__
        return f"a {kind}: one that trains beside a net is a helper, stage.student.helpers['name'] = module"
    if type(value) is dict:
        value = [*value, *value.values()]
    if type(value) in (list, tuple):
        return next((wrong for part in value if (wrong := _not_plain(part))), None)

    if isinstance(value, Tensor):
        what = "tensor with a gradient" if value.requires_grad else None
    else:
        what = None if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
    kept = "keep tensors without gradient, numbers, texts, or lists, tuples and dicts of these"
    return what and f"a {what}, which can't be saved: {kept}, or write state() and load_state()"


def progress_of(stage: Stage, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return everything that changes while a stage runs; ``epoch`` is the next one to run."""
    players = {}
    for name, player in stage.players.items():
        players[name] = {
            "net": tensors_of(player.module),
            "helpers": tensors_of(player.helpers),
            "optimizer": player.optimizer_state(),
            "groups": [] if player.optimizer is None else [g["lr"] for g in player.optimizer.param_groups],
        }

    return {
        "epoch": stage.epoch + 1,
        "step": stage.step,
        "players": players,
        "methods": state_of(stage),
        "exchanged": dataclasses.asdict(stage.exchanged),
        "rng": rng_state(),
        "history": history,
    }


def lay_progress(stage: Stage, saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay saved progress over a stage that has just been prepared; returns its history.

    :raises ArtifactError: if a player's tensors are others than those that were saved.
    """
    stage.epoch, stage.step = saved["epoch"], saved["step"]
    for name, player in stage.players.items():
        mine = saved["players"][name]
        load_tensors(player.module, mine["net"], f"player {name}")
        load_tensors(player.helpers, mine["helpers"], f"helpers of {name}")
        if player.optimizer is not None:
            player.load_optimizer_state(mine["optimizer"])
            for group, rate in zip(player.optimizer.param_groups, mine["groups"], strict=True):
                group["lr"] = rate

    load_state(stage, saved["methods"])
    stage.exchanged = Exchanged(**saved["exchanged"])
    # Last, because whatever came before may have drawn.
    load_rng_state(saved["rng"])
    return list(saved["history"])
