"""Nets that a user brings: what comes out, what is refused, and that nothing of theirs is touched."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.front.nets import SIDE, Once, Plain, loaders
from tests.tasks_of_all_kinds.detector import AveragePrecision, Detection, Detector
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import condensery
from condensery import CondenseryError, Result, UsageError
from condensery.errors import NonFiniteNet
from condensery.run import Observer
from condensery.tasks import Metric, given_task


@pytest.fixture(scope="module")
def pruned() -> tuple[Plain, Mapping[str, Tensor], Result, list[dict[str, Any]]]:
    """A net, what it held before, the result of slimming and distilling it, and what an observer was told."""
    net = Plain()
    seen: list[dict[str, Any]] = []
    held = {name: value.clone() for name, value in net.state_dict().items()}
    train, test = loaders()
    line = "network-slimming(ratio=0.25) -> hinton-kd"
    result = condensery.compress(net, line, train=train, test=test, epochs=2, observer=seen.append, quiet=True)
    return net, held, result, seen


def test_a_net_comes_back_smaller(pruned: Any) -> None:
    net, held, result, _ = pruned
    assert all(torch.equal(held[name], value) for name, value in net.state_dict().items())  # nothing of theirs moved
    assert net.training
    assert net.body[0].out_channels == 8

    left = result.net.body[0].out_channels + result.net.body[3].out_channels
    assert left == 18  # three quarters of 8 + 16
    assert type(result.net) is Plain
    assert result.report["after"]["parameters"] < result.report["before"]["parameters"]


def test_it_trains_on_the_loaders_own_batches(pruned: Any) -> None:
    *_, seen = pruned
    assert [(e["stage"], e["epoch"], e["steps"]) for e in seen] == [
        ("network-slimming", 1, 3), ("network-slimming", 2, 6), ("hinton-kd", 1, 3), ("hinton-kd", 2, 6),
    ]  # fmt: skip
    assert seen[-1]["student.task"] > 0
    assert seen[-1]["student.hinton-kd.kd"] >= 0


def test_it_is_printed_as_a_table(pruned: Any) -> None:
    *_, result, _ = pruned
    assert "parameters" in str(result)
    assert max(map(len, str(result).splitlines())) <= 80
    assert result._repr_html_().count("<tr>") == len(result._repr_html_().split("</tr>")) - 1 > 8


def test_what_was_saved_goes_into_a_net_like_it(pruned: Any, tmp_path: Path) -> None:
    _, _, result, _ = pruned
    path = result.save(tmp_path / "net.safetensors")
    like = Plain(seed=9)
    held = copy.deepcopy(like.state_dict())
    again = condensery.load(path, into=like)

    images = torch.randn(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(images), result.net(images))
    assert torch.isfinite(again(images)).all()
    assert all(torch.equal(held[name], value) for name, value in like.state_dict().items())

    with pytest.raises(UsageError, match="its layers, shapes or types of numbers are others"):
        condensery.load(path, into=nn.Linear(2, 2))
    with pytest.raises(CondenseryError, match=r"condensery.load\(path, into=net\)"):
        condensery.load(path)


class Stop(Observer):
    """Stops a run as Ctrl-C does, after its second epoch."""

    def epoch_ended(self, stage: Any, history: Any) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """The loader shuffles and draws noise, so that each of its draws must depend on the seed alone."""
    line = "magnitude(sparsity=0.5, steps=3)"

    def run(out: Path, **more: Any) -> Result:
        train, test = loaders()
        torch.manual_seed(len(out.name))  # what the caller has drawn before changes nothing
        return condensery.compress(Plain(), line, train=train, test=test, epochs=3, quiet=True, out=out, **more)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", observer=Stop())
    resumed = run(tmp_path / "stopped", resume=True)

    assert whole.report["after"]["nonzeros"] > 0
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    again: dict[str, Any] = {"epochs": 3, "out": tmp_path / "stopped", "resume": True, "quiet": True}
    with pytest.raises(UsageError, match="another recipe"):
        condensery.compress(Plain(seed=1), line, train=loaders()[0], **again)


def test_the_callers_own_draws_go_on_as_if_nothing_had_been_drawn() -> None:
    train, _ = loaders()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(condensery.tasks.drawn_apart(lambda: iter(train), 7))
    assert torch.equal(torch.rand(2), expected)


def test_data_are_looked_at_once_however_often_the_task_is_built() -> None:
    passes: list[int] = []

    class Batches(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            passes.append(1)
            return super().__iter__()

    train, _ = loaders()
    made = given_task({"train": Batches(train)}, Plain())
    passes.clear()
    assert [made().count("train"), made().largest, made().example().shape[0]] == [60, 20, 2]
    assert len(passes) == 1  # a list doesn't say how many examples its batches have


def test_a_batch_size_below_the_loaders_plays_parts() -> None:
    train, test = loaders(examples=50, batch_size=20)  # batches of 20, 20 and 10: parts of 8 make 3 + 3 + 2
    seen: list[dict[str, Any]] = []
    settings = {"batch_size": 8}
    condensery.compress(
        Plain(), "magnitude", train=train, test=test, train_settings=settings, observer=seen.append, quiet=True
    )
    assert seen[0]["steps"] == 8
    with pytest.raises(UsageError, match="batch_size 128, but the training data come in batches of 20"):
        condensery.compress(Plain(), "magnitude", train=train, train_settings={"batch_size": 128}, quiet=True)


@pytest.mark.parametrize("line", ["magnitude", "obd(hessian=identity)", "l1-filter-pruning", "thinet", "lsq"])
def test_a_net_that_comes_in_broken_is_refused_before_a_method_hides_it(line: str) -> None:
    """Without test data nothing is measured, and pruning would take what is no number for the smallest weight."""
    net = Plain()
    name, weight = next((name, p) for name, p in net.named_parameters() if p.dim() > 1)
    with torch.no_grad():
        weight.flatten()[0] = float("nan")
    with pytest.raises(NonFiniteNet, match=f"^{name} of the net that comes in is not finite"):
        condensery.compress(net, line, train=loaders()[0], quiet=True)


def test_statistics_that_are_no_numbers_are_refused_and_a_mask_may_be_infinite() -> None:
    net = Plain()
    net.register_buffer("mask", torch.full((3,), float("-inf")))
    condensery.compress(net, "magnitude", train=loaders()[0], quiet=True)
    net.get_submodule("body.1").running_var[0] = float("nan")  # type: ignore[operator]
    with pytest.raises(NonFiniteNet, match=r"^body.1.running_var of the net that comes in is not finite"):
        condensery.compress(net, "magnitude", train=loaders()[0], quiet=True)


# ------------------------------------------------------------------ other kinds of nets and data


def test_a_vision_transformer_of_timm() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIDE,
        patch_size=4,
        in_chans=1,
        num_classes=3,
        embed_dim=24,
        depth=2,
        num_heads=3,
    )
    train, test = loaders()
    result = condensery.compress(net, "lsq(weight_bits=4)", train=train, test=test, quiet=True)
    assert result.report["ratios"]["compression_rate"] > 2
    assert 0 <= result.report["after"]["quality"]["accuracy"] <= 100


def test_a_classifier_of_hugging_face_with_batches_that_are_mappings() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=2,
        max_position_embeddings=12,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.BertForSequenceClassification(config)
    ids = torch.randint(1, 30, (16, 10))
    batches = [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[:, 0] % 2} for i in torch.split(ids, 4)
    ]
    result = condensery.compress(net, "magnitude(sparsity=0.5)", train=batches, test=batches, quiet=True)
    assert type(result.net) is transformers.BertForSequenceClassification
    assert result.report["after"]["quality"]["errors"] <= 16
    assert result.report["after"]["nonzeros"] < 0.7 * result.report["before"]["nonzeros"]


def test_a_detector_with_a_list_of_labels() -> None:
    """As torchvision's collating gives it: a tuple of images and a tuple of mappings."""
    task, images, torch_batches = Detection(), [], []
    for batch in task.batches("train", batch_size=6):
        images.append(batch.inputs)
        torch_batches.append((batch.inputs, tuple(batch.labels)))

    def loss(outputs: Any, labels: Any) -> Tensor:
        found = task.loss(outputs, condensery.Batch(None, labels))
        assert found is not None
        return found

    def ap(outputs: Any, labels: Any) -> float:
        meter = AveragePrecision()
        meter.update(outputs, condensery.Batch(None, labels))
        return meter.compute()["ap50"]

    torch.manual_seed(0)
    result = condensery.compress(
        Detector(1, 3), "kmeans-sharing(bits=4)", train=torch_batches, test=torch_batches, loss=loss, quiet=True,
        metrics={"ap50": ap, Metric("distance", "", False): loss}, rows=lambda o, labels: o["logits"].flatten(0, 1),
    )  # fmt: skip
    assert set(result.report["after"]["quality"]) == {"ap50", "distance"}
    assert result.report["ratios"]["compression_rate"] > 2


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (Once(), "an iterator ends after one epoch"),
        ([], "give no batch"),
        ([(torch.zeros(2, 1, SIDE, SIDE),)], "a pair of inputs and labels.*a tuple of 1"),
        (["ab"], "a pair|neither a tensor"),
        (None, "train: give a DataLoader, or a list of batches, not None"),
        (loaders, "train: give a DataLoader, or a list of batches, not "),
    ],
)
def test_data_that_are_none(train: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        condensery.compress(Plain(), "magnitude", train=train, quiet=True)


class Fewer:
    """Gives a batch less each time that it is gone through, down to none."""

    def __init__(self, batches: Any) -> None:
        self.left = list(batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self.left
        self.left = self.left[:-1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_pass_over_less_than_the_pass_before_is_an_error(split: str) -> None:
    """Figures of half of the examples, or of none, would be compared with those of all."""
    data: dict[str, Any] = dict(zip(("train", "test"), loaders(), strict=True))
    data[split] = Fewer(data[split])
    with pytest.raises(UsageError, match=rf"{split}: a pass ended after \d+ of \d+ examples; give data that can"):
        condensery.compress(Plain(), "magnitude", **data, epochs=3, quiet=True)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_split_without_examples_has_no_perfect_score(split: str) -> None:
    with pytest.raises(UsageError, match=f"^{split}: the data give no batch$"):
        condensery.compress(Plain(), "magnitude", train=loaders()[0], **{split: []}, quiet=True)  # type: ignore[arg-type]


def test_what_is_no_file_of_a_net(pruned: Any, tmp_path: Path) -> None:
    for path in (None, ""):
        with pytest.raises(UsageError, match=f"^give the name of a file to write, not {path!r}$"):
            pruned[2].save(path)
    for name in (None, 5, ""):
        with pytest.raises(UsageError, match=f"^give the name of an artifact's file, not {name!r}$"):
            condensery.load(name)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"^{tmp_path} is a folder; name a file$"):
        condensery.load(tmp_path)
    pruned[2].save(tmp_path / "artifact.safetensors")
    with pytest.raises(UsageError, match=f"^{tmp_path} is a folder; its artifact is {tmp_path}/artifact.safetensors$"):
        condensery.load(tmp_path)


def test_what_the_user_draws_afterwards_is_as_if_nothing_had_been_drawn() -> None:
    own = torch.Generator().manual_seed(7)
    train = DataLoader(TensorDataset(torch.randn(40, 1, SIDE, SIDE), torch.arange(40) % 3), 20, True, generator=own)
    drawn = []
    for compressing in (False, True):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        own.manual_seed(7)
        net = Plain(seed=3)
        if compressing:
            condensery.compress(net, "magnitude", train=train, quiet=True)
        drawn.append((torch.rand(1), np.random.rand(), random.random(), torch.rand(1, generator=own)))
    assert drawn[0] == drawn[1]


# ------------------------------------------------------------------ nets of unusual make


@pytest.mark.parametrize("line", ["magnitude(sparsity=0.5)", "lsq"])
def test_a_layer_that_is_called_twice(line: str, tmp_path: Path) -> None:
    """Its tensors have two names each; whatever is put on them, an artifact holds them so."""
    twice = nn.Linear(16, 16)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 16), nn.ReLU(), twice, nn.ReLU(), twice, nn.Linear(16, 3))
    train, test = loaders()
    result = condensery.compress(net, line, train=train, test=test, quiet=True, out=tmp_path / "o")
    again = condensery.load(result.artifact, into=net)
    images = next(iter(test))[0]
    assert torch.equal(again.eval()(images), result.net.eval()(images))
    assert again.get_submodule("3") is again.get_submodule("5")


def test_batches_of_nine_before_a_batch_norm_of_vectors() -> None:
    """A dry run plays eight examples at most: nine are four and five, not eight and one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    train, test = loaders(examples=54, batch_size=9)
    condensery.compress(net, "magnitude(sparsity=0.5)", train=train, test=test, quiet=True)


class Listing(nn.Module):
    """Holds a tensor in a public list."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.shift = Plain(), [torch.ones(3)]

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.plain(images) + self.shift[0] + images.new_zeros(1)
        return scores


def test_a_list_of_tensors_and_zeros_of_a_tensors_type() -> None:
    """As many MACs as without: 64 places of 9 x 8, 16 of 72 x 16, and 16 x 3."""
    train, test = loaders()
    result = condensery.compress(Listing(), "network-slimming(ratio=0.5)", train=train, test=test, quiet=True)
    assert result.report["before"]["macs"] == 64 * 9 * 8 + 16 * 72 * 16 + 16 * 3
    assert result.report["after"]["macs"] < result.report["before"]["macs"]


def test_parts_of_data_of_ones_own() -> None:
    train, _ = loaders()
    stages = [{"methods": ["magnitude"], "data": {"subset": {"without": [1]}}}]
    with pytest.raises(UsageError, match="of data of your own only a size"):
        condensery.compress(Plain(), stages, train=train, quiet=True)
