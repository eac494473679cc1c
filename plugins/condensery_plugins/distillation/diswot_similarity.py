from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery import Batch, Method, NotApplicable, Stage, hookimpl
from condensery.nets import resolve
from condensery.run import Player
from condensery_plugins.distillation.layer_maps import stages_of
from condensery_plugins.distillation.pairs import only_teacher


@dataclass(eq=False, kw_only=True)
class DisWOT(Method):
    """Score a student before any training, by how much it is like its teacher where both are random.

    Dong and others: "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023 [66]. Both nets
    are built anew with random weights and given one batch, in train mode: batch norms take the batch's statistics.

    Relation: -sum (G_T - G_S)^2 / B^2, where row i of G holds the products of example i's last features with those of
    all B examples, scaled to length 1. Semantic: -(2 - 2 mean over classes of (mean over channels of sign agreement)
    times cos(w_T, w_S)), w a class's row of the gradient of the task's loss by the classifier's weights: the closed
    form of the paper's distance of class activation maps. The score is their sum; more is better.

    Loss: none, the method changes nothing; what else acts in the stage trains as without it. A stage of 0 epochs, or
    ``condensery search --budget quick``, scores alone: a search asks for ``reported.diswot-similarity.score``.

    When: once, in ``prepare``, over ``draws`` initialisations of both nets; what is reported is the mean.

    Raises NotApplicable without a teacher or for several, and where a net has no stages. There is no semantic term, and
    it isn't in the score, where labels are hidden or both classifiers haven't as many inputs and classes.
    """

    key = "diswot-similarity"

    needs = frozenset({"teacher"})
    reports = ("relation", "score")

    draws: int = 3
    examples: int = 64

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Score the pair."""
        teacher = only_teacher(stage, self.key)
        batch = stage.sample(self.examples)[0]
        relations, semantics = [], []
        for draw in range(self.draws):
            # Seeds of their own: two nets of one kind would otherwise be the same net.
            mine = self._looked(stage, stage.student, batch, 2 * draw)
            theirs = self._looked(stage, teacher, batch, 2 * draw + 1)
            relations.append(relation(mine[0], theirs[0]))
            if mine[1] is not None and theirs[1] is not None and mine[1].shape == theirs[1].shape:
                semantics.append(semantic(mine[1], theirs[1]))
        parts = {"relation": relations, "semantic": semantics}
        self.found_ = {name: statistics.fmean(values) for name, values in parts.items() if values}

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return both terms apart, and their sum."""
        return {**self.found_, "score": sum(self.found_.values())}

    def _looked(self, stage: Stage, like: Player, batch: Batch, draw: int) -> tuple[Tensor, Tensor | None]:
        """Return the last features of a fresh net, ``(batch, numbers)``, and the gradient by its classifier's weights.

        :param like: whose spec the net is built from, with random weights.
        """
        spec = like.spec.model_copy(update={"weights": None, "init_from": None, "seed": like.spec.seed + draw})
        player = Player(like.name, stage.build(spec).train(), spec=spec)
        path = stages_of(player, self.key)[-1]
        player.tap(path)

        # Its own draws, as of dropout, leave those of the run as they are.
        gpus = [stage.device] if stage.device.type == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(draw)
            outputs = player.play(stage.task, batch)
            loss = stage.task.loss(outputs.tree, batch)
            classifier = player.module.get_submodule(resolve(player.module, "logits")[0])
            gradient = None
            if loss is not None and isinstance(classifier, nn.Linear):
                (gradient,) = torch.autograd.grad(loss, classifier.get_parameter("weight"))
        features = outputs.taps[path].detach().flatten(1)
        if len(features) != batch.size:
            raise NotApplicable(self.key, f"{path} of {like.name} doesn't give one row of features for each example")
        return features, gradient


def relation(mine: Tensor, theirs: Tensor) -> float:
    """Return how alike two nets relate examples, 0 at best and less otherwise.

    :param mine: features, ``(batch, numbers)``; the other net may have other numbers.
    """
    one, other = (nn.functional.normalize(features @ features.T) for features in (mine, theirs))
    return -float((one - other).square().sum()) / len(mine) ** 2


def semantic(mine: Tensor, theirs: Tensor) -> float:
    """Return how alike the gradients of two classifiers are, 0 at best and -4 at worst.

    :param mine: ``(classes, channels)``.
    """
    signs = (mine.sign() * theirs.sign()).mean(1)
    cosines = nn.functional.cosine_similarity(mine, theirs)
    return -float(2 - 2 * (signs * cosines).mean())
