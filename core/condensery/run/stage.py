"""A running stage: its players, and the verbs that methods use."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.contract import DEFAULTS, PER_PLAYER_HOOKS, Registry, StageManager
from condensery.errors import NonFiniteLoss, UsageError
from condensery.nets import (
    WEIGHTED,
    Layer,
    Transform,
    Weights,
    attach,
    choose_layers,
    replace,
    settle,
    settling,
    weights_of,
)
from condensery.recipe import ModelSpec, StageSpec, TrainSpec
from condensery.run.players import Outputs, Player
from condensery.run.steps import Bucket, rate_factor
from condensery.surgery import Surgeon
from condensery.surgery.attention import KnownClasses
from condensery.tasks import Batch, Subset, Task

V = TypeVar("V")


class Stage:
    """Methods that act at the same time, on players, for some epochs.

    Attributes that methods read: ``name``, ``task``, ``players`` by name, ``train`` (the training settings), ``epoch``
    and ``epochs``, ``step`` (batches played in this stage), ``steps_per_epoch``, ``round`` and ``rounds``, ``layer``
    (path, in a round over layers), ``device``, ``seed``; ``dry``, and ``stands_in``: in a dry run the student's weights
    stand in for trained ones, so that what depends on their values is a guess.

    :param classes: what plugins say of the classes of attention nets, for the surgeon; by default nothing.
    """

    def __init__(
        self,
        spec: StageSpec,
        task: Task,
        train: TrainSpec,
        *,
        seed: int,
        device: torch.device,
        subset: Subset | None = None,
        labels: bool = True,
        round_index: int = 0,
        rounds: int = 1,
        layer: str | None = None,
        dry: bool = False,
        build: Callable[[ModelSpec], nn.Module] | None = None,
        classes: KnownClasses | None = None,
    ) -> None:
        self.spec, self.task, self.train = spec, task, train
        self.name, self.seed, self.device = spec.name, seed, device
        self.round, self.rounds, self.layer = round_index, rounds, layer
        self.epoch = self.step = 0
        self.epochs = train.epochs
        self.dry, self.stands_in = dry, False
        self.subset, self.labels = subset, labels
        self.classes = classes or KnownClasses(Registry())
        self.players: dict[str, Player] = {}
        self.manager: StageManager
        self.sums: dict[str, Tensor] = {}
        self._build = build
        self._calls: dict[tuple[str, str], list[tuple[str, Callable[..., Any]]]] = {}
        self._settling: dict[str, list[tuple[Transform, nn.Module, str]]] = {}
        self._weights: dict[tuple[nn.Module, tuple[type[nn.Module], ...], str], Weights] = {}
        self._exchanged = False

    # ---------------------------------------------------------------- players

    @property
    def student(self) -> Player:
        """The net that the recipe compresses."""
        return self.players["student"]

    @property
    def teachers(self) -> list[Player]:
        """The teachers, in recipe order; the first is ``teacher``, then ``teacher#2``..."""
        return [p for n, p in self.players.items() if n.partition("#")[0] == "teacher"]

    @property
    def training(self) -> list[Player]:
        """The players that have an optimizer and play."""
        return [p for p in self.players.values() if p.trains and p.plays]

    def recruit(self, name: str, spec: ModelSpec | None = None, *, trains: bool = True, plays: bool = True) -> Player:
        """Return a new player, built from a spec.

        :param spec: the student's own by default; give it another ``seed`` for other initial weights.
        """
        assert self._build is not None
        spec = spec or self.student.spec
        module = self._build(spec).to(self.device)
        return Player(name, module, spec=spec, trains=trains, plays=plays)

    # ---------------------------------------------------------------- tensors

    def weights(
        self, player: str = "student", kinds: Sequence[type[nn.Module]] = WEIGHTED, tensor: str = "weight"
    ) -> Weights:
        """Return the weights of a player's layers, in the net's order; ``stage.weights().by_path`` finds one by name.

        Never use ``module.weight``: under a transform it is a temporary, and what is written to it vanishes. The net
        is walked once; what changes its layers must call :meth:`changed`.

        :param kinds: module classes; ``BATCH_NORMS`` gives the scales.
        :param tensor: ``weight`` or ``bias``; layers without it are left out.
        """
        key = (self.players[player].module, tuple(kinds), tensor)
        if key not in self._weights:
            self._weights[key] = weights_of(*key)
        return Weights(self._weights[key])

    @overload
    def layers(self, chosen: Mapping[str, V], setting: str, among: Iterable[str] | None = None) -> dict[str, V]: ...

    @overload
    def layers(self, chosen: Sequence[str], setting: str, among: Iterable[str] | None = None) -> list[str]: ...

    def layers(self, chosen: Any, setting: str, among: Iterable[str] | None = None) -> Any:
        """Return the student's layers that a user chose, as paths in the net's order; the one reading of such a choice.

        How layers are spelt says :mod:`condensery.nets.choice`.

        :param chosen: names, or a mapping from names to values; the layers then come with the value of the most exact
            name that fits each.
        :param setting: the method's key and its setting, for messages: ``"ssl.factors"``.
        :param among: paths of the layers that may be chosen; by default those of all convolutions and linear layers.
        :raises UnknownKey: for a name that no such layer has, with the nearest one.
        """
        paths = list(self.weights().by_path if among is None else among)
        found = choose_layers(chosen, paths, self.edges, setting)
        return {path: chosen[name] for path, name in found.items()} if isinstance(chosen, Mapping) else list(found)

    def changed(self, player: str = "student") -> None:
        """Forget what is known of a player's layers, after a change of its structure or transforms."""
        net = self.players[player].module
        self._weights = {key: found for key, found in self._weights.items() if key[0] is not net}
        self._settling.pop(player, None)

    def attach(
        self, target: str, name: str, transform: Transform, player: str = "student", *, keep: bool = True
    ) -> None:
        """Put a transform on ``conv1.weight``, ``conv1:input`` or ``conv1:output``.

        :param keep: stays until the recipe ends; ``False``: until this stage ends.
        """
        net = self.players[player].module
        attach(net, target, name, transform.to(self.device), keep=keep)
        self.changed(player)

    def replace(self, path: str, layer: Layer | nn.Identity, player: str = "student") -> None:
        """Put a registered layer in a plain module's place, in ``prepare`` or ``end_stage``; it stays.

        :raises UsageError: if the net has no such module.
        """
        replace(self.players[player].module, path, layer.to(self.device))
        self.changed(player)

    @functools.cached_property
    def surgeon(self) -> Surgeon:
        """Removes channels from the student, in ``prepare`` or ``end_stage`` only."""
        return Surgeon(self)

    def order(self, player: str = "student", kinds: Sequence[type[nn.Module]] = (*WEIGHTED, nn.Embedding)) -> list[str]:
        """Return the paths of a player's layers in the order in which a forward pass first calls them.

        Embeddings count: in a Transformer they are the first layer, and the first linear layer is an inner one.
        """
        net = self.players[player].module
        calls: list[str] = []
        wanted: tuple[type[nn.Module], ...] = tuple(kinds)
        handles = [
            m.register_forward_pre_hook(lambda m, a, p=path: calls.append(p))
            for path, m in net.named_modules()
            if isinstance(m, wanted)
        ]
        self._look(net, Batch(self.task.example_input(2)).to(self.device))
        for handle in handles:
            handle.remove()
        return list(dict.fromkeys(calls))

    def edges(self, player: str = "student") -> tuple[str, str]:
        """Return the paths of the first and the last layer that a forward pass calls."""
        order = self.order(player)
        return order[0], order[-1]

    def sample(self, n: int) -> list[Batch]:
        """Return ``n`` seeded training examples, not augmented, in batches; any hook may ask.

        Without labels where the stage's data has them hidden.

        :param n: the method's own number; fewer where the data has fewer.
        """
        n = min(8 if self.dry else n, self.task.count("train", self.subset))
        subset = dataclasses.replace(self.subset or Subset(), size=n)
        size = min(n, self.train.batch_size)
        found = self.task.batches("train", batch_size=size, subset=subset, seed=self.seed, device=self.device)
        return [self._shown(batch) for batch in found]

    def _shown(self, batch: Batch) -> Batch:
        return batch if self.labels else Batch(batch.inputs)

    def record_inputs(self, paths: Sequence[str], n: int, player: str = "student") -> dict[str, list[Tensor]]:
        """Return what reaches some layers on ``n`` sampled examples: path -> one tensor for each call."""
        net = self.players[player].module
        got: dict[str, list[Tensor]] = {p: [] for p in paths}
        handles = [
            net.get_submodule(p).register_forward_pre_hook(lambda m, a, p=p: got[p].append(a[0].detach()))
            for p in paths
        ]
        for batch in self.sample(n):
            self._look(net, batch)
        for handle in handles:
            handle.remove()
        return {p: parts for p, parts in got.items() if parts}

    def _look(self, net: nn.Module, batch: Batch) -> None:
        """Run a net in eval mode without gradients; modes and statistics stay as they were."""
        modes = {m: m.training for m in net.modules()}
        net.eval()
        with torch.no_grad():
            self.task.logits(net, batch.inputs)
        for module, mode in modes.items():
            module.training = mode

    # ---------------------------------------------------------------- steps

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

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch of the task's data."""
        whole = -(-self.task.count("train", self.subset) // self.train.batch_size)
        return min(whole, self.train.max_steps or whole)

    def play(self, batch: Batch) -> dict[str, Outputs]:
        """Give a batch to every player and return their outputs by name."""
        if self.train.channels_last and isinstance(batch.inputs, Tensor) and batch.inputs.dim() == 4:
            batch = Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.labels)
        outputs = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.autocast == "bf16"):
            for player in self.players.values():
                if not player.plays:
                    continue
                with torch.set_grad_enabled(player.trains):
                    outputs[player.name] = player.play(self.task, batch)
        return outputs

    def terms(self, player: Player, batch: Batch, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
        """Return one player's loss terms by name, its partners' outputs detached."""
        view = {n: o if n == player.name or not self.players[n].trains else o.detached() for n, o in outputs.items()}
        weight = 1.0
        for _, call in self.calls("task_weight", player.name):
            factor = call(stage=self, player=player)
            weight *= 1.0 if factor is None else factor
        terms: dict[str, Tensor] = {}
        if weight != 0.0:
            loss = self.task.loss(view[player.name].logits, batch.labels)
            if loss is not None:
                terms["task"] = loss if weight == 1.0 else weight * loss
        for name, call in self.calls("loss_terms", player.name):
            for term, value in (call(stage=self, batch=batch, outputs=view, player=player) or {}).items():
                terms[f"{name}.{term}"] = value
        return terms

    def backward(self, player: Player, terms: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Back-propagate the sum of some terms.

        :param share: of this micro-batch in its step.
        :raises NonFiniteLoss: naming the term that is infinite or not a number.
        """
        if not terms:
            raise UsageError(f"stage {self.name!r}: player {player.name!r} trains, but nothing gives it a loss")
        values = iter(terms.values())
        total = next(values)
        for value in values:
            total = total + value
        (total if share == 1.0 else total * share).backward()  # type: ignore[no-untyped-call]
        for name, value in terms.items():
            key = f"{player.name}.{name}"
            seen = value.detach() * share
            self.sums[key] = self.sums[key] + seen if key in self.sums else seen
        if self.device.type == "cpu" or self.step % 50 == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Stop on a term that became infinite or not a number.

        :raises NonFiniteLoss: naming stage, step and term.
        """
        for key, value in self.sums.items():
            if not bool(torch.isfinite(value)):
                raise NonFiniteLoss(
                    f"stage {self.name!r}, epoch {self.epoch + 1}, step {self.step}: {key} is not finite"
                )

    def gradients(self, batch: Batch, players: Sequence[Player] | None = None) -> None:
        """Fill ``.grad``: per worker and micro-batch play, terms, backward; then exchange, then ``after_backward``."""
        players = self.training if players is None else players
        workers = _shares(batch, self.train.workers)
        collected: list[dict[str, list[Tensor]]] = [{} for _ in players]
        for share in workers:
            for part in _shares(share, self.train.accumulate):
                # One block per pass: a cache that outlives a no_grad pass would give no gradient, without an error.
                with parametrize.cached():
                    outputs = self.play(part)
                    for player in players:
                        self.backward(player, self.terms(player, part, outputs), part.size / share.size)
            if self._exchanged or len(workers) > 1:
                for player, kept in zip(players, collected, strict=True):
                    for name, parameter in player.parameters().items():
                        if parameter.grad is not None:
                            kept.setdefault(name, []).append(parameter.grad.flatten())
                            parameter.grad = None
        for player, kept in zip(players, collected, strict=True):
            self._exchange(player, kept)
            for _, call in self.calls("after_backward", player.name):
                call(stage=self, player=player)

    def _exchange(self, player: Player, collected: Mapping[str, list[Tensor]]) -> None:
        parameters = player.parameters() if collected else {}
        for name, grads in collected.items():
            bucket = Bucket(name, torch.stack(grads))
            agreed = self.manager.call("exchange", stage=self, bucket=bucket)
            parameters[name].grad = agreed.view_as(parameters[name])

    def update(self, player: Player) -> None:
        """Take one optimizer step of a player; then its transforms settle, then ``after_step``."""
        assert player.optimizer is not None
        if self.train.clip_norm is not None:
            nn.utils.clip_grad_norm_([p for p in player.parameters().values() if p.requires_grad], self.train.clip_norm)
        player.optimizer.step()
        player.optimizer.zero_grad(set_to_none=True)
        if player.name not in self._settling:
            self._settling[player.name] = settling(player.module)
        settle(self._settling[player.name])
        for _, call in self.calls("after_step", player.name):
            call(stage=self, player=player)

    # ---------------------------------------------------------------- core's own use

    def calls(self, hook: str, player: str) -> list[tuple[str, Callable[..., Any]]]:
        """Return the named calls of one per-player hook; made once per stage and player."""
        key = (hook, player)
        if key not in self._calls:
            self._calls[key] = self.manager.each(hook, player)
        return self._calls[key]

    def ready(self) -> None:
        """Make the lists that the steps use, once everything is attached."""
        for player in self.players.values():
            self.changed(player.name)
            for hook in PER_PLAYER_HOOKS:
                self.calls(hook, player.name)
        self._exchanged = self.manager.order("exchange") != [DEFAULTS]

    def set_rates(self) -> None:
        """Set each optimizer's learning rates for the current step."""
        factor = rate_factor(self.train.schedule, self.step / max(1, self.epochs * self.steps_per_epoch))
        for player in self.players.values():
            if player.optimizer is not None:
                for group, rate in zip(player.optimizer.param_groups, player.base_rates, strict=True):
                    group["lr"] = rate * factor


def _shares(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into equal parts; the first ones are larger by one where it doesn't divide."""
    if parts == 1:
        return [batch]
    size = batch.size
    parts = min(parts, size)
    bounds = [size * i // parts for i in range(parts + 1)]
    return [batch.part(a, b) for a, b in itertools.pairwise(bounds)]
