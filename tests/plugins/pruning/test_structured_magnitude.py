from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from condensery import NotApplicable, Registry, Run
from condensery.recipe import parse_recipe
from condensery.run import Progress
from condensery.storage import open_artifact
from condensery.tasks import Batch

torch.set_num_threads(1)
REGISTRY = Registry.open()
VIT = {"model": {"key": "vit", "dim": 24, "depth": 4, "patch_size": 4}, "task": "digits"}
BERT = {"model": {"key": "transformer", "hidden": 24, "depth": 4}, "task": "word-language"}
LLAMA = {
    "model": {
        "key": "hf/llama",
        "hidden_size": 32,
        "depth": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 20,
    },
    "task": "word-language",
}


def run(base: dict[str, Any], out: Path, *stages: dict[str, Any], **settings: Any) -> Run:
    data = {
        **base,
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}},
        "stages": [*stages, {"name": "cut", "methods": [{"structured-magnitude": settings}]}],
    }
    job = Run(parse_recipe(json.loads(json.dumps(data))), REGISTRY, out=out, device="cpu", show=Progress(quiet=True))
    job.execute()
    return job


@pytest.mark.parametrize("base", [VIT, BERT], ids=["vit", "bert"])
@pytest.mark.parametrize(
    ("granularity", "percent"),
    [("head", 100 * 3 / 12), ("head-dim", 25.0), ("neuron", 25.0), ("layer", 25.0)],
)
def test_a_quarter_of_each_kind(base: dict[str, Any], granularity: str, percent: float, tmp_path: Path) -> None:
    out = tmp_path / "o"
    job = run(base, out, granularity=granularity, ratio=0.25)
    report = job.stages[-1]["report"]
    assert report["structured-magnitude.units_removed_percent"] == pytest.approx(percent)
    assert 1 < report["structured-magnitude.parameters_removed_percent"] < 30
    assert 0 <= report["structured-magnitude.largest_difference_ratio"] < 1e-5
    assert job.baked is not None
    inputs = job.task.example(3)
    with torch.no_grad():
        mine = job.task.outputs(job.baked.net.eval(), Batch(inputs))
        assert torch.equal(
            job.task.outputs(open_artifact(out / "artifact.safetensors", REGISTRY).net, Batch(inputs)), mine
        )


def test_after_a_stage_that_left_masks(tmp_path: Path) -> None:
    """Masks are cut with the weights, and hold through what follows."""
    first = {"name": "first", "methods": [{"magnitude": {"sparsity": 0.5}}]}
    job = run(VIT, tmp_path / "o", first, granularity="head", criterion="l2", scope="local", ratio=0.34)
    net = job.baked.net  # type: ignore[union-attr]
    rows = net.get_parameter("blocks.0.attn.qkv.weight")
    assert rows.shape == (3 * 2 * 8, 24)
    assert 0.2 < float((rows == 0).float().mean()) < 0.8


@pytest.mark.parametrize("granularity", ["head", "head-dim"])
def test_grouped_queries_and_rotary_pairs(granularity: str, tmp_path: Path) -> None:
    job = run(LLAMA, tmp_path / "o", granularity=granularity, ratio=0.5, scope="local")
    net = job.baked.net  # type: ignore[union-attr]
    attention: Any = net.get_submodule("model.layers.0.self_attn")
    if granularity == "head":
        assert (attention.q_proj.out_features, attention.k_proj.out_features) == (16, 8)
    else:
        assert (attention.head_dim, net.get_buffer("model.rotary_emb.inv_freq").numel()) == (4, 2)


def test_not_on_a_net_without_attention(tmp_path: Path) -> None:
    base = {"model": {"key": "resnet8", "width": 0.5}, "task": "digits"}
    for granularity, what in (("head", "attention"), ("neuron", "MLP"), ("layer", "layer")):
        with pytest.raises(NotApplicable, match=f"the net has no {what} of a known class"):
            run(base, tmp_path / granularity, granularity=granularity)
