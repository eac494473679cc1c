from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import Batch, Method, NotApplicable, Stage, hookimpl
from condensery.contract import Words
from condensery.nets import evaluating
from condensery.run import Outputs, Player
from condensery_plugins.distillation.pairs import only_teacher, refuse_other_classes, warnings_of
from condensery_plugins.distillation.replay import Replay
from condensery_plugins.distillation.softened import divergence, softened
from condensery_plugins.tasks.control import Control

TEACHER_TABLES, LEARNER_TABLES = 8, 4
"""Games of each kind that a teacher, or a net that learns by playing, plays side by side."""
EXAMPLES = 256
"""On how many states the report looks at the teacher's values."""
FIRST_SEED = 3_000_000
"""Of the games that are played while training; the task's own splits have those below."""


@dataclass(eq=False, kw_only=True)
class PolicyDistillation(Method):
    """Let a small net play as a DQN does, by a sharpened softmax of the values that the DQN gives to each action.

    Rusu et al.: "Policy Distillation", ICLR 2016 [68]. The phase ``distil`` has a student taught. Before it, the phase
    ``dqn`` trains the teacher by playing: a stage of its own, or the recipe's base, ``base: {methods: [...]}``. A task
    that is no game is distilled on its own data.

    Loss: in ``distil`` neither reward nor label; all are means over rows, where the paper has sums. ``kl`` is the
    divergence KL(softmax(q_teacher / T) || softmax(q_student)), in which the student's softmax has temperature 1;
    ``nll`` is minus the logarithm of the student's probability of the teacher's best action; ``mse`` the squared
    distance of the values, summed over actions. In ``dqn`` it is the task's own loss, of the value of the action that
    was taken against reward + discount * the best value of the next state. That one comes from a copy of the net, which
    is renewed every ``sync`` steps. With ``double`` the net itself says which action is best there, and the copy what
    it is worth: van Hasselt, Guez, Silver, "Deep Reinforcement Learning with Double Q-learning", AAAI 2016. The largest
    of some guessed values is mostly guessed too large; by it a net may unlearn late what it could.

    When: in ``distil`` the teacher plays ``moves`` more moves of each game before each epoch, epsilon-greedily. They go
    into the memory from which batches are drawn, each from one game in turn. In ``dqn`` the net itself plays four moves
    before each step; its epsilon falls from 1 in the first ``explore`` of the stage. An epoch has as many batches as
    one of the task's data. Games begin anew with it: where it has fewer steps than the longest game has moves, none is
    played to its end.

    Raises NotApplicable without a teacher or for several, without class scores, and where the teacher has other
    classes; in ``dqn`` on a task that is no game.
    """

    key = "policy-distillation"

    phase: Literal["distil", "dqn"] = "distil"
    loss: Literal["kl", "nll", "mse"] = "kl"
    T: float = 0.01
    epsilon: float = 0.05
    moves: int = 1000
    memory: int = 50_000
    sync: int = 200
    explore: float = 0.15
    double: bool = False

    def words(self) -> Words:
        """Return what the phase needs."""
        needs = {"teacher", "classifier-logits"} if self.phase == "distil" else set()
        return Words(frozenset(needs), frozenset(), frozenset())

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        """Recruit the copy by which a DQN judges the next state."""
        return [] if self.phase == "distil" else [stage.recruit("target", like="student", trains=False, plays=False)]

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Make room for what is played; check the pair."""
        task = stage.task
        if self.phase == "distil":
            only_teacher(stage, self.key)
            refuse_other_classes(stage, self.key)
        elif not isinstance(task, Control):
            raise NotApplicable(self.key, f"a DQN learns by playing, and task {task.key!r} is no game")
        self.memories = [Replay(self.memory) for _ in task.games] if isinstance(task, Control) else []

    @hookimpl
    def batches(self, stage: Stage) -> Iterator[Batch] | None:
        """Return one epoch of what is played; of a task that is no game, its own data."""
        if not isinstance(stage.task, Control):
            return None
        return self._learning(stage, stage.task) if self.phase == "dqn" else self._taught(stage, stage.task)

    def _taught(self, stage: Stage, task: Control) -> Iterator[Batch]:
        """Let the teacher play, then yield what it saw."""
        draw, net = _draws(stage), stage.teachers[0].module
        for game, memory in enumerate(self.memories):
            tables = task.tables(game, _first_seed(stage), TEACHER_TABLES)
            for _ in range(2 if stage.dry else -(-self.moves // TEACHER_TABLES)):
                memory.add(seen=task.shown(game, tables.seen))
                tables.move(task.choose(net, game, tables.seen, self.epsilon, draw))

        for step in range(stage.steps_per_epoch):
            memory = self.memories[step % len(self.memories)]
            yield Batch(memory.draw(stage.train.batch_size, draw)["seen"].to(stage.device))

    def _learning(self, stage: Stage, task: Control) -> Iterator[Batch]:
        """Let the student play between its steps, and yield moves with what they are worth as labels."""
        draw, net, target = _draws(stage), stage.student.module, stage.players["target"].module
        tables = [task.tables(game, _first_seed(stage), LEARNER_TABLES) for game in range(len(task.games))]
        for step in range(stage.steps_per_epoch):
            if stage.step % self.sync == 0:
                target.load_state_dict(net.state_dict())

            game = step % len(task.games)
            seen = tables[game].seen
            with evaluating(net):
                actions = task.choose(net, game, seen, max(self.epsilon, 1 - stage.progress / self.explore), draw)
            moved = tables[game].move(actions)
            self.memories[game].add(
                seen=task.shown(game, seen),
                action=actions.float(),
                earned=moved.earned,
                later=task.shown(game, moved.seen),
                lost=moved.lost,
            )

            drawn = self.memories[game].draw(stage.train.batch_size, draw)
            moves = {name: values.to(stage.device) for name, values in drawn.items()}
            with evaluating(net):
                batch = bellman(task, target, moves, net if self.double else target)
            yield batch

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the distance of the policies, or of the values."""
        if self.phase == "dqn":
            return {}
        mine, wanted = outputs[player.name], outputs[stage.teachers[0].name].rows
        if self.loss == "mse":
            return {"mse": (mine.rows - wanted).square().sum(1).mean()}
        if self.loss == "kl":
            return {"kl": divergence(mine, softened(wanted, self.T), 1.0)}
        # Of a policy that is certain the divergence is the negative logarithm of the likelihood.
        best = nn.functional.one_hot(wanted.argmax(1), wanted.shape[1]).to(wanted)
        return {"nll": divergence(mine, best, 1.0)}

    @hookimpl
    def task_weight(self) -> float:
        """Leave rewards and labels out while a teacher teaches."""
        return 1.0 if self.phase == "dqn" else 0.0

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how far the teacher's best value is above its second at play, to choose T by; and what speaks against.

        Of a teacher that hasn't played it isn't known.
        """
        if self.phase == "dqn":
            return {}
        met = self._met(stage)
        if met is None:
            return warnings_of(stage)

        teacher = stage.teachers[0]
        best = stage.play(met, [teacher])[teacher.name].rows.topk(2, 1).values
        return {"teacher_gap_value": float((best[:, 0] - best[:, 1]).mean())} | warnings_of(stage)

    def _met(self, stage: Stage) -> Batch | None:
        """Return states that the teacher met at play, as many of each game; of a task that is no game, its examples.

        Those of the task's own data are a random player's: where a teacher never comes, its values may lie apart by
        anything. Nothing where it hasn't played, as in a stage without epochs.
        """
        if not isinstance(stage.task, Control):
            return stage.sample(EXAMPLES)[0]
        if not all(len(memory) for memory in self.memories):
            return None
        each, draw = EXAMPLES // len(self.memories), _draws(stage)
        return Batch(torch.cat([memory.draw(each, draw)["seen"] for memory in self.memories]).to(stage.device))

    def state(self) -> dict[str, Any]:
        """Return what was played."""
        return {"memories": [memory.state() for memory in self.memories]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with what was played."""
        for memory, saved in zip(self.memories, state["memories"], strict=True):
            memory.load(saved)


def bellman(task: Control, target: nn.Module, moves: Mapping[str, Tensor], chooses: nn.Module) -> Batch:
    """Return moves as a batch of the task, whose labels are the actions and what the target net says they are worth.

    :param moves: ``seen`` and ``later``, ``(moves, size)``; ``action``, ``earned`` and ``lost``, ``(moves,)``.
    :param chooses: the net by which the next action is the best one: the target net, or the one that learns.
    """
    later = Batch(moves["later"])
    with torch.no_grad():
        action = task.outputs(chooses, later).argmax(1, keepdim=True)
        best = task.outputs(target, later).gather(1, action)[:, 0]
    worth = moves["earned"] + task.discount * best * ~moves["lost"]
    return Batch(moves["seen"], torch.stack([moves["action"], worth], 1))


def _draws(stage: Stage) -> torch.Generator:
    return torch.Generator().manual_seed(stage.seed * 1_000_003 + stage.epoch)


def _first_seed(stage: Stage) -> int:
    return FIRST_SEED + 100_003 * stage.seed + TEACHER_TABLES * stage.epoch
