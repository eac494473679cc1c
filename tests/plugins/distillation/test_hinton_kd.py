from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered

from condensery.contract import Registry, build_method
from condensery.errors import UsageError
from condensery_plugins.distillation.hinton_kd import HintonKD


def stage(*teachers: str) -> Any:
    return SimpleNamespace(teachers=[SimpleNamespace(name=t) for t in teachers])


def test_the_soft_term_by_hand() -> None:
    """T = 2, alpha = 0.5: 0.5 * 4 * KL((1/4, 3/4) || (1/2, 1/2))."""
    method = HintonKD(T=2.0, alpha=0.5)
    outputs = {
        "student": answered(torch.zeros(4, 2)),
        "teacher": answered(torch.tensor([[0.0, 2 * math.log(3)]]).repeat(4, 1)),
    }
    terms = method.loss_terms(outputs=outputs, player=SimpleNamespace(name="student"), stage=stage("teacher"))  # type: ignore[arg-type]
    by_hand = 0.5 * 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(terms["kd"]) == pytest.approx(by_hand, rel=1e-5)
    assert method.task_weight() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"T": 0}, "T must be > 0, got 0"),
        ({"T": "hot"}, "T must be a number"),
        ({"alpha": 1.5}, "alpha must be >= 0 and <= 1, got 1.5"),
        ({"Tee": 2}, "Tee"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_method("hinton-kd", HintonKD, settings, Registry.open().card("hinton-kd"))
