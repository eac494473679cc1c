"""What stands behind the end of a text changes no term: each is what the same text gives without it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs
from torch import Tensor

from condensery import Batch
from condensery.run import Outputs
from condensery_plugins.distillation.adapters import Adapter
from condensery_plugins.distillation.attention_transfer import AttentionTransfer
from condensery_plugins.distillation.be_your_own_teacher import BeYourOwnTeacher, Branch
from condensery_plugins.distillation.fitnets import FitNets
from condensery_plugins.distillation.fsp import FSP

WORDS = 3
Term = Callable[[dict[str, Tensor], dict[str, Tensor], Batch, Any], dict[str, Tensor]]


def outputs(taps: dict[str, Tensor], batch: Batch) -> Outputs:
    found = Outputs(batch.inputs["scores"], Inputs(torch.zeros), batch)
    found.taps = taps  # type: ignore[assignment]
    return found


def asked(method: Any, mine: dict[str, Tensor], theirs: dict[str, Tensor], batch: Batch, helpers: Any) -> Any:
    both = {"student": outputs(mine, batch), "teacher": outputs(theirs, batch)}
    stage: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")], task=Inputs(torch.zeros))
    player: Any = SimpleNamespace(name="student", helpers=helpers)
    more = {"batch": batch} if isinstance(method, BeYourOwnTeacher) else {}
    return method.loss_terms(stage=stage, outputs=both, player=player, **more)


def methods() -> dict[str, tuple[Any, Any]]:
    """Return each method on layers inside as after ``prepare``, with its helpers."""
    torch.manual_seed(1)
    made: dict[str, tuple[Any, Any]] = {}
    tokens = torch.randn(2, WORDS, 4, dtype=torch.float64)
    for variant in ("code", "paper"):
        made[f"attention, {variant}"] = AttentionTransfer(variant=variant), None
        made[f"attention, {variant}"][0].pairs_ = [("l", "l")]
        made[f"fitnets, {variant}"] = FitNets(reduction=variant), {"r": Adapter(tokens, tokens)}
        hinting = made[f"fitnets, {variant}"][0]
        hinting.guided_ = hinting.hint_ = "l"
        hinting.regressor_, hinting.rectified_ = "r", False
    made["fsp"] = FSP(), None
    made["fsp"][0].pairs_ = [("l", "l")]
    made["own"] = BeYourOwnTeacher(), {"branch1": Branch(tokens, tokens, 3)}
    made["own"][0].paths_ = ["l:input", "l"]
    return made


METHODS = methods()


@pytest.mark.parametrize("name", METHODS)
def test_padding_counts_nowhere(name: str) -> None:
    """Two texts of three words; behind them two positions full of what a net may leave there."""
    torch.manual_seed(0)
    scores = torch.randn(2, 3, dtype=torch.float64)
    mine, theirs = ({p: torch.randn(2, WORDS, 4, dtype=torch.float64) for p in ("l:input", "l")} for _ in range(2))

    def terms(padding: int) -> dict[str, float]:
        mask = torch.tensor([1] * WORDS + [0] * padding).expand(2, -1)
        noise = 100 * torch.randn(2, padding, 4, dtype=torch.float64)
        batch = Batch({"scores": scores, "attention_mask": mask}, torch.tensor([0, 1]))
        longer = [{path: torch.cat([tokens, noise], 1) for path, tokens in net.items()} for net in (mine, theirs)]
        found = asked(METHODS[name][0], longer[0], longer[1], batch, METHODS[name][1])
        return {term: float(value.detach()) for term, value in found.items()}

    plain = terms(0)
    assert all(value > 0 for value in plain.values())
    assert terms(2) == pytest.approx(plain)
