from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from condensery.errors import NotApplicable, UsageError
from condensery_plugins.distillation.layer_maps import LayerMap, paired, stages_of


@pytest.mark.parametrize(
    ("kind", "students", "teachers", "pairs"),
    [
        ("one-to-one", 3, 3, [(0, 0), (1, 1), (2, 2)]),
        ("skip", 3, 3, [(0, 0), (1, 1), (2, 2)]),
        ("skip", 2, 6, [(0, 2), (1, 5)]),
        ("skip", 2, 3, [(0, 1), (1, 2)]),
        ("skip", 4, 2, [(0, 0), (1, 0), (2, 1), (3, 1)]),  # a deeper student
        ("many-to-one", 2, 4, [(0, 0), (0, 1), (1, 2), (1, 3)]),
        ("many-to-one", 2, 3, [(0, 0), (0, 1), (1, 2)]),
        ("many-to-one", 4, 2, [(1, 0), (3, 1)]),
    ],
)
def test_pairs_by_hand(kind: LayerMap, students: int, teachers: int, pairs: list[tuple[int, int]]) -> None:
    assert paired(kind, students, teachers) == pairs


def test_one_to_one_needs_as_many() -> None:
    with pytest.raises(UsageError, match="the student has 2 stages and the teacher 6; say skip"):
        paired("one-to-one", 2, 6)


def test_a_net_without_stages_is_named() -> None:
    player: Any = SimpleNamespace(name="teacher", module=nn.Linear(2, 2))
    with pytest.raises(NotApplicable, match="Linear has no stages: name a module path instead"):
        stages_of(player, "fitnets")
