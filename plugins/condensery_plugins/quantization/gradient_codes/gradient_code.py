"""What methods share that send gradients in codes: which tensors, what each worker keeps, how many bytes went."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Method, Stage, hookimpl
from condensery.run import Bucket, Player, Workers
from condensery_plugins.quantization.gradient_codes.codes import Code
from condensery_plugins.quantization.gradient_codes.words import entropy_bytes


@dataclass
class Place:
    """Where a parameter stands in its player's optimizer: the parameter, and the settings of its group."""

    parameter: nn.Parameter
    group: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class GradientCode(Method):
    """Send gradients in codes; the workers are those of ``train: {workers: 4}``, or the processes of ``--launch``.

    A tensor for which a method has no code, or whose code would be no smaller than its floats, is sent as floats; the
    second kind is named in the report. Codes, and what is kept of a coded tensor, are of float32, whatever the net is.

    :meth:`start` begins, so that a method also serves a net outside of a run (:class:`CommunicationHook`).
    """

    acts_on = ("all",)

    @abstractmethod
    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the code of a parameter; ``None``: its gradient is sent as floats."""

    @abstractmethod
    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return what the workers agree on, ``(numbers,)``.

        :param place: names what is kept for this parameter of this player.
        """

    def combined_floats(self, player: Player, bucket: Bucket, place: str) -> Tensor:
        """Return what they agree on for a tensor that is sent as floats."""
        return bucket.mean(bucket.values)

    # ---------------------------------------------------------------- hooks

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Start without anything kept."""
        self.start(stage.workers)

    def start(self, workers: Workers) -> None:
        """Start without anything kept.

        ``kept_`` holds one row for each worker of this process, ``common_`` what is alike for all of them.
        """
        self._workers = workers
        self._places: dict[str, dict[str, Place]] = {}
        self.kept_: dict[str, Tensor] = {}
        self.common_: dict[str, Tensor] = {}
        self.as_floats_ = 0
        self.ideal_ = torch.zeros((), dtype=torch.float64)
        self.larger_: dict[str, int] = {}

    @hookimpl
    def exchange(self, player: Player, bucket: Bucket) -> Tensor:
        """Return what the workers agree on for one parameter."""
        numbers, place = bucket.values.shape[1], f"{player.name}/{bucket.name}"
        plain = numbers * bucket.values.element_size()
        code = self.code_of(player, bucket)
        if code is not None and code.size(numbers) >= plain:
            self.larger_[place] = code.size(numbers)
            code = None

        if code is None:
            agreed = self.combined_floats(player, bucket, place)
        else:
            single = Bucket(bucket.name, bucket.shape, bucket.values.float(), bucket.workers)
            agreed = self.combined(player, single, code, place).to(bucket.values.dtype)
            bucket.sent += single.sent
        self.as_floats_ += bucket.sent if bucket.sent >= plain else 0
        return agreed

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the bytes that one worker sends in a step, those of floats, and how many times fewer they are."""
        for place, size in self.larger_.items():
            stage.left_out[place.partition("/")[2]] = f"its code would be no smaller than its floats: {size} bytes"
        plain = max(1, stage.exchanged.plain)
        found = {**stage.exchanged.per_step(stage.step), "sent_as_floats_percent": 100 * self.as_floats_ / plain}
        if float(self.ideal_):
            found["entropy_coded_ratio"] = plain / (float(self.ideal_) + self.as_floats_)
        return found

    # ---------------------------------------------------------------- what the methods are made of

    def told(self, bucket: Bucket, code: Code, values: Tensor) -> tuple[Tensor, Tensor]:
        """Send values in a code; returns what all workers' codes stand for, and what this process's do.

        :param values: ``(workers of this process, numbers)``.
        """
        words = code.encode(values, bucket.uniform)
        symbols = code.symbols(words, values.shape[1])
        if symbols is not None:
            ideal = entropy_bytes(symbols.codes, symbols.kinds) + 4 * symbols.floats
            self.ideal_ = self.ideal_.to(words.device) + ideal
        found = code.decode(bucket.gather(words), values.shape[1])
        return found, bucket.own(found)

    def kept(self, place: str, like: Tensor) -> Tensor:
        """Return what the workers of this process kept of a parameter, zeros at first."""
        found = self.kept_.get(place)
        return torch.zeros_like(like) if found is None else found.to(like.device)

    def common(self, place: str, like: Tensor) -> Tensor:
        """Return what is kept alike for all workers, zeros at first."""
        found = self.common_.get(place)
        return torch.zeros_like(like) if found is None else found.to(like.device)

    def placed(self, player: Player, name: str) -> Place:
        """Return where a parameter stands in its player's optimizer; the net is walked once."""
        if player.name not in self._places:
            assert player.optimizer is not None
            groups = {id(p): group for group in player.optimizer.param_groups for p in group["params"]}
            self._places[player.name] = {n: Place(p, groups.get(id(p), {})) for n, p in player.parameters().items()}
        return self._places[player.name][name]

    def decay(self, player: Player, bucket: Bucket) -> Tensor:
        """Return the gradient of weight decay, ``(numbers,)``, where the optimizer has left it to the method."""
        place = self.placed(player, bucket.name)
        share: float = place.group.get("decay", 0.0)
        return place.parameter.detach().flatten().to(bucket.values.dtype) * share

    # ---------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, Any]:
        """Return what is kept: of all workers, wherever they play."""
        found = {name: value for name, value in vars(self).items() if name.endswith("_")}
        return found | {"kept_": {place: self._workers.of_all(rows) for place, rows in self.kept_.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint holds, each process that of its workers."""
        for name, value in state.items():
            setattr(self, name, value)
        self.kept_ = {place: self._workers.of_own(rows) for place, rows in state["kept_"].items()}


def without_decay(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return groups for an optimizer that leaves weight decay to the method; ``decay`` still says how much."""
    return [{**group, "decay": group["weight_decay"], "weight_decay": 0.0} for group in groups]
