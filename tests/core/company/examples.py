"""Small methods that are hard to have beside others; each one is also an example of how such a method is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from condensery import Method, Stage, hookimpl
from condensery.run import Bucket, Outputs, Player
from condensery.tasks import Batch


@dataclass(eq=False, kw_only=True)
class Consistency(Method):
    """Give the same answers to inputs with a little noise: a step of its own, with outputs of its own.

    Loss: all terms of the stage, and the squared distance between both outputs.
    """

    key = "consistency"
    acts_on = ("all",)

    noise: float = 0.1

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        """Play the batch twice; every method gives its terms for the clean one."""
        outputs = stage.play(batch)
        noisy = stage.play(Batch(batch.inputs + self.noise * torch.randn_like(batch.inputs), batch.labels))

        for player in stage.training:
            terms = stage.terms(player, batch, outputs)
            apart = (outputs[player.name].rows - noisy[player.name].rows).square().mean()
            stage.backward(player, terms | {"consistency.apart": apart})
        for player in stage.training:
            stage.update(player)
        return True


@dataclass(eq=False, kw_only=True)
class Extragradient(Method):
    """Take the step from the gradients that hold where a first step would lead: two passes and one update."""

    key = "extragradient"

    rate: float = 0.01

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        """Look ahead, take gradients there, go back, and step."""
        latents = [weight.latent for weight in stage.weights()]
        stage.gradients(batch)
        before = [latent.detach().clone() for latent in latents]
        with torch.no_grad():
            for latent in latents:
                assert latent.grad is not None
                latent.sub_(latent.grad, alpha=self.rate)

        for player in stage.training:
            player.module.zero_grad()
        stage.gradients(batch)
        with torch.no_grad():
            for latent, old in zip(latents, before, strict=True):
                latent.copy_(old)
        for player in stage.training:
            stage.update(player)
        return True


@dataclass(eq=False, kw_only=True)
class Alone(Method):
    """Step by hand, past every other method: what core refuses beside another."""

    key = "alone"

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        """Forget that there may be other methods."""
        student = stage.student
        loss = stage.task.loss(student.play(stage.task, batch).tree, batch)
        assert loss is not None
        assert student.optimizer is not None
        loss.backward()  # type: ignore[no-untyped-call]
        student.optimizer.step()
        student.optimizer.zero_grad()
        return True


@dataclass(eq=False, kw_only=True)
class OneBitSGD(Method):
    """Send one bit for each gradient, and keep what was lost for the next step.

    Seide, Fu, Droppo, Li, Yu: "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
    Training of Speech DNNs", Interspeech 2014. The two values that the bits stand for are the means of the positive
    and of the other gradients of a worker.
    """

    key = "one-bit-example"
    acts_on = ("all",)

    @hookimpl
    def prepare(self) -> None:
        """Start without anything lost; residuals are kept by player and parameter, for each worker."""
        self.residuals_: dict[str, Tensor] = {}
        self.bytes_ = 0

    @hookimpl
    def exchange(self, player: Player, bucket: Bucket) -> Tensor:
        """Return the mean of what the workers' bits stand for, ``(numbers,)``."""
        place = f"{player.name}/{bucket.name}"
        wanted = bucket.values + self.residuals_.get(place, torch.zeros_like(bucket.values))

        bits = wanted > 0
        count = bits.sum(1, keepdim=True).clamp_min(1), (~bits).sum(1, keepdim=True).clamp_min(1)
        levels = torch.cat([(wanted * bits).sum(1, keepdim=True), (wanted * ~bits).sum(1, keepdim=True)], 1)
        levels = levels / torch.cat(count, 1)

        # What is rounded away here comes back in the next step.
        own = torch.where(bits, levels[:, :1], levels[:, 1:])
        self.residuals_[place] = wanted - own

        packed, told = bucket.gather(pack(bits)), bucket.gather(levels)
        self.bytes_ += bucket.sent
        seen = unpack(packed, bits.shape[1])
        return torch.where(seen, told[:, :1], told[:, 1:]).mean(0)

    @hookimpl
    def report(self) -> dict[str, float]:
        """Return what each worker has sent."""
        return {"sent_bytes": float(self.bytes_)}


def pack(bits: Tensor) -> Tensor:
    """Return bits in bytes, eight each, ``(workers, ceil(numbers / 8))``.

    :param bits: bool, ``(workers, numbers)``.
    """
    padded = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    return (padded * 2 ** torch.arange(8)).sum(2).to(torch.uint8)


def unpack(packed: Tensor, numbers: int) -> Tensor:
    """Return the bits in some bytes again, bool of shape ``(workers, numbers)``."""
    return (packed[:, :, None] >> torch.arange(8) & 1).flatten(1)[:, :numbers] > 0


@dataclass(eq=False, kw_only=True)
class SelfTeacher(Method):
    """Learn from a running mean of oneself: the teacher starts as a copy of the student, quantizers and all.

    Tarvainen, Valpola: "Mean teachers are better role models", NIPS 2017.
    """

    key = "self-teacher"

    keep: float = 0.9

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        """Ask for the copy; it is made after the last prepare."""
        return [stage.recruit("mean", like="student", trains=False)]

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the squared distance to the teacher's outputs."""
        return {"apart": (outputs[player.name].rows - outputs["mean"].rows).square().mean()}

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        """Let the teacher follow."""
        for mine, theirs in zip(stage.weights("mean"), stage.weights(player.name), strict=True):
            mine.latent.data.lerp_(theirs.latent.detach(), 1 - self.keep)


@dataclass(eq=False, kw_only=True)
class Hints(Method):
    """Train the lower half of the student to give what the teacher's gives, through a regressor; the rest is frozen.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: "FitNets: Hints for Thin Deep Nets", ICLR 2015, stage 1.
    """

    key = "hints"
    needs = frozenset({"teacher"})

    guided: str = "layer1"
    frozen: list[str] = field(default_factory=lambda: ["layer2", "layer3", "linear"])

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Freeze, tap both nets and make a regressor of the right size."""
        stage.student.freeze(self.frozen)
        teacher = stage.teachers[0]
        for player in (stage.student, teacher):
            player.tap(self.guided)

        outputs = stage.play(stage.sample(2)[0], [stage.student, teacher])
        mine, theirs = (outputs[p.name].taps[self.guided].shape[1] for p in (stage.student, teacher))
        stage.student.helpers["regressor"] = nn.Conv2d(mine, theirs, 1)

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return half the squared distance of the hint (eq. 3)."""
        hint = outputs[stage.teachers[0].name].taps[self.guided]
        guess = player.helpers["regressor"](outputs[player.name].taps[self.guided])
        return {"hint": 0.5 * (guess - hint).square().mean()}

    @hookimpl
    def task_weight(self) -> float:
        """Leave the labels to the next stage."""
        return 0.0
