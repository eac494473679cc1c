from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from condensery import Batch, NotApplicable, Stage, Transform, UsageError, Weight, hookimpl
from condensery.files import read_json, write_json
from condensery.nets import attach, clone
from condensery.recipe import derive_seed
from condensery.run import Ongoing, Parameter, Search, Space, TrialStore, best_trials, run_search
from condensery_plugins.quantization.calibration import SAMPLES, Plan, Seen, quantize_layers
from condensery_plugins.quantization.layer_widths import (
    INPUTS,
    RUNS,
    WEIGHTS,
    Budget,
    Cost,
    LayerFacts,
    Widths,
    bit_serial_times,
    facts_of,
    features,
    layer_cost,
)
from condensery_plugins.quantization.observers import Observe, Scheme, entropy, min_max
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.uniform import Uniform, for_input, for_weight
from condensery_plugins.quantization.width_searches import WIDTHS, GreedyWidths, WidthAgent
from condensery_plugins.searches.drawn import RandomSearch

FEW = 5
"""Bits from which on a grid covers all that was seen; with fewer it is cut where least information is lost."""
TUNE_RATE, TUNE_MOMENTUM = 1e-3, 0.9
DRY = 2
"""Trials of a dry run, and steps of each."""


@dataclass(eq=False, kw_only=True)
class HAQ(Quantizer):
    """Let an agent choose the bits of each layer, so that the net scores best within a budget.

    Wang, Liu, Lin, Lin, Han: "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019 [33]. A DDPG
    agent goes through the layers and chooses a width for the weights of each, and for its input where that costs
    something: for bit operations and latency, not for size, where inputs stay float. While the widths together cost
    more than the budget, those of one layer after another are lowered by one bit, from the back. The net is rounded,
    with ``tune_steps`` trained on for a moment, and scored on examples held out from training; the reward is what it
    lost. Latency is that of arithmetic on bits in series, measured on this machine. The first and last layer have
    ``max_bits``.

    ``search`` names the agent, or a control within the same budget: ``random`` widths, or ``greedy`` steps of one bit
    away from the best so far.

    It is a method and no ``--sampler`` of ``condensery search``, because a search knows a space and a history, and the
    agent looks at the layers of a net, whose sizes also say what a point costs before it is tried; and because a trial
    takes a moment here, without a run and a folder of its own. Space, searches, trials and their journal are those of
    ``condensery search``.

    When: it searches as the stage starts, and the quantizers of the best trial are attached. Trials are kept in the
    run's folder, ``stage-<number>-haq.jsonl``: a run that was killed goes on with the next one. The net then trains on
    with its grids standing still, as long as the stage has epochs.

    End: the quantizers stay; the report tells the widths, by the names that ``ptq`` and ``lsq`` take them by.

    Raises NotApplicable where a layer is quantized already, where no layer lies between the first and the last, and
    where the budget can't be met with ``min_bits``.
    """

    key = "haq"

    asks_quality = True

    cost: Cost = "size"
    budget: float = 0.5
    min_bits: int = 2
    max_bits: int = 8
    search: Literal["ddpg", "random", "greedy"] = "ddpg"
    episodes: int = 100
    warmup: int = 20
    examples: int = 1000
    tune_steps: int = 0
    samples: int = SAMPLES

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Search, and attach the quantizers of the best trial."""
        if self.min_bits > self.max_bits:
            raise UsageError(f"{self.key}: min_bits {self.min_bits} is more than max_bits {self.max_bits}")
        examples = stage.sample(self.samples)
        made = {bits: self._made(stage, bits, examples) for bits in range(self.min_bits, self.max_bits + 1)}
        budget, rows = self._budget(stage, set(made[self.max_bits]))
        metric = stage.task.metrics[0]
        space = Space(
            parameters=dict.fromkeys(budget.free, Parameter(low=self.min_bits, high=self.max_bits, step=1)),
            objectives={f"validation.{metric.name}": "maximize" if metric.higher_is_better else "minimize"},
        )

        def evaluate(widths: Widths, _: object, trial: Ongoing) -> dict[str, Any]:
            kept = budget.within(widths)
            net = self._tuned(stage, _quantized(stage, self.key, _chosen(made, kept)), trial.number)
            return {"validation": stage.quality(net, self.examples), WIDTHS: kept}

        search: Search = RandomSearch(space=space, seed=stage.seed)
        if self.search == "greedy":
            search = GreedyWidths(space=space, seed=stage.seed)
        elif self.search == "ddpg":
            floats = stage.quality(stage.student.module, self.examples)[metric.name]
            search = WidthAgent(
                space=space, seed=stage.seed, features=features(rows), reference=floats, warmup=self.warmup
            )
        store = TrialStore(stage.file(f"{self.key}.jsonl"), space)
        trials = run_search(search, evaluate, store, DRY if stage.dry else self.episodes)

        best = best_trials(space, trials)
        if not best or best[0].report is None:
            raise NotApplicable(self.key, f"no trial has a score; the last one: {trials[-1].error}")
        self.widths_ = dict(best[0].report[WIDTHS])
        self.score_, self.trials_, self.cost_ = best[0].values[0], len(trials), budget.of(self.widths_)
        for target, transform in _chosen(made, self.widths_).items():
            stage.attach(target, self.key, transform)

    def _made(self, stage: Stage, bits: int, examples: Sequence[Batch]) -> dict[str, Transform]:
        """Return a quantizer of so many bits for each target, the edges' of ``max_bits``; none is attached."""
        made: dict[str, Transform] = {}

        def keep(target: str, _: str, transform: Transform) -> None:
            made[target] = transform

        plan = Plan(bits, None if self.cost == "size" else bits, self.max_bits)
        quantize_layers(stage, self.key, plan, self.weight_quantizer, self.input_quantizer, examples, keep)
        made.pop(f"{stage.edges()[0]}:input", None)
        return made

    def weight_quantizer(self, weight: Weight, bits: int) -> Uniform:
        """Return a grid for all of a layer's weights, which the gradient passes everywhere."""
        return for_weight(weight, Scheme(bits), _observer(bits), estimator="identity")

    def input_quantizer(self, seen: Seen, bits: int) -> Uniform:
        """Return a grid for what reached the layer."""
        return for_input(seen, bits, _observer(bits))

    def _budget(self, stage: Stage, targets: set[str]) -> tuple[Budget, list[list[float]]]:
        """Return what widths may cost, and the features of each step that decides on one.

        :param targets: that there are quantizers for.
        :raises NotApplicable: if nothing is to be decided, or the smallest widths cost too much.
        """
        names = {_name(target) for target in targets}
        paths = [path for path in stage.order() if WEIGHTS + path in names]
        layers = facts_of(stage, paths, count=self.cost != "size")
        sites = (WEIGHTS,) if self.cost == "size" else (WEIGHTS, INPUTS)

        rows = {
            site + layer.path: layer.row(index, is_weight=site == WEIGHTS)
            for index, layer in enumerate(layers)
            for site in sites
            if layer.path not in stage.edges() and site + layer.path in names
        }
        if not rows:
            raise NotApplicable(self.key, "no layer that can be quantized lies between the first and the last")
        full = {site + path: self.max_bits for path in paths for site in sites}
        cost = layer_cost(self.cost, self._times(stage, layers) if self.cost == "latency" else {})
        budget = Budget(layers, cost, full, list(rows), self.min_bits, self.budget)

        least = budget.of(dict.fromkeys(rows, self.min_bits))
        if least > self.budget:
            left = f"with {self.min_bits} bits everywhere {least:.4f} of the {self.cost} is left"
            raise NotApplicable(self.key, f"{left}, more than the budget of {self.budget}")
        return budget, list(rows.values())

    def _times(self, stage: Stage, layers: Sequence[LayerFacts]) -> dict[str, dict[int, float]]:
        """Return how long each layer takes, as it was measured when the stage started for the first time."""
        widths = range(self.min_bits, self.max_bits + 1)
        planes = sorted({weight * inputs for weight in widths for inputs in widths} | {self.max_bits**2})
        path = stage.file(f"{self.key}-seconds.json")
        if path is None or not path.is_file():
            times = {layer.path: bit_serial_times(layer, planes, 1 if stage.dry else RUNS) for layer in layers}
            if path is not None:
                write_json(path, {name: list(each.items()) for name, each in times.items()})
            return times
        return {name: dict(each) for name, each in read_json(path, "remove it to measure again").items()}

    def _tuned(self, stage: Stage, net: nn.Module, number: int) -> nn.Module:
        """Train a trial's net for a moment, if it is to be, and return it.

        :param number: of the trial.
        """
        if not self.tune_steps:
            return net
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.key, stage.seed, number))
            optimizer = torch.optim.SGD(net.parameters(), lr=TUNE_RATE, momentum=TUNE_MOMENTUM)
            net.train()
            steps = min(DRY, self.tune_steps) if stage.dry else self.tune_steps
            for batch in itertools.islice(stage.task_batches(), steps):
                loss = stage.task.loss(stage.task.outputs(net, batch), batch)
                if loss is not None:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        return net

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the best trial's widths, cost and score, and the share of parameters that are quantized."""
        return {
            "trials_count": float(self.trials_),
            "cost_percent": 100 * self.cost_,
            "score": self.score_,
            **{name: float(bits) for name, bits in self.widths_.items()},
            **super().report(stage),
        }


def _observer(bits: int) -> Observe:
    return entropy if bits < FEW else min_max


def _name(target: str) -> str:
    """Return the width that a target's quantizer has."""
    path, colon, _ = target.partition(":")
    return INPUTS + path if colon else WEIGHTS + target.rpartition(".")[0]


def _chosen(made: Mapping[int, Mapping[str, Transform]], widths: Widths) -> dict[str, Transform]:
    """Return the quantizers of some widths, by target; what has none, as no pass calls it, gets the widest."""
    return {target: made[widths.get(_name(target), max(made))][target] for target in made[max(made)]}


def _quantized(stage: Stage, name: str, quantizers: Mapping[str, Transform]) -> nn.Module:
    """Return a copy of the student with copies of quantizers."""
    net = clone(stage.student.module)
    for target, transform in quantizers.items():
        attach(net, target, name, copy.deepcopy(transform))
    return net
