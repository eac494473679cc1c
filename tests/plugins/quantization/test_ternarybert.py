"""Ternary Transformers that learn what their float net does inside: levels, gradients, distances, storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import nn

from condensery import NotApplicable, Stage, UsageError, load
from condensery.contract import build_method
from condensery.nets import Coding, Dense, attached, clone
from condensery.recipe import parse_recipe
from condensery.run import Player
from condensery.storage import Source, decode
from condensery.surgery.attention import KnownClasses
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.dynamic_range import DynamicRange
from condensery_plugins.quantization.signs import best_threshold
from condensery_plugins.quantization.ternarybert import (
    BoundedTernary,
    LossAwareTernary,
    TernaryBERT,
    distance,
    unmasked,
)

TABLES = (nn.Embedding,)


def gradient(transform: Any, *numbers: float) -> tuple[list[float], list[float]]:
    """Return what a transform makes of some numbers, in float64, and the gradient of its sum by them."""
    value = torch.tensor([numbers], dtype=torch.float64, requires_grad=True)
    out = transform(value)
    out.sum().backward()
    assert value.grad is not None
    return out[0].tolist(), value.grad[0].tolist()


def test_what_is_beyond_the_limit_counts_as_the_limit_and_gets_no_gradient() -> None:
    """3, -2.5, 0.5, 1 are cut off to 2.5, -2.5, 0.5, 1, mean size 1.625, threshold 1.1375: two stay, at 2.5.

    The ends, at 2.5 exactly, have no gradient either.
    """
    assert gradient(BoundedTernary(), 3.0, -2.5, 0.5, 1.0) == ([2.5, -2.5, 0, 0], [0, 0, 1, 1])


def test_each_word_has_its_own_scale() -> None:
    """Rows 0.1, 0.1, -0.4 and 0, 0, 0: the threshold 0.14 leaves 0.4; a word of zeros, as for padding, stays."""
    table = torch.tensor([[0.1, 0.1, -0.4], [0, 0, 0], [1, -1, 1]])
    assert BoundedTernary(0)(table).tolist() == [[0, 0, pytest.approx(-0.4)], [0, 0, 0], [1, -1, 1]]


def test_the_loss_aware_threshold_by_hand() -> None:
    """Sizes 2, 1 with curvatures 1, 9: keeping one wins 4/1, both (2 + 9)^2 / 10 = 12.1: the scale is 1.1.

    With curvatures 9, 1 keeping one wins 36, both (18 + 1)^2 / 10 = 36.1: 1.9; with 10, 1 one wins 40 against 40.09.
    Equal curvatures: 4 against 9/2. Gradients pass.
    """
    made = LossAwareTernary([1, 2])
    assert gradient(made, 2.0, -1.0) == ([1.5, -1.5], [1, 1])
    made.follow(torch.tensor([[1.0, 81.0]]))  # Adam's second moment, whose root counts
    assert gradient(made, 2.0, -1.0)[0] == pytest.approx([1.1, -1.1])
    made.follow(torch.tensor([[81.0, 1.0]]))
    assert gradient(made, 2.0, -1.0)[0] == pytest.approx([1.9, -1.9])
    made.follow(torch.tensor([[1e6, 1.0]]))
    assert gradient(made, 2.0, -0.1)[0] == pytest.approx([2.0, 0], abs=1e-3)
    made.follow(torch.zeros(1, 2))  # no gradient yet
    assert gradient(made, 2.0, -1.0)[0] == pytest.approx([1.5, -1.5])


def test_the_weighted_threshold_is_the_best_of_all_choices() -> None:
    """Against every set of weights that may stay, in float64."""
    torch.manual_seed(0)
    for _ in range(20):
        w, d = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
        limit = best_threshold(w.abs()[None], d[None])[0]
        errors = {}
        for chosen in range(1, 2**6):
            kept = torch.tensor([bool(chosen >> bit & 1) for bit in range(6)])
            scale = (d * w.abs())[kept].sum() / d[kept].sum()
            errors[chosen] = float((d * (w - w.sign() * kept * scale).square()).sum())
        mine = sum(2**bit for bit in range(6) if w.abs()[bit] >= limit)
        assert errors[mine] == pytest.approx(min(errors.values()))


def test_ranges_by_hand() -> None:
    """Of 2 bits: from -1 to 2 four levels a step of 1 apart; -0.4 goes to 0. Symmetric: -2.5, 0 and 2.5.

    3 is cut off to 2.5, so that the other range is -1 to 2.5 and the step 3.5 / 3.
    """
    assert gradient(DynamicRange(2), -1.0, -0.4, 0.6, 2.0) == ([-1, 0, 1, 2], [1, 1, 1, 1])
    assert gradient(DynamicRange(2, symmetric=True), -1.0, 3.0, 1.3) == ([0, 2.5, 2.5], [1, 0, 1])
    assert gradient(DynamicRange(2), -1.0, 3.0) == ([-1, 2.5], [1, 0])
    rows = torch.tensor([[1.0, 0.4], [0.0, 0.0], [-0.2, 0.05]])
    found = DynamicRange(2, symmetric=True, by_row=True)(rows)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0], [0, 0], [-0.2, 0]]))


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_constant_is_exact_and_zeros_stay(symmetric: bool) -> None:
    for number in (0.0, -0.7):
        assert gradient(DynamicRange(8, symmetric), number, number)[0] == pytest.approx([number, number])


def test_weights_of_eight_bits_are_stored_in_eight() -> None:
    torch.manual_seed(0)
    for made in (DynamicRange(8, symmetric=True), DynamicRange(8, symmetric=True, by_row=True)):
        final = made(torch.randn(6, 50))
        coding = made.code(Coding(Dense.of(final)), final)
        record, data = coding.encode(final)
        torch.testing.assert_close(decode(record, Source(torch.cat(data), "test"), REGISTRY), final, rtol=1e-6, atol=0)
        assert coding.cost(final).payload == 300


def test_masked_scores_have_no_part_in_the_distance() -> None:
    """Scores 1, -10000 against 3, -9000: (1 - 3)^2 / 2 = 2, the masked entry counting as a zero among the numbers."""
    mine, theirs = torch.tensor([1.0, -10000.0]), torch.tensor([3.0, -9000.0])
    assert float(distance([(unmasked(mine), unmasked(theirs))])) == 2
    masked = torch.tensor([1.0, float("-inf")], requires_grad=True)
    distance([(unmasked(masked), unmasked(theirs)), (masked[:1], theirs[:1])]).backward()  # type: ignore[no-untyped-call]
    assert masked.grad is not None
    assert masked.grad.tolist() == [-2 - 4, 0]


# ---------------------------------------------------------------------------- the method


def taught(**config: Any) -> Stage:
    """Return a stage on a small Transformer that has a copy of itself as teacher."""
    stage = stage_of("transformer", "word-language", **{"hidden": 24, "depth": 2, **config})
    stage.players["teacher"] = Player("teacher", clone(stage.student.module), spec=stage.student.spec)
    stage.classes = KnownClasses(REGISTRY)
    return stage


def test_what_is_quantized_and_what_stays_float() -> None:
    stage = taught()
    method = TernaryBERT()
    method.prepare(stage=stage)
    found = {a.target: a.transform for a in attached(stage.student.module)}

    weights = {target: t for target, t in found.items() if ":" not in target}
    tables = [target for target in weights if "embeddings" in target]
    assert tables == ["bert.embeddings.word_embeddings.weight"]
    assert weights[tables[0]].config() == {"axis": 0}
    assert "bert.pooler.dense.weight" in weights
    assert "classifier.weight" not in weights
    assert len(weights) == 1 + 2 * 6 + 1
    assert all(len(torch.unique(w.value)) == 3 for w in stage.weights() if w.path != "classifier")

    outputs = {target for target in found if target.endswith(":output")}
    attention = "bert.encoder.layer.0.attention.self"
    assert {f"{attention}.{name}:output" for name in ("query", "key", "value")} <= outputs
    assert len(outputs) == 6
    assert len([t for t in found if t.endswith(":input")]) == 13
    assert "no module calls" in stage.left_out[f"{attention}:probabilities"]


def test_terms_by_the_definition_and_their_factors() -> None:
    """From the taps of both nets: the output of the embeddings and of two layers, two maps of scores, the outputs."""
    stage = taught()
    method = TernaryBERT(hidden=2.0, attention=3.0, logits=0.5)
    method.prepare(stage=stage)
    outputs = stage.play(stage.sample(4)[0])
    mine, theirs = outputs["student"], outputs["teacher"]
    terms = method.loss_terms(stage=stage, outputs=outputs, player=stage.student)

    layers = [f"bert.encoder.layer.{number}" for number in (0, 1)]
    hidden = sum((mine.taps[p] - theirs.taps[p]).square().mean() for p in (*layers, f"{layers[0]}:input"))
    assert hidden > 0
    torch.testing.assert_close(terms["hidden"], 2 * hidden)
    scores = 0.0
    for one, other in zip(mine.taps["scores"], theirs.taps["scores"], strict=True):
        alive = other > -1e3
        assert 0 < alive.float().mean() < 1  # words are shorter than the rows
        scores += float((one - other)[alive].square().sum()) / one.numel()
    assert float(terms["attention"]) == pytest.approx(3 * scores, rel=1e-5)
    p, log_q = theirs.rows.softmax(1), mine.rows.log_softmax(1)
    torch.testing.assert_close(terms["logits"], 0.5 * (p * (p.log() - log_q)).sum(1).mean())

    assert set(TernaryBERT(hidden=0, attention=0).loss_terms(stage=stage, outputs=outputs, player=stage.student)) == {
        "logits"
    }
    assert method.task_weight() == 0


def recipe(optimizer: str, **settings: Any) -> Any:
    return parse_recipe(
        {
            "model": {"key": "transformer", "hidden": 24, "depth": 1},
            "task": "word-language",
            "base": "none",
            "data": {"subset": {"size": 64}},
            "train": {"epochs": 1, "batch_size": 32, "optimizer": {"name": optimizer, "lr": 0.001}},
            "stages": [{"methods": [{"ternarybert": settings}], "teacher": "original"}],
        }
    )


def test_curvatures_follow_adam() -> None:
    """After a step the curvature is the root of the second moment, (1 - 0.999) g^2, and zero where no word was seen.

    Nearly: Adam's divisor has 1e-8 more.
    """
    stage = taught()
    method = TernaryBERT(weights="lat")
    method.prepare(stage=stage)
    weights = [*stage.weights(), *stage.weights(kinds=TABLES)]
    gradients = {weight.name: torch.randn_like(weight.latent) for weight in weights}
    words = "bert.embeddings.word_embeddings.weight"
    gradients[words][3] = 0

    stage.student.optimizer = torch.optim.AdamW([weight.latent for weight in weights])
    for weight in weights:
        weight.latent.grad = gradients[weight.name].clone()
    stage.student.optimizer.step()
    method.after_step(stage=stage, player=stage.student)

    found = {a.target: a.transform for a in attached(stage.student.module) if ":" not in a.target}
    assert len(found) == 1 + 2 * 6 + 1
    for target, own in found.items():
        assert isinstance(own, LossAwareTernary)
        torch.testing.assert_close(own.curvature, 0.001**0.5 * gradients[target].abs() + 1e-8, rtol=1e-4, atol=1e-9)
    table = found[words]
    assert isinstance(table, LossAwareTernary)
    assert table.curvature[3].tolist() == pytest.approx([1e-8] * 24)


def test_the_artifact_is_ternary(tmp_path: Path) -> None:
    done = play(recipe("adamw", weights="lat"), REGISTRY, tmp_path)
    check_artifact(done, REGISTRY)
    net = load(done.folder / "artifact.safetensors")
    assert len(torch.unique(net.get_parameter("bert.pooler.dense.weight"))) == 3
    table = net.get_parameter("bert.embeddings.word_embeddings.weight")
    assert max(len(torch.unique(row)) for row in table) == 3
    assert len(torch.unique(table)) > 10


def test_lat_wants_adams_kind(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="lat needs Adam's second moment"):
        play(recipe("sgd", weights="lat"), REGISTRY, tmp_path)


def test_a_net_without_words_is_refused() -> None:
    stage = stage_of("vit", dim=24, depth=1, patch_size=4)
    stage.players["teacher"] = Player("teacher", clone(stage.student.module), spec=stage.student.spec)
    with pytest.raises(NotApplicable, match="is no table of embeddings"):
        TernaryBERT().prepare(stage=stage)


def test_a_teacher_with_other_layers_is_refused() -> None:
    stage = taught()
    stage.players["teacher"] = Player("teacher", taught(depth=3).student.module, spec=stage.student.spec)
    with pytest.raises(NotApplicable, match="one-to-one: the student has 2 stages and the teacher 3"):
        TernaryBERT().prepare(stage=stage)


@pytest.mark.parametrize("bits", [0, 33])
def test_other_widths_are_refused_in_one_line(bits: int) -> None:
    with pytest.raises(UsageError, match=rf"ternarybert\.activation_bits must be >= 2 and <= 8, got {bits}"):
        build_method("ternarybert", TernaryBERT, {"activation_bits": bits}, REGISTRY.card("ternarybert"))
