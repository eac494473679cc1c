"""Base classes of methods that prune in several steps, with training between."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery import Method, Stage, UsageError, Weight, hookimpl
from condensery.measure import evaluate
from condensery.run import due_steps
from condensery_plugins.pruning.curvature import NoCurvature
from condensery_plugins.pruning.masks import mask, sparsity
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

    Optimal Brain Damage and Optimal Brain Surgeon are such methods: they rank by second derivatives of the loss. With
    ``hold`` they delete one by one as the stage starts, up to ``sparsity``, and keep the last net that was as good on
    the training examples as before: the fewest weights that will do without training.
    """

    sparsity: float = 0.5
    biases: bool = True
    hold: bool = False

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again; with ``hold`` all at once."""
        numbers = sum(w.latent.numel() for w in self.pruned(stage))
        refuse_nothing(stage, self.key, "sparsity", self.sparsity, [numbers], unit="weight")
        if self.hold:
            self.due_, self.done_ = [], 0
            self._hold(stage, round(self.sparsity * numbers), numbers)
        else:
            self.start(stage, self.steps)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached, in what is ranked and in the whole net."""
        return sparsity(stage, self.pruned(stage))

    def pruned(self, stage: Stage) -> list[Weight]:
        """Return what is ranked together: the weights of all layers, and their biases."""
        return stage.weights() + (stage.weights(tensor="bias") if self.biases else [])

    def reach(self, stage: Stage) -> None:
        """Hold the part of ``sparsity`` that is due at zero."""
        self.prune(stage, self.pruned(stage), self.sparsity * self.done_ / self.steps)

    def _hold(self, stage: Stage, most: int, numbers: int) -> None:
        """Delete one parameter after the other, then go back to the last net that was as good as before.

        As good: the task's main figure over all training examples. Nothing is trained in between.

        :param most: how many are deleted at most, of ``numbers``; fewer where a layer would lose its last weight.
        """
        weights, net = self.pruned(stage), stage.student.module
        for weight in weights:
            mask(stage, weight, torch.ones_like(weight.latent, dtype=torch.bool))

        dense, best, counts = self._quality(stage), _copied(net), self._counts()
        for gone in range(1, 1 + (min(most, 2) if stage.dry else most)):
            try:
                self.prune(stage, weights, gone / numbers)
            except NoCurvature:
                raise
            except UsageError:
                break
            if self._quality(stage) >= dense:
                best, counts = _copied(net), self._counts()
        net.load_state_dict(best)
        vars(self).update(counts)

    def _counts(self) -> dict[str, float]:
        """Return what the method has counted of the net as it is, such as what its deletions were to cost."""
        return {name: value for name, value in vars(self).items() if name.endswith("_") and isinstance(value, float)}

    def _quality(self, stage: Stage) -> float:
        """Return the task's main figure over the training examples, turned so that more is better."""
        main = stage.task.metrics[0]
        found = evaluate(stage.task, stage.student.module, stage.device, "train", subset=stage.subset)[main.name]
        return found if main.higher_is_better else -found

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


def _copied(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a net's numbers, the masks' included."""
    return {name: value.clone() for name, value in net.state_dict().items()}
