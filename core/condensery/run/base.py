"""Base training: what a net goes through before a recipe's first stage, or before it teaches, if it is untrained."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condensery.errors import CondenseryError
from condensery.files import cache_dir
from condensery.measure import digest, origin
from condensery.recipe import BaseSpec, ModelSpec, Recipe, StageSpec, Unit, checked, fingerprint, merge_train
from condensery.run.builder import Builder, Net
from condensery.run.folder import PROGRESS
from condensery.run.unit import UnitRunner
from condensery.run.validation import held_out
from condensery.storage import CHECKPOINT_FORMAT, cached_tree, load_tree, save_tree

LOG = logging.getLogger(__name__)


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
        LOG.info("%s is kept as %s", label, path)
        saved = cached_tree(path)
        if self.runner.folder.processes.all(saved is not None):
            assert saved is not None
            # A builder that has changed since makes another net, which the cached one doesn't fit: it is trained anew.
            with contextlib.suppress(CondenseryError):
                net = self.builder.rebuilt(saved["net"])
                self._note(saved, f"{label}: {spec.key} trained before, taken from the cache")
                return dataclasses.replace(net, spec=spec)

        self._train(spec, label, train, seed, path)
        # What was just trained comes out of the file too, so that it's the same net, in memory as well.
        return dataclasses.replace(self.builder.rebuilt(load_tree(path)["net"]), spec=spec)

    def _train(self, spec: ModelSpec, label: str, train: BaseSpec, seed: int, path: Path) -> None:
        """Train a net and put it into the cache, with what the last bits of its weights depend on."""
        players = {"student": self.builder.net(spec, seed).student()}
        unit = Unit(label, StageSpec(name=label, methods=train.methods))
        stage = self.runner.play(unit, train, players, seed)
        net = self.builder.described(Net.of(stage.student))
        if self.runner.folder.processes.first:
            save_tree(path, {"net": net, "stage": self.runner.stages[-1], "origin": origin(self.builder.device.type)})
        self.runner.folder.processes.barrier()

        # Another teacher may train under the same label: it must not go on from here when the run is resumed.
        self.runner.folder.drop(PROGRESS)

    def _note(self, saved: Mapping[str, Any], line: str) -> None:
        """List the training of a net from the cache among the run's stages, with what was different when it was made.

        :param line: says so to the user.
        """
        here, there = origin(self.builder.device.type), saved["origin"]
        names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
        elsewhere = {name: f"{there.get(name)}, here {here.get(name)}" for name in names}

        entry = {**saved["stage"], "cached": True}
        if elsewhere:
            entry["elsewhere"] = elsewhere
            line += f", made with {'; '.join(f'{name} {what}' for name, what in elsewhere.items())}"
        self.runner.stages.append(entry)
        self.runner.show.line(line)

    def _cached(self, spec: ModelSpec, train: BaseSpec, seed: int) -> Path:
        """Return where a trained net is kept: its name is made of all that decides it, but for its last bits."""
        identity: dict[str, Any] = {
            **self.builder.identity(spec),
            "format": CHECKPOINT_FORMAT,
            "data": self.recipe.data.model_dump(mode="json"),
            "examples": self.builder.task.fingerprint("train"),
            "train": train.model_dump(mode="json", exclude={"seed"}),
            "seed": seed,
        }
        share = held_out(self.recipe, self.builder.task)
        if share:
            identity["held_out"] = share
        if spec.weights:  # a file may hold others by now
            identity["weights"] = digest(self.builder.net(spec, seed).module)
        return cache_dir() / "nets" / f"{fingerprint(identity)}.safetensors"
