from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, recipe, registry, untouched
from torch import Tensor
from torch.nn.utils import parametrize

from condensery import Run, UsageError, hookimpl
from condensery.errors import MethodError, NonFiniteLoss
from condensery.recipe import ModelSpec, StageSpec, TrainSpec
from condensery.run import Bucket, Outputs, Player, Stage
from condensery_plugins.models import resnet
from condensery_plugins.tasks.digits import Digits


def test_a_stage_without_a_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((UsageError, MethodError), match="nothing gives it a loss"):
        Run(recipe([{"data": {"labels": False}}]), registry(), out=tmp_path / "o").execute()


def test_a_non_finite_term_is_named(tmp_path: Path) -> None:
    class Explodes(Act):
        @hookimpl
        def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
            logits = outputs["student"].rows
            return {"bang": logits.sum() * (0.0 if stage.dry or stage.step == 0 else float("inf"))}

    with pytest.raises(NonFiniteLoss, match=r"stage 's', epoch 1, step 1: student\.explodes\.bang is not finite"):
        Run(recipe([{"name": "s", "methods": ["explodes"]}]), registry(explodes=Explodes), out=tmp_path / "o").execute()


def test_the_cache_of_parametrizations_is_closed_before_the_step(tmp_path: Path) -> None:
    open_now: list[bool] = []

    class Looks(Act):
        @hookimpl
        def loss_terms(self, stage: Stage) -> None:
            open_now.append(bool(parametrize._cache_enabled))

        @hookimpl
        def after_backward(self, stage: Stage, player: Player) -> None:
            open_now.append(bool(parametrize._cache_enabled))

    Run(recipe(["lsq", "looks"]), registry(looks=Looks), out=tmp_path / "o").execute()
    assert set(open_now[::2]) == {True}
    assert set(open_now[1::2]) == {False}


@pytest.mark.parametrize(
    "look",
    [
        lambda stage: stage.sample(8),
        lambda stage: stage.record_inputs(["conv1", "layer2.0.bn1"], 8),
        lambda stage: stage.order(),
        lambda stage: stage.edges(),
    ],
    ids=["sample", "record_inputs", "order", "edges"],
)
def test_a_look_at_a_net_leaves_its_batch_statistics_and_modes(look: Callable[[Stage], object]) -> None:
    net = resnet.build(Digits().facts, "resnet8", width=0.5).train()
    net.get_submodule("layer3").eval()
    stage = Stage(StageSpec(name="s"), Digits(), TrainSpec(batch_size=4), seed=0, device=torch.device("cpu"))
    stage.players["student"] = Player("student", net, spec=ModelSpec(key="given"), trains=True)
    with untouched(net):
        assert look(stage)


def test_a_sample_is_the_same_for_each_seed() -> None:
    """And it is drawn from the data, whose first examples it isn't."""
    inputs = []
    for seed in (0, 1):
        stage = Stage(StageSpec(name="s"), Digits(), TrainSpec(batch_size=4), seed=seed, device=torch.device("cpu"))
        inputs.append(torch.cat([batch.inputs for batch in stage.sample(10)]))
    assert torch.equal(*inputs)
    first = torch.cat([batch.inputs for batch in Digits().batches("train", batch_size=10)])[:10]
    assert not torch.equal(inputs[0], first)


def test_a_method_that_asks_for_quality_looks_at_examples_that_nothing_trains_on(tmp_path: Path) -> None:
    """A tenth of the training data is held out for it; a dry run looks at eight examples and keeps no file."""
    seen: list[tuple[bool, Path | None]] = []

    class Looks(Act):
        asks_quality = True

        @hookimpl
        def prepare(self, stage: Stage) -> None:
            assert stage.held_out == 0.1
            quality = stage.quality(stage.student.module, 60)
            looked = 8 if stage.dry else 60
            assert quality["accuracy"] == pytest.approx(100 * (1 - quality["errors"] / looked))
            seen.append((stage.dry, stage.file("notes")))

    Run(recipe([{"methods": ["looks"]}]), registry(looks=Looks), out=tmp_path / "run").execute()
    assert seen == [(True, None), (False, tmp_path / "run" / "stage-0-notes")]


def test_accumulation_and_workers_average(tmp_path: Path) -> None:
    """On a net without batch statistics, micro-batches and workers give the whole batch's gradient."""

    def after(**train: Any) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        class Reads(Act):
            @hookimpl
            def after_backward(self, stage: Stage, player: Player) -> None:
                if not stage.dry and stage.step == 0:
                    seen.update({n: p.grad.clone() for n, p in player.parameters().items() if p.grad is not None})

        what = recipe([{"methods": ["reads"], "train": train}], model={"key": "mlp", "hidden": [16]})
        Run(what, registry(reads=Reads), out=tmp_path / json.dumps(train).replace(" ", "")).execute()
        return seen

    whole = after()
    for other in (after(accumulate=4), after(workers=4), after(workers=2, accumulate=2)):
        assert whole.keys() == other.keys()
        for name in whole:
            torch.testing.assert_close(whole[name], other[name], atol=1e-6, rtol=1e-4)


def test_exchange_gets_flat_buckets(tmp_path: Path) -> None:
    shapes: set[tuple[int, int]] = set()

    class Largest(Act):
        @hookimpl
        def exchange(self, stage: Stage, bucket: Bucket) -> Tensor:
            shapes.add((bucket.values.shape[0], bucket.values.dim()))
            return bucket.max(bucket.values)

    Run(
        recipe([{"methods": ["largest"], "train": {"workers": 3}}]), registry(largest=Largest), out=tmp_path / "o"
    ).execute()
    assert shapes == {(3, 2)}
