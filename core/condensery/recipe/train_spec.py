"""How a net is trained: the part of a recipe that says so. Pure data; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from condensery.recipe.checking import merge

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Epochs, steps, examples: more than 32 bits can count are a slip of the keyboard, and what counts them overflows."""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""As numpy takes them, the narrowest of the generators that a run seeds."""
WORKERS = 1024
"""Each has a share of the batch and a residual of its own, so that many more than were ever used only fill memory."""


class Strict(BaseModel):
    """A model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class OptimizerSpec(Strict):
    """An optimizer of torch, by name. ``options`` go to its constructor, but those that are ``null``."""

    name: Literal["sgd", "adam", "adamw", "adamax", "rmsprop"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    options: dict[str, Any] = {}


class ScheduleSpec(Strict):
    """A learning-rate factor over training time.

    :param milestones: shares of the stage's epochs, for ``step``.
    :param gamma: what the rate is multiplied by at each milestone; for ``exponential``, evenly over the whole stage.
    :param warmup: share of the stage that rises linearly from 0.
    """

    name: Literal["constant", "cosine", "step", "linear", "exponential"] = "constant"
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5, 0.75]
    gamma: float = Field(default=0.1, gt=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)


class TrainSpec(Strict):
    """How a stage trains.

    :param batch_size: examples per optimizer step.
    :param accumulate: the batch is played in this many parts, gradients summed.
    :param workers: between which each batch is shared and gradients are exchanged: simulated one after another, or
        spread over the processes of the run.
    :param autocast: ``bf16``: products are in it where the device has instructions for it, else in float32, and the run
        says so.
    :param max_steps: stop an epoch after this many batches.
    :param in_turn: players are updated one after another, each seeing the updates before it.
    :param carry_optimizer: keep momentum from the stage before, by parameter name.
    """

    epochs: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    batch_size: Count = 128
    max_steps: Count | None = None
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    accumulate: Count = 1
    workers: int = Field(default=1, ge=1, le=WORKERS)
    autocast: Literal["none", "bf16"] = "none"
    channels_last: bool = False
    clip_norm: float | None = Field(default=None, gt=0)
    in_turn: bool = False
    carry_optimizer: bool = False


def merge_train(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay training settings over others; an optimizer of another name doesn't take over the options of the one below.

    :param below: fields of :class:`TrainSpec`, as plain data.
    """
    old, new = below.get("optimizer"), above.get("optimizer")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        name = old.get("name", OptimizerSpec.model_fields["name"].default)
        if new.get("name", name) != name:
            below = {**below, "optimizer": {key: value for key, value in old.items() if key != "options"}}
    return merge(below, above)
