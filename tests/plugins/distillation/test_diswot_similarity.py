from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe

from condensery import Registry
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
    assert one["score"] == one["relation"] + one["semantic"]
    assert -4 < one["semantic"] < one["relation"] < 0
    assert scored(tmp_path / "trained", HALF, base={"epochs": 1, "batch_size": 16}) == one


def test_a_net_of_the_teachers_kind_has_other_random_weights(tmp_path: Path) -> None:
    found = scored(tmp_path / "run", {"key": "resnet20", "width": 0.5})
    assert found["relation"] < -1e-4
    assert found["semantic"] < -0.5


def test_a_classifier_of_another_width_has_no_semantic_term(tmp_path: Path) -> None:
    found = scored(tmp_path / "run", {"key": "resnet8", "width": 1.0})
    assert set(found) == {"relation", "score"}
