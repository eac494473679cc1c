"""The state of a running stage: what a checkpoint holds and how it is laid over a fresh start of the stage.

A resumed stage starts as it did the first time (players, prepare), then the saved progress is laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from condensery.contract import Method
from condensery.run.stage import Stage
from condensery.storage import load_tensors, tensors_of


def state_of(method: Method) -> dict[str, Any]:
    """Return a method's state: every attribute that ends in ``_`` and is made of tensors, numbers and texts."""
    custom = getattr(method, "state", None)
    if callable(custom):
        return dict(custom())
    return {n: v for n, v in vars(method).items() if n.endswith("_") and _plain(v)}


def load_state(method: Method, state: Mapping[str, Any]) -> None:
    """Lay saved state over a method that has just prepared."""
    custom = getattr(method, "load_state", None)
    if callable(custom):
        custom(state)
        return
    for name, value in state.items():
        setattr(method, name, value)


def _plain(value: Any) -> bool:
    """Tell whether a checkpoint can hold a value as it is."""
    if isinstance(value, Tensor):
        return not value.requires_grad
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def rng_state() -> dict[str, Any]:
    """Return the state of torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def load_rng_state(state: Mapping[str, Any]) -> None:
    """Restore torch's generators."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(state["cuda"]))


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
        "methods": {n: state_of(m) for n, m in stage.manager.methods.items()},
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

    for name, method in stage.manager.methods.items():
        load_state(method, saved["methods"][name])
    # Last, because whatever came before may have drawn.
    load_rng_state(saved["rng"])
    return list(saved["history"])
