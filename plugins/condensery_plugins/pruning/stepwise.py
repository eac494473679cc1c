"""Base classes of methods that prune in several steps, with training between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Method, Stage, Weight, hookimpl
from condensery.run import due_steps
from condensery_plugins.pruning.masks import sparsity_percent
from condensery_plugins.pruning.refusals import refuse_empty, refuse_nothing


@dataclass(eq=False, kw_only=True)
class InSteps(Method):
    """Prunes as the stage starts and then in evenly spread steps: step i of n reaches i/n of what is asked for."""

    leaves = frozenset({"mask"})

    steps: int = 1

    def start(self, stage: Stage, steps: int) -> None:
        """Prune for the first time, and plan when to prune again; ``prepare`` calls it."""
        self.due_ = due_steps(stage, steps)
        self.done_ = 0
        self._step(stage)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Prune again when the next step is due."""
        while self.due_ and stage.step >= self.due_[0]:
            self.due_ = self.due_[1:]
            self._step(stage)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Make up for the steps of a stage without batches."""
        self.before_step(stage)

    def _step(self, stage: Stage) -> None:
        self.done_ += 1
        self.reach(stage)

    @abstractmethod
    def reach(self, stage: Stage) -> None:
        """Prune as far as ``done_`` of the steps go."""


@dataclass(eq=False, kw_only=True)
class Stepwise(InSteps):
    """Prunes single weights and biases, ranked over the whole net, until ``sparsity`` of them are zero.

    Optimal Brain Damage and Optimal Brain Surgeon are such methods: they rank by second derivatives of the loss.
    """

    sparsity: float = 0.5
    biases: bool = True

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again."""
        numbers = sum(w.latent.numel() for w in self.pruned(stage))
        refuse_nothing(stage, self.key, "sparsity", self.sparsity, [numbers], unit="weight")
        self.start(stage, self.steps)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached."""
        return {"sparsity_percent": sparsity_percent(self.pruned(stage))}

    def pruned(self, stage: Stage) -> list[Weight]:
        """Return what is ranked together: the weights of all convolutions and linear layers, and their biases."""
        return stage.weights() + (stage.weights(tensor="bias") if self.biases else [])

    def reach(self, stage: Stage) -> None:
        """Hold the part of ``sparsity`` that is due at zero."""
        self.prune(stage, self.pruned(stage), self.sparsity * self.done_ / self.steps)

    @abstractmethod
    def prune(self, stage: Stage, weights: list[Weight], share: float) -> None:
        """Hold a share of all entries at zero, those that were pruned before included.

        It calls :meth:`refuse` with what would stay; in the first step with what all of ``sparsity`` would leave too.
        """

    def refuse(self, stage: Stage, weights: list[Weight], keep: Mapping[str, Tensor]) -> None:
        """Refuse what would leave no weight of a layer.

        :param keep: by name of a weight, which of its entries stay: bool, of its shape.
        :raises UsageError: naming the first such layer.
        """
        refuse_empty(stage, f"{self.key}: sparsity {self.sparsity:g}", weights, keep, by="rank")
