from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe
from torch import Tensor

from condensery import Registry, Stage
from condensery.testing import play
from condensery_plugins.distillation.diswot_similarity import relation, semantic

HALF = {"key": "resnet8", "width": 0.5}
STAGE = {"methods": ["diswot-similarity"], "teacher": "original", "epochs": 0}


def test_the_relation_by_hand() -> None:
    """Of (1, 0) and (1, 1) the rows are (1, 1) / sqrt 2 and (1, 2) / sqrt 5; at right angles (1, 0) and (0, 1)."""
    mine = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    theirs = torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    first = (1 / math.sqrt(2) - 1) ** 2 + 1 / 2
    second = 1 / 5 + (2 / math.sqrt(5) - 1) ** 2
    assert relation(mine, theirs) == pytest.approx(-(first + second) / 4)
    assert relation(mine, 7 * mine) == pytest.approx(0)


def test_the_semantic_term_by_hand() -> None:
    """Signs agree in two channels of three, (2 - 1) / 3; the cosine of (1, 1, 1) and (2, -1, 1) is 2 / sqrt 18."""
    mine = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    theirs = torch.tensor([[2.0, -1.0, 1.0]], dtype=torch.float64)
    cosine = 2 / math.sqrt(3 * 6)
    assert semantic(mine, theirs) == pytest.approx(-(2 - 2 * (1 / 3) * cosine))
    assert semantic(mine, 2 * mine) == pytest.approx(0)


def test_the_semantic_term_is_the_distance_of_class_maps() -> None:
    """The closed form against the definition: rows of w w^t, scaled to length 1, over channels and classes."""
    one, other = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps = [torch.nn.functional.normalize(w[:, :, None] * w[:, None], dim=2) for w in (one, other)]
    apart = (maps[0] - maps[1]).square().sum() / (4 * 5)
    assert semantic(one, other) == pytest.approx(-float(apart))


def scored(folder: Path, student: Any, **changes: Any) -> dict[str, float]:
    given = recipe([{**STAGE, "student": student}], model={"key": "resnet20", "width": 0.5}, **changes)
    found: dict[str, float] = play(given, Registry.open(), folder).report["reported"]["diswot-similarity"]
    return found


def test_both_terms_are_told_apart_and_depend_on_no_trained_weight(tmp_path: Path) -> None:
    one = scored(tmp_path / "one", HALF)
    assert -4 < one["semantic"] < one["relation"] < 0
    assert scored(tmp_path / "trained", HALF, base={"epochs": 1, "batch_size": 16}) == one


def looked(stage: Stage, player: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return what a fresh net's last stage gives, and the gradient of the mean cross entropy by its classifier.

    The latter by its closed form: of each class the mean over examples of (probability - truth) times the features.
    """
    spec = stage.players[player].spec
    net = stage.build(spec.model_copy(update={"weights": None, "seed": spec.seed + seed})).train()
    given: list[Tensor] = []
    net.get_submodule("layer3").register_forward_hook(lambda module, inputs, output: given.append(output))
    batch = stage.sample(32)[0]
    with torch.no_grad():
        truth = torch.nn.functional.one_hot(batch.labels, 10)
        error = net(batch.inputs).softmax(1) - truth
    return given[0].flatten(1), error.T @ given[0].mean((2, 3)) / batch.size


def test_the_score_of_a_pair_is_the_mean_over_fresh_nets(tmp_path: Path) -> None:
    """Two draws, worked out from the nets themselves: student and teacher never have one seed."""
    stage = {**STAGE, "methods": [{"diswot-similarity": {"draws": 2, "examples": 32}}], "student": HALF}
    done = play(
        recipe([stage], model={"key": "resnet20", "width": 0.5}, train={"batch_size": 32}),
        Registry.open(),
        tmp_path / "run",
    )
    terms = {"relation": 0.0, "semantic": 0.0}
    for draw in (0, 1):
        mine, theirs = looked(done.stage, "student", 2 * draw), looked(done.stage, "teacher", 2 * draw + 1)
        rows = [(one @ one.T) / (one @ one.T).norm(dim=1, keepdim=True) for one in (mine[0], theirs[0])]
        terms["relation"] -= float((rows[0] - rows[1]).square().sum()) / 32**2 / 2
        maps = [torch.nn.functional.normalize(w[:, :, None] * w[:, None], dim=2) for w in (mine[1], theirs[1])]
        terms["semantic"] -= float((maps[0] - maps[1]).square().sum()) / (10 * 32) / 2

    found = done.report["reported"]["diswot-similarity"]
    assert found == pytest.approx({**terms, "score": sum(terms.values())}, rel=1e-4)


def test_a_net_of_the_teachers_kind_has_other_random_weights(tmp_path: Path) -> None:
    found = scored(tmp_path / "run", {"key": "resnet20", "width": 0.5})
    assert found["relation"] < -1e-4
    assert found["semantic"] < -0.5


def test_a_classifier_of_another_width_has_no_semantic_term(tmp_path: Path) -> None:
    found = scored(tmp_path / "run", {"key": "resnet8", "width": 1.0})
    assert set(found) == {"relation", "score"}
