"""The half of a stage that trains: batches, losses, gradients and steps."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.contract import STEP_HOOKS, StageManager
from condensery.errors import Misuse, NonFiniteLoss, UsageError
from condensery.nets import Transform, evaluating, settle, settling
from condensery.recipe import StageSpec, TrainSpec
from condensery.run.checks import check_exchanged, check_factor, check_terms, returned
from condensery.run.players import ByPlayer, Outputs, Player
from condensery.run.processes import ALONE, Processes
from condensery.run.steps import clip, rate_factor, shares, weighted, without_gradient
from condensery.run.validation import precision_of
from condensery.run.workers import Exchanged, Gradients, Workers
from condensery.tasks import Batch, Subset, Task, channels_last


class Training:
    """Gives batches to the players of a stage, and lets those that train take steps.

    A step is made of verbs, so that a method that replaces it can still call the others: :meth:`gradients` plays each
    part of a batch and fills ``.grad`` (through :meth:`play`, :meth:`terms` and :meth:`backward`); :meth:`update` moves
    one player.

    ``stepping`` tells that optimizers are at work: false in ``players``, ``prepare`` and from ``end_stage`` on. An
    epoch began with the step ``started``. In a dry run ``called`` counts the calls of the methods' hooks in steps, by
    method, hook and player.
    """

    dry: bool

    def __init__(
        self,
        spec: StageSpec,
        task: Task,
        train: TrainSpec,
        *,
        seed: int,
        device: torch.device,
        subset: Subset | None,
        labels: bool,
        processes: Processes = ALONE,
    ) -> None:
        self.spec, self.task, self.train = spec, task, train
        self.precision = precision_of(train, device)
        self.workers, self.exchanged = Workers(train.workers, processes), Exchanged()
        self.name, self.seed, self.device = spec.name, seed, device
        self.subset, self.labels = subset, labels

        self.epoch = self.step = self.started = 0
        self.stepping, self.epochs = False, train.epochs
        self.players: dict[str, Player] = ByPlayer()
        self.manager = StageManager(spec.name, [])  # until the stage is opened with its methods
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}

        self._calls: dict[tuple[str, str], list[tuple[str, Callable[..., Any]]]] = {}
        self._settling: dict[str, list[tuple[Transform, nn.Module, str]]] = {}
        self._parameters: dict[str, dict[str, nn.Parameter]] = {}
        self._waiting: set[str] = set()
        self._measuring: list[Player] = []
        self._step: tuple[str, Callable[..., Any]]
        self._before: dict[str, list[Tensor]]
        self.called: collections.Counter[tuple[str, str, str]] = collections.Counter()

    @property
    def training(self) -> list[Player]:
        """The players that have an optimizer and play."""
        return [p for p in self.players.values() if p.trains and p.plays]

    # ---------------------------------------------------------------- batches

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch: of the task's data, until those of an epoch say by ``len`` how many they are."""
        return self.at_most(self.task.steps("train", batch_size=self.train.batch_size, subset=self.subset))

    def at_most(self, batches: int) -> int:
        """Return how many of an epoch's batches are played."""
        return min(batches, self.train.max_steps or batches)

    @property
    def progress(self) -> float:
        """The share of the stage's steps that are done, 0 to 1; each epoch is as long as its batches."""
        done = self.epoch * self.steps_per_epoch + self.step - self.started
        return done / max(1, self.epochs * self.steps_per_epoch)

    def task_batches(self) -> Iterator[Batch]:
        """Yield one epoch of the task's training batches."""
        batches = self.task.batches(
            "train",
            batch_size=self.train.batch_size,
            seed=self.seed * 1_000_003 + self.epoch,
            subset=self.subset,
            device=self.device,
            train=True,
        )
        for batch in batches:
            yield self._shown(batch)

    def _shown(self, batch: Batch) -> Batch:
        """Return a batch as the stage's data show it: labels may be hidden."""
        return batch if self.labels else batch.without_labels(self.task.ignore_index)

    # ---------------------------------------------------------------- losses

    def play(
        self, batch: Batch, players: Sequence[Player] | None = None, *, to_input: bool = False
    ) -> dict[str, Outputs]:
        """Give a batch to players and return their outputs by name.

        In ``prepare`` and ``end_stage`` this is only a look, as for the sizes of a helper: the nets are in eval mode,
        their statistics stay, and nothing has a gradient.

        :param players: by default all that play.
        :param to_input: gradients reach what made the batch, such as a generator, and no weight of these players.
        """
        if players is None:
            players = [p for p in self.players.values() if p.plays and (self.stepping or p.built)]
        if self.stepping and not to_input:
            return self._play(batch, players, learning=True)

        with contextlib.ExitStack() as stack:
            if not self.stepping:
                stack.enter_context(evaluating(*[player.module for player in players]))
            if to_input:
                stack.enter_context(without_gradient(p for q in players for p in self._named(q).values()))
            return self._play(batch, players, learning=self.stepping, to_input=to_input)

    def _play(
        self, batch: Batch, players: Sequence[Player], *, learning: bool, to_input: bool = False
    ) -> dict[str, Outputs]:
        if self.train.channels_last:
            batch = dataclasses.replace(batch, inputs=channels_last(batch.inputs))

        outputs = ByPlayer[Outputs]()
        with self.precision.applied(self.device):
            for player in players:
                with torch.set_grad_enabled(learning and (player.trains or to_input)):
                    outputs[player.name] = player.play(self.task, batch)
        return outputs

    def terms(self, player: Player, batch: Batch, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
        """Return one player's loss terms by name, each a scalar that is already weighted.

        Its own outputs carry a gradient, those of its partners are detached.
        """
        view = ByPlayer[Outputs](
            (n, o if n == player.name or not self.players[n].trains else o.detached()) for n, o in outputs.items()
        )

        weight = 1.0
        for name, call in self.calls("task_weight", player.name):
            weight *= check_factor(self, name, call(stage=self, player=player))

        terms: dict[str, Tensor] = {}
        if weight != 0.0:
            loss = self.task.loss(view[player.name].tree, batch)
            if loss is not None:
                terms["task"] = loss if weight == 1.0 else weight * loss
        for name, call in self.calls("loss_terms", player.name):
            given = call(stage=self, batch=batch, outputs=view, player=player)
            for term, value in check_terms(self, name, given).items():
                terms[f"{name}.{term}"] = value
        return terms

    def backward(self, player: Player, terms: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Back-propagate the sum of some terms.

        :param share: of this micro-batch in its step.
        :raises NonFiniteLoss: naming the term that is infinite or not a number.
        :raises UsageError: if there is no term, or none that depends on a parameter that trains.
        """
        trains = f"stage {self.name!r}: player {player.name!r} trains"
        if not terms:
            raise UsageError(f"{trains}, but nothing gives it a loss: no label, and no term of a method's")
        total = functools.reduce(torch.add, terms.values())
        if not total.requires_grad:
            raise UsageError(f"{trains}, but its loss carries no gradient: the net or the loss detaches it")
        self._waiting.add(player.name)
        (total if share == 1.0 else total * share).backward()  # type: ignore[no-untyped-call]

        for name, value in terms.items():
            key = f"{player.name}.{name}"
            seen = value.detach() if share == 1.0 else value.detach() * share
            self.sums[key] = self.sums[key] + seen if key in self.sums else seen
            self.counts[key] = self.counts.get(key, 0.0) + share
        # A look at a number makes the host wait for a GPU, so it is a rare one there.
        looks = not math.isfinite(total.detach()) if self.device.type == "cpu" else self.step % 50 == 0
        if looks:
            self.check_finite()

    def means(self) -> dict[str, float]:
        """Return the mean of each loss term over the times that it was given, and start anew."""
        given = [[float(value) for value in self.sums.values()], [self.counts[name] for name in self.sums]]
        totals, counts = self.workers.processes.sum(torch.tensor(given, dtype=torch.float64))
        found = dict(zip(self.sums, (totals / counts).tolist(), strict=True))
        self.sums.clear()
        self.counts.clear()
        return found

    def check_finite(self) -> None:
        """Stop on a term that became infinite or not a number.

        :raises NonFiniteLoss: naming stage, step and term.
        """
        for key, value in self.sums.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"stage {self.name!r}, epoch {self.epoch + 1}, step {self.step}: {key} is not finite"
                )

    # ---------------------------------------------------------------- gradients and steps

    def gradients(self, batch: Batch, players: Sequence[Player] | None = None) -> None:
        """Fill ``.grad``: per worker and micro-batch play, terms, backward; then exchange, then ``after_backward``.

        :param players: that get gradients; all that train by default.
        """
        players = self.training if players is None else players
        playing = [player for player in self.players.values() if player.plays]
        exchanging = [p for p in players if self.workers.count > 1 or self.calls("exchange", p.name)]
        told: dict[str, list[Gradients]] = {player.name: [] for player in exchanging}
        for player in self._measuring:
            player.measured.clear()

        split = self.workers.split(self.task, batch)
        with self.workers.turns([player.module for player in playing]) as turns:
            for worker in self.workers.own:
                share, counts = split[worker]
                if share is not None:
                    with turns.of(worker):
                        self._play_share(share, counts, playing, players)

                # What each worker has is laid aside, to be combined into one gradient below.
                for player in exchanging:
                    told[player.name].append(self._laid_aside(player))

        for player in self._measuring:
            for target, value in player.measured.items():
                player.measured[target] = self.workers.processes.sum(value)
        for player in players:
            self._agree(player, told.get(player.name, []))

    def _play_share(self, share: Batch, counts: float, playing: Sequence[Player], players: Sequence[Player]) -> None:
        """Play one worker's share of a batch, and add the gradients of players up.

        :param counts: how much the share counts, 1 on the average.
        """
        for part, weight in weighted(self.task, shares(share, self.train.accumulate)):
            # One block per pass: a cache that outlives a no_grad pass would give no gradient, without an error.
            with parametrize.cached():
                outputs = self._play(part, playing, learning=True)
                for player in self._measuring:
                    player.gauge(outputs[player.name], weight * counts / self.workers.count)
                for player in players:
                    self.backward(player, self.terms(player, part, outputs), weight * counts)

    def _laid_aside(self, player: Player) -> Gradients:
        """Take the gradients of one worker, flat, by parameter name, from the parameters."""
        if self.calls("exchange", player.name):
            clip(self._named(player).values(), self.train.clip_norm)  # what a method answers with is taken whole
        found = {}
        for name, parameter in self._named(player).items():
            if parameter.grad is not None:
                found[name] = parameter.grad.flatten()
                parameter.grad = None
        return found

    def _agree(self, player: Player, told: Sequence[Gradients]) -> None:
        """Combine the workers' gradients of one player where there are any, and let methods act on what comes out.

        :param told: by each worker of this process.
        :raises PluginError: for an exchange that doesn't return a tensor of as many numbers.
        """
        self._waiting.discard(player.name)
        exchange = self.calls("exchange", player.name)
        for bucket in self.workers.buckets(self._named(player), told) if told else ():
            agreed = None
            for method, call in exchange:  # of one method at most
                agreed = check_exchanged(self, method, bucket, call(stage=self, player=player, bucket=bucket))
            grad = bucket.mean(bucket.values) if agreed is None else agreed
            self._named(player)[bucket.name].grad = grad.view(bucket.shape)
            self.exchanged.count(bucket)

        for _, call in self.calls("after_backward", player.name):
            call(stage=self, player=player)

    def update(self, player: Player) -> None:
        """Take one optimizer step of a player; then its transforms settle, then ``after_step``.

        Gradients of :meth:`backward` alone are exchanged first, and ``after_backward`` is called on them.
        """
        assert player.optimizer is not None
        if player.name in self._waiting:
            told = [self._laid_aside(player)] if self.calls("exchange", player.name) else []
            self._agree(player, told)

        if not self.calls("exchange", player.name):
            clip(self._named(player).values(), self.train.clip_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)

        if player.name not in self._settling:
            self._settling[player.name] = settling(player.module)
        if self._settling[player.name]:
            settle(self._settling[player.name])
        for _, call in self.calls("after_step", player.name):
            call(stage=self, player=player)

    def _named(self, player: Player) -> dict[str, nn.Parameter]:
        """Return a player's parameters by plain name; its net is walked once."""
        if player.name not in self._parameters:
            self._parameters[player.name] = player.parameters()
        return self._parameters[player.name]

    # ---------------------------------------------------------------- core's own use

    def calls(self, hook: str, player: str) -> list[tuple[str, Callable[..., Any]]]:
        """Return the named calls of one per-player hook; made once per stage and player, and counted in a dry run."""
        key = (hook, player)
        if key not in self._calls:
            found = self.manager.each(hook, player)
            if self.dry:
                found = [(name, self._counted((name, hook, player), call)) for name, call in found]
            self._calls[key] = found
        return self._calls[key]

    def _counted(self, key: tuple[str, str, str], call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(**arguments: Any) -> Any:
            self.called[key] += 1
            return call(**arguments)

        return counted

    def changed(self, player: str = "student") -> None:
        """Forget what is known of a player's layers, after a change of its structure or transforms."""
        self._settling.pop(player, None)
        self._parameters.pop(player, None)

    def ready(self) -> None:
        """Make the lists that the steps use, once everything is attached."""
        for player in self.players.values():
            self.changed(player.name)
            for hook in STEP_HOOKS:
                self.calls(hook, player.name)
        self._measuring = [p for p in self.players.values() if p.plays and p.measures]
        self._step = self.manager.chosen("training_step")
        if self.dry and self.manager.each("training_step"):
            self._before = {p.name: [v.detach().clone() for v in p.parameters().values()] for p in self.training}
        self.stepping = True

    def moved(self) -> list[Player]:
        """Return the players that a step of a method's own has moved in a dry run, whoever's verbs it went through."""

        def values(player: Player) -> Iterable[tuple[Tensor, Tensor]]:
            return zip(self._before[player.name], player.parameters().values(), strict=True)

        return [p for p in self.training if any(not torch.equal(was, now) for was, now in values(p))]

    def take_step(self, batch: Batch) -> None:
        """Let the method with a step of its own take it, or core; none is taken where nothing in the batch counts.

        :raises PluginError: if that method doesn't say that it did: core's step would follow its own.
        """
        if self.task.is_empty(batch):
            return
        method, step = self._step
        done = step(stage=self, batch=batch)
        if done is not True:
            raise returned(self, method, "training_step", "True", done)

    def refuse_late(self, what: str) -> None:
        """Refuse a change of a net that comes while optimizers hold its parameters.

        :param what: is done, in words.
        :raises Misuse: saying in which hooks it may be done.
        """
        if self.stepping:
            raise Misuse(f"{what} while the stage trains; only prepare and end_stage may")

    def set_rates(self) -> None:
        """Set each optimizer's learning rates for the current step."""
        factor = rate_factor(self.train.schedule, self.progress)
        for player in self.players.values():
            if player.optimizer is not None:
                for group, rate in zip(player.optimizer.param_groups, player.base_rates, strict=True):
                    group["lr"] = rate * factor
