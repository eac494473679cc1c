"""Base training: what a net goes through before a recipe's first stage, or before it teaches, if it is untrained."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from condensery.errors import CondenseryError
from condensery.files import cache_dir
from condensery.recipe import BaseSpec, ModelSpec, Recipe, StageSpec, Unit, checked, fingerprint, merge_train
from condensery.run.builder import Builder, Net
from condensery.run.folder import PROGRESS
from condensery.run.unit import UnitRunner
from condensery.run.validation import held_out
from condensery.storage import CHECKPOINT_FORMAT, cached_tree, save_tree


@dataclasses.dataclass(eq=False, repr=False)
class Base:
    """Trains nets by the task's base recipe, each once for all runs that ask for the same.

    :param runner: plays the training as one stage of the run, and lists it among the run's stages.
    """

    recipe: Recipe
    builder: Builder
    runner: UnitRunner

    def trained(self, spec: ModelSpec, label: str) -> Net:
        """Return a net that the base recipe has trained, from the cache where an earlier run trained it.

        Training starts from the spec's weights where it has any.

        :param label: names the stage in reports and messages.
        """
        over = {} if self.recipe.base == "none" else self.recipe.base
        train = checked(BaseSpec, merge_train(self.builder.task.base, over), "base")
        seed = self.recipe.seed if train.seed is None else train.seed

        path = self._cached(spec, train, seed)
        saved = cached_tree(path)
        if saved is not None:
            # A builder that has changed since makes another net, which the cached one doesn't fit: it is trained anew.
            with contextlib.suppress(CondenseryError):
                net = self.builder.rebuilt(saved["net"])
                self.runner.show.line(f"{label}: {spec.key} trained before, taken from the cache")
                self.runner.stages.append({**saved["stage"], "cached": True})
                return Net(net.module, spec)

        players = {"student": self.builder.net(spec, seed).student()}
        stage = self.runner.play(Unit(label, StageSpec(name=label)), train, players, seed)
        net = Net.of(stage.student)
        # Tensors under one name belong to one recipe: what else changes the result is part of the fingerprint.
        save_tree(path, {"net": self.builder.described(net), "stage": self.runner.stages[-1]})
        # Another teacher may train under the same label: it must not go on from here when the run is resumed.
        self.runner.folder.drop(PROGRESS)
        return net

    def _cached(self, spec: ModelSpec, train: BaseSpec, seed: int) -> Path:
        """Return where a trained net is kept: its name is made of all that decides its weights."""
        identity: dict[str, Any] = {
            "format": CHECKPOINT_FORMAT,
            "task": self.builder.task.describe(),
            "data": self.recipe.data.model_dump(mode="json"),
            "model": spec.model_dump(mode="json"),
            "train": train.model_dump(mode="json", exclude={"seed"}),
            "seed": seed,
        }
        share = held_out(self.recipe, self.builder.task)
        if share:
            identity["held_out"] = share
        return cache_dir() / "nets" / f"{fingerprint(identity)}.safetensors"
