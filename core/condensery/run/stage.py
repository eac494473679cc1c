"""A running stage: its players, and the verbs that methods use on their nets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import NotApplicable
from condensery.measure import evaluate
from condensery.nets import (
    Layer,
    Reach,
    Transform,
    Weight,
    Weights,
    attach,
    choose_layers,
    evaluating,
    first_argument,
    own_parameters,
    replace,
    weights_of,
)
from condensery.recipe import ModelSpec, StageSpec, TrainSpec
from condensery.run.players import Player
from condensery.run.processes import ALONE, Processes
from condensery.run.training import Training
from condensery.surgery import ChannelGraph, Surgeon
from condensery.surgery.attention import KnownClasses
from condensery.tasks import Batch, Subset, Task, tensors_in

V = TypeVar("V")
EVALUATED_AT_ONCE = 500
"""Examples of a batch where a method asks for quality."""


class Stage(Training):
    """Methods that act at the same time, on players, for some epochs.

    Attributes that methods read: ``name``, ``task``, ``players`` by name, ``train`` (the training settings), ``epoch``
    and ``epochs``, ``workers``, ``step`` (batches played in this stage), ``steps_per_epoch``, ``progress`` (0 to 1),
    ``round`` and ``rounds``, ``layer`` (path, in a round over layers), ``device``, ``seed``; ``dry``, and
    ``stands_in``: in a dry run the student's weights stand in for trained ones, so that what depends on their values is
    a guess. ``left_out`` is for methods to fill: by the target of a transform (``attn:input``) why it has none, for the
    run's report.

    :param classes: what plugins say of the classes of attention nets, for the surgeon; by default nothing.
    :param reach: what plugins say of which tensors are weights; by default torch's own classes are known.
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
        reach: Reach | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(spec, task, train, seed=seed, device=device, subset=subset, labels=labels, processes=processes)
        self.round, self.rounds, self.layer = round_index, rounds, layer
        self.dry, self.stands_in = dry, False
        self.classes = classes or KnownClasses(Registry())
        self.graphs: list[ChannelGraph] = []
        self._build = build
        self.missed: dict[str, float] | None = None
        self.left_out: dict[str, str] = {}
        self.place: Path | None = None
        self._known = reach or Reach()
        self._weights: dict[tuple[nn.Module, tuple[type[nn.Module], ...] | None, str], Weights] = {}
        self._given_up: set[str] = set()

    # ---------------------------------------------------------------- players

    @property
    def student(self) -> Player:
        """The net that the recipe compresses."""
        return self.players["student"]

    @property
    def teachers(self) -> list[Player]:
        """The teachers, in recipe order; the first is ``teacher``, then ``teacher#2``..."""
        return [p for n, p in self.players.items() if n.partition("#")[0] == "teacher"]

    def recruit(
        self,
        name: str,
        spec: ModelSpec | None = None,
        *,
        like: str | None = None,
        trains: bool = True,
        plays: bool = True,
    ) -> Player:
        """Return a new player for ``players``, built from a spec, or like another player.

        :param spec: the student's own by default; give it another ``seed`` for other initial weights.
        :param like: the net is a copy of this player's as it is after the last ``prepare``, cut and with its
            transforms; with a spec its weights are those that the spec builds, without one the other player's.
        """
        if like is not None:
            return Player(name, None, spec=spec or self.student.spec, trains=trains, plays=plays, like=like)
        spec = spec or self.student.spec
        return Player(name, self.build(spec), spec=spec, trains=trains, plays=plays)

    def build(self, spec: ModelSpec) -> nn.Module:
        """Return a fresh net of a spec."""
        assert self._build is not None
        return self._build(spec).to(self.device)

    # ---------------------------------------------------------------- layers and their weights

    def weights(
        self, player: str = "student", kinds: Sequence[type[nn.Module]] | None = None, tensor: str = "weight"
    ) -> Weights:
        """Return the weights of a player's layers, in the net's order; ``stage.weights().by_path`` finds one by name.

        Never use ``module.weight``: under a transform it is a temporary, and what is written to it vanishes. The net
        is walked once; what changes its layers must call :meth:`changed`.

        :param kinds: module classes; ``BATCH_NORMS`` gives the scales, ``(nn.Embedding,)`` what only some methods take.
            By default every layer that is known to have weights: linear layers, convolutions and transposed ones,
            recurrent layers, the projections of attention, and classes that plugins offer (``register_weighted``).
        :param tensor: ``weight`` or ``bias``; layers without it are left out.
        """
        key = (self.players[player].module, None if kinds is None else tuple(kinds), tensor)
        if key not in self._weights:
            self._weights[key] = weights_of(*key, self._known)
        return Weights(self._weights[key])

    def reached(self, weights: Iterable[Weight]) -> dict[str, float]:
        """Return, for a method's report, the share of all the student's parameters that it acts on, in percent.

        What is left out of all methods' is named in the stage's part of the run's report: ``missed``, by name of a
        tensor with its share in percent; biases and norms aren't listed.
        """
        taken = {id(w.latent) for w in weights}
        owned = own_parameters(self.student.module)
        total = max(1, sum(p.numel() for p in owned.values()))
        share = {name: 100 * p.numel() / total for name, p in owned.items()}

        left = {n: round(share[n], 2) for n, p in owned.items() if id(p) not in taken and p.dim() > 1}
        self.missed = {n: s for n, s in left.items() if self.missed is None or n in self.missed}
        return {"reached_percent": sum(share[n] for n, p in owned.items() if id(p) in taken)}

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
        :param among: paths of the layers that may be chosen; by default those of :meth:`weights`.
        :raises UnknownKey: for a name that no such layer has, with the nearest one.
        """
        paths = list(dict.fromkeys(self.weights().paths if among is None else among))
        found = choose_layers(chosen, paths, self.edges, setting)
        return {path: chosen[name] for path, name in found.items()} if isinstance(chosen, Mapping) else list(found)

    def changed(self, player: str = "student") -> None:
        """Forget what is known of a player's layers, after a change of its structure or transforms."""
        super().changed(player)
        net = self.players[player].module
        self._weights = {key: found for key, found in self._weights.items() if key[0] is not net}

    def attach(
        self, target: str, name: str, transform: Transform, player: str = "student", *, keep: bool = True
    ) -> None:
        """Put a transform on ``conv1.weight``, ``conv1:input`` or ``conv1:output``.

        :param keep: stays until the recipe ends; ``False``: until this stage ends.
        :raises Misuse: in any other hook than ``prepare`` and ``end_stage``: no optimizer would have its parameters.
        """
        self.refuse_late(f"a transform is attached ({target}: {name})")
        net = self.players[player].module
        attach(net, target, name, transform.to(self.device), keep=keep, by=self.manager.acting)
        self.changed(player)

    def replace(self, path: str, layer: Layer | nn.Identity, player: str = "student") -> None:
        """Put a registered layer in a plain module's place, in ``prepare`` or ``end_stage``; it stays.

        :raises UsageError: if the net has no such module.
        :raises Misuse: in any other hook, as optimizers hold the parameters then.
        """
        self.refuse_late(f"a module is replaced ({path})")
        replace(self.players[player].module, path, layer.to(self.device))
        self.changed(player)

    @functools.cached_property
    def surgeon(self) -> Surgeon:
        """Removes channels from the student, in ``prepare`` or ``end_stage`` only."""
        return Surgeon(self)

    def give_up(self, path: str) -> None:
        """Say, in ``prepare`` or ``end_stage``, that all weights of a layer of the student are zero on purpose.

        The net can do without it, as behind a shortcut. Any other layer that has died when the stage ends marks the run
        as collapsed. What is replaced or cut out of the net as a whole need not be named: it is no longer there.
        """
        self._given_up.add(path)

    def gave_up(self, path: str) -> bool:
        """Tell whether a layer, or a module that it is part of, was given up."""
        return any(f"{path}.".startswith(f"{whole}.") for whole in self._given_up)

    # ---------------------------------------------------------------- looks at a net

    def order(self, player: str = "student", kinds: Sequence[type[nn.Module]] = (nn.Module,)) -> list[str]:
        """Return the paths of a player's layers in the order in which a forward pass first calls them.

        Embeddings count: in a Transformer they are the first layer, and the first linear layer is an inner one.

        :param kinds: layers of these classes; by default all that have weights.
        """
        net = self.players[player].module
        known = {path for path, module in net.named_modules() if self._known.tensors(module)}
        paths = [p for p, m in net.named_modules() if p in known and isinstance(m, tuple(kinds))]
        example = Batch(self.task.example(2)).to(self.device)
        return list(dict.fromkeys(path for path, _ in self._seen(net, paths, [example])))

    def edges(self, player: str = "student") -> tuple[str, str]:
        """Return the paths of the first and the last layer that a forward pass calls.

        :raises NotApplicable: for the method that asks, if it calls none with weights.
        """
        order = self.order(player)
        if not order:
            raise NotApplicable(self.manager.acting, "the net calls no layer that has weights")
        return order[0], order[-1]

    def sample(self, n: int) -> list[Batch]:
        """Return ``n`` training examples, not augmented, in batches; any hook may ask.

        They are drawn from the stage's data, the same ones whatever the run's seed: seeds of an arm differ in how it
        trains, not in what it is calibrated on, and an arm that trains nothing is the same for each. Without labels
        where the stage's data has them hidden.

        :param n: the method's own number; fewer where the data has fewer.
        """
        n = min(8 if self.dry else n, self.task.count("train", self.subset))
        subset = dataclasses.replace(self.subset or Subset(), size=n)
        size = min(n, self.train.batch_size)
        found = self.task.batches("train", batch_size=size, subset=subset, seed=self.seed, device=self.device)
        return [self._shown(batch) for batch in found]

    def quality(self, net: nn.Module, examples: int) -> dict[str, float]:
        """Return the task's metrics of a net, such as a copy of the student, on examples that no stage trains on.

        They are the first ones of the validation split, the same each time. A method that calls this says so by its
        ``asks_quality``; only then is there such a split in any case.

        :param examples: the method's own number; all of them where the split has fewer.
        """
        size = min(8 if self.dry else examples, EVALUATED_AT_ONCE)
        return evaluate(
            self.task,
            net,
            self.device,
            "validation",
            batch_size=size,
            subset=None if "validation" in self.task.splits else Subset(held_out=self.held_out),
            precision=self.precision,
            limit=1 if self.dry else -(-examples // size),
        )

    @property
    def held_out(self) -> float:
        """The share of the training data that no stage trains on."""
        return self.subset.held_out if self.subset else 0.0

    def file(self, name: str) -> Path | None:
        """Return a file of this stage in the run's folder: what a method keeps in it, a later call goes on with.

        It stays when the run has ended. ``None`` in a dry run, which writes nothing.
        """
        return None if self.place is None else self.place.with_name(f"{self.place.name}-{name}")

    def record_inputs(
        self, paths: Sequence[str], n: int | Sequence[Batch], player: str = "student"
    ) -> dict[str, list[Tensor]]:
        """Return what reaches some layers on sampled examples: path -> one tensor for each call.

        That is the float in a layer's first argument, of a packed sequence its values; layers that get none, token ids
        for instance, and those that aren't called, are left out.

        :param n: how many examples are sampled, or the batches of some that are sampled already.
        """
        batches = self.sample(n) if isinstance(n, int) else n
        got: dict[str, list[Tensor]] = {path: [] for path in paths}
        for path, given in self._seen(self.players[player].module, paths, batches):
            got[path] += [tensor.detach() for tensor in tensors_in(given) if tensor.is_floating_point()]
        return {path: parts for path, parts in got.items() if parts}

    def _seen(self, net: nn.Module, paths: Sequence[str], batches: Sequence[Batch]) -> list[tuple[str, Any]]:
        """Run a net and return which layers were given what first, in order; modes and statistics stay as they were."""
        calls: list[tuple[str, Any]] = []

        def note(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            calls.append((path, first_argument(args, kwargs)))

        handles = [
            net.get_submodule(path).register_forward_pre_hook(partial(note, path), with_kwargs=True) for path in paths
        ]
        with evaluating(net), torch.no_grad():
            for batch in batches:
                self.task.outputs(net, batch)

        for handle in handles:
            handle.remove()
        return calls
