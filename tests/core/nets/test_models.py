"""Nets from specs: what a builder does wrong is said of the model."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from condensery import PluginError, Registry, UsageError
from condensery.contract import hookimpl
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.tasks import TaskFacts


class Offers:
    """Offers one model."""

    condensery_api = 1

    def __init__(self, build: Any) -> None:
        self.build = build

    @hookimpl
    def register_models(self, register: Any) -> None:
        register("mine", self.build)


def leaving(facts: TaskFacts, name: str) -> nn.Module:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("build", "error", "said"),
    [
        (leaving, PluginError, "model 'mine': its builder ends the process, SystemExit: 3"),
        (lambda facts: nn.Identity(), UsageError, r"model 'mine': .* takes 1 positional argument but 2 were given"),
    ],
)
def test_a_builder_that_fails_names_its_model(build: Any, error: type[Exception], said: str) -> None:
    registry = Registry.open([("mine", Offers(build))], entry_points=False)
    with pytest.raises(error, match=f"^{said}"):
        build_net(ModelSpec(key="mine"), TaskFacts("vector", 2, size=2), registry, seed=0)
