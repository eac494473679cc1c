from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs, answered
from tests.plugins.distillation.pairings import each_pairing, taught
from torch import Tensor

from condensery.errors import NotApplicable
from condensery.run import Outputs
from condensery.tasks import Batch
from condensery_plugins.distillation.attention_transfer import AttentionTransfer, attention, input_gradient

MINE = torch.tensor([[[[3.0, -1.0]], [[-1.0, 1.0]]]], dtype=torch.float64)  # squares' means 5 and 1
THEIRS = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
FAR = 2 - 10 / math.sqrt(26)
"""Squared distance of (5, 1) / sqrt(26) and (1, 0), which is 2 - 2 * 5 / sqrt(26)."""


def term(method: AttentionTransfer, mine: Tensor, theirs: Tensor) -> Tensor:
    """Return the term of one pair of layers."""
    method.pairs_ = [("a", "b")]
    outputs = {"student": answered(mine), "teacher": answered(theirs)}
    outputs["student"].taps, outputs["teacher"].taps = {"a": mine}, {"b": theirs}  # type: ignore[assignment]
    stage: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")])
    player: Any = SimpleNamespace(name="student")
    return method.loss_terms(stage=stage, outputs=outputs, player=player)["attention"]


def test_an_attention_by_hand() -> None:
    """Values are squared before channels are averaged, and each example is scaled by itself."""
    both = attention(torch.cat([MINE, 10 * MINE.flip(3)]), 2.0)
    torch.testing.assert_close(both, torch.tensor([[5.0, 1.0], [1.0, 5.0]], dtype=torch.float64) / math.sqrt(26))
    torch.testing.assert_close(attention(MINE, 1.0)[0], torch.tensor([2.0, 1.0], dtype=torch.float64) / math.sqrt(5))


def test_both_variants_by_hand() -> None:
    """Two positions: the code's mean is half of the squared distance; the paper takes half of the distance itself."""
    assert float(term(AttentionTransfer(), MINE, THEIRS)) == pytest.approx(1000 * FAR / 2)
    assert float(term(AttentionTransfer(variant="paper"), MINE, THEIRS)) == pytest.approx(1000 / 2 / 2 * math.sqrt(FAR))
    assert float(term(AttentionTransfer(variant="paper", beta=4.0), MINE, THEIRS)) == pytest.approx(2 * math.sqrt(FAR))


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_a_batch_weighs_as_one_example(variant: Any) -> None:
    """Both are means over examples: the paper's one over the batch's size is in its beta."""
    method = AttentionTransfer(variant=variant)
    alone = term(method, MINE, THEIRS)
    same = term(method, torch.cat([MINE] * 3), torch.cat([THEIRS] * 3))
    half = term(method, torch.cat([MINE, THEIRS.expand_as(MINE)]), torch.cat([THEIRS] * 2))
    assert float(same) == pytest.approx(float(alone))
    assert float(half) == pytest.approx(float(alone) / 2)


@pytest.mark.parametrize("method", [AttentionTransfer(beta=3.0), AttentionTransfer(variant="paper")])
def test_gradients(method: AttentionTransfer) -> None:
    mine = torch.randn(3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: term(method, m, theirs), (mine,))


def test_an_input_gradient_by_hand() -> None:
    """Logits (w x, 0): of cross entropy with class 1 the gradient by x is p w, with p = 1 / 2 at x = 0."""
    weight = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    inputs = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    rows = torch.cat([weight * inputs, torch.zeros_like(inputs)], 1)
    batch = Batch(inputs, torch.ones(4, dtype=torch.long))
    gradient = input_gradient(Outputs(rows, Inputs(torch.zeros), batch))

    torch.testing.assert_close(gradient, torch.full_like(gradient, 1.5))
    (second,) = torch.autograd.grad(gradient[0, 0], weight)
    assert float(second) == pytest.approx(0.5)  # so the loss on gradients reaches the weights


@each_pairing
def test_it_teaches_between_unlike_nets(pairing: str, tmp_path: Path) -> None:
    run, _ = taught(pairing, tmp_path / "run", {"methods": ["attention-transfer"]})
    terms = run.stages[0]["history"][-1]["terms"]
    assert set(terms) == {"student.task", "student.attention-transfer.attention"}
    assert terms["student.attention-transfer.attention"] > 0


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_gradients_teach_too(variant: str, tmp_path: Path) -> None:
    settings = {"by": "gradient", "variant": variant, "beta": 1.0}
    run, student = taught("CNN from CNN", tmp_path / "run", {"methods": [{"attention-transfer": settings}]})
    assert run.stages[0]["history"][-1]["terms"]["student.attention-transfer.gradient"] > 0
    # One pass a batch: what the gradients need moves no statistic a second time.
    counts = [value for name, value in student.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {2}


@pytest.mark.parametrize(
    ("pairing", "settings", "changes", "says"),
    [
        ("shallow from deep Transformer", {"by": "gradient"}, {}, "need a tensor of floats; word-language has none"),
        ("CNN from CNN", {"by": "gradient"}, {"data": {"labels": False}}, "need labels"),
        ("shallow from deep Transformer", {"layer_map": "one-to-one"}, {}, "has 2 stages and the teacher 4; say skip"),
        ("CNN from CNN", {"layers": {"linear": "linear"}}, {}, "meet at a single position"),
    ],
)
def test_where_it_does_not_apply(
    pairing: str, settings: dict[str, Any], changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match=says):
        taught(pairing, tmp_path / "run", {"methods": [{"attention-transfer": settings}], **changes})
