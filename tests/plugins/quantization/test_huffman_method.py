from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import Run, Stage, Weight
from condensery.nets import Coding, Dense
from condensery.recipe import parse_recipe
from condensery.storage import Source, decode
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.pruning.magnitude import Magnitude
from condensery_plugins.quantization.huffman import HuffmanCoding
from condensery_plugins.quantization.kmeans_sharing import KMeansSharing

PIPELINE = ["magnitude", "kmeans-sharing", "huffman"]


def prepared(*methods: Any) -> Stage:
    """Return a stage in which some methods have prepared an MLP 64-300-10 with normally distributed weights."""
    stage = stage_of("mlp", hidden=[300])
    with torch.no_grad():
        for weight in stage.weights():
            weight.latent.normal_(generator=torch.Generator().manual_seed(1))
    for method in methods:
        method.prepare(stage=stage)
    return stage


def coding_of(weight: Weight) -> Coding:
    coding = Coding(Dense())
    for transform in weight.stack.transforms.values() if weight.stack is not None else ():
        coding = transform.code(coding, weight.value)  # type: ignore[operator]
    return coding


def stored(weight: Weight) -> Tensor:
    """Return a weight after a round trip through its bytes; they are as many as the cost says."""
    coding = coding_of(weight)
    record, data = coding.encode(weight.value)
    assert sum(d.numel() for d in data) == coding.cost(weight.value).total
    return decode(record, Source(torch.cat(data), weight.path), REGISTRY)


def test_a_round_trip_gives_the_same_bits() -> None:
    stage = prepared(Magnitude(sparsity=0.9), KMeansSharing(bits=4), HuffmanCoding())
    for weight in stage.weights():
        assert torch.equal(stored(weight), weight.value)


def test_order_of_the_chain_is_that_of_the_paper() -> None:
    """Codes of 4 bits for the values, indices between them, and Huffman's code at the end of both."""
    stage = prepared(Magnitude(sparsity=0.8, index_bits=5), KMeansSharing(bits=4))
    first = stage.weights()[0]
    plain = coding_of(first)
    assert plain.spelled() == "palette | sparse-index(5) | bitpack(4)"
    HuffmanCoding().prepare(stage=stage)
    coded = coding_of(first)
    sparse = coded.part("codes")
    assert (coded.spelled(), sparse.part("index").spelled()) == ("palette | sparse-index(5) | huffman", "huffman")
    assert coded.cost(first.value).total < plain.cost(first.value).total


def test_bytes_by_hand() -> None:
    """Sharing alone: 19,200 codes of 3 bits are 7,200 bytes, eight float32 values are 32."""
    stage = prepared(KMeansSharing(bits=3, init="density"))
    first = stage.weights()[0]
    cost = coding_of(first).cost(first.value)
    assert (cost.payload, cost.tables) == (19200 * 3 // 8, 8 * 4)


def test_a_second_one_adds_nothing() -> None:
    stage = prepared(KMeansSharing(), HuffmanCoding(), HuffmanCoding())
    for weight in stage.weights():
        assert weight.stack is not None
        assert sum(isinstance(t, EntropyCoded) for t in weight.stack.transforms.values()) == 1


def test_values_stay_and_what_comes_later_is_coded_too() -> None:
    stage = prepared(Magnitude(sparsity=0.9), HuffmanCoding())
    before = [w.value for w in stage.weights()]
    assert all(torch.equal(w.value, b) for w, b in zip(stage.weights(), before, strict=True))
    KMeansSharing(bits=4).prepare(stage=stage)
    assert coding_of(stage.weights()[0]).spelled().endswith("huffman")
    assert not any(p.requires_grad for p in huffman_parameters(stage.student.module))


def huffman_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for m in model.modules() if isinstance(m, EntropyCoded) for p in m.parameters()]


def test_the_three_steps_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    stages = [{"methods": [m], "epochs": 0 if m == "huffman" else 2} for m in PIPELINE]
    data = {
        "model": {"key": "mlp", "hidden": [40]},
        "task": "digits",
        "base": {"epochs": 2},
        "data": {"subset": {"size": 256}},
        "train": {"batch_size": 32, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}},
        "stages": stages,
    }
    report = Run(parse_recipe(data), REGISTRY, out=tmp_path / "run", device="cpu").execute()
    assert [s["name"] for s in report["stages"]][-3:] == PIPELINE
    zeros = report["after"]["parameters"] - report["after"]["nonzeros"]
    assert zeros == (64 * 40 + 400) / 2
