from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered

from condensery_plugins.distillation.deep_mutual_learning import DeepMutualLearning


def test_the_mutual_term_by_hand() -> None:
    """Three nets: the mean of KL from the two others, at temperature 1."""
    method = DeepMutualLearning(peers=2, weight=3.0)
    method.cohort_ = ["student", "peer#1", "peer#2"]
    outputs = {
        "student": answered(torch.zeros(2, 2)),
        "peer#1": answered(torch.tensor([[0.0, math.log(3)]]).repeat(2, 1)),
        "peer#2": answered(torch.zeros(2, 2)),
    }

    def term(name: str) -> Any:
        return method.loss_terms(outputs=outputs, player=SimpleNamespace(name=name))  # type: ignore[arg-type]

    one = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(term("student")["mutual"]) == pytest.approx(3.0 * one / 2, rel=1e-5)
    other = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)  # the other way round it is another number
    assert float(term("peer#1")["mutual"]) == pytest.approx(3.0 * other, rel=1e-5)
    assert term("teacher") is None
