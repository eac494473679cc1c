"""Nets that were cut are rebuilt from a fresh one without any difference, exported, and trained."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.attention.zoo import BUILDERS, CLASSES, composite, example, forward, fresh, logits
from torch import nn

from condensery import Registry
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.storage import bake, load_tensors, open_artifact, restructure, save_artifact, structure_of, tensors_of
from condensery.surgery import apply
from condensery.surgery.attention import Anatomy, modes, set_mode
from condensery.tasks import TaskFacts

REGISTRY = Registry.open()
SLOW = ("timm-mobilevit", "timm-efficientformer")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in BUILDERS])
def test_rebuilt_without_any_difference(name: str) -> None:
    net = composite(name)
    data = json.loads(json.dumps(structure_of(net, fresh(name, 1), REGISTRY).dump()))
    again = restructure(fresh(name, 2), data, REGISTRY, "here")
    load_tensors(again, tensors_of(net), "here")
    for mode in modes(net):
        set_mode(net, mode)
        set_mode(again, mode)
        assert torch.equal(logits(name, again), logits(name, net))
    net.train()
    forward(net, example(name)).square().mean().backward()  # type: ignore[no-untyped-call]
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert all("pooler" in n or "mask_token" in n for n in unused), unused


@pytest.mark.parametrize("name", ["timm-vit", "timm-swin", "hf-bert", "hf-vit"])
def test_exported(name: str) -> None:
    net = composite(name)
    inputs = example(name)
    args, kwargs = ((inputs,), {}) if isinstance(inputs, torch.Tensor) else ((), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, args, kwargs, strict=False).module()
    out = program(*args, **kwargs)
    got = out if isinstance(out, torch.Tensor) else out.logits
    assert (got - logits(name, net)).abs().max() < 1e-5


IMAGES = TaskFacts("image", 5, channels=3, size=32)
WORDS = TaskFacts("text", 5, vocabulary=40, length=9)
SMALL = {"hidden_size": 24, "depth": 2, "num_attention_heads": 3, "intermediate_size": 20}
GROUPED = SMALL | {"hidden_size": 32, "depth": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
ARTIFACTS: list[tuple[TaskFacts, dict[str, Any]]] = [
    (IMAGES, {"key": "timm/vit_tiny_patch16_224", "depth": 3}),
    (IMAGES, {"key": "timm/deit_tiny_distilled_patch16_224", "depth": 2}),
    *[(WORDS, {"key": key, **SMALL}) for key in ("hf/bert", "hf/roberta", "hf/electra")],
    *[(WORDS, {"key": key, **GROUPED}) for key in ("hf/llama", "hf/mistral", "hf/qwen2")],
]


def run(net: nn.Module, inputs: Any) -> torch.Tensor:
    out = net(**inputs) if isinstance(inputs, dict) else net(inputs)
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize(("facts", "spec"), ARTIFACTS, ids=lambda v: v["key"] if isinstance(v, dict) else "")
def test_an_artifact_of_a_cut_net_loads(facts: TaskFacts, spec: dict[str, Any], tmp_path: Path) -> None:
    model = ModelSpec.model_validate(spec)
    net = build_net(model, facts, REGISTRY, 0).eval()
    inputs: Any = torch.randn(2, 3, 32, 32)
    if facts.kind == "text":
        inputs = {"input_ids": torch.randint(1, 40, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}

    def anatomy() -> Anatomy:
        return Anatomy(net, CLASSES, inputs, run)

    half = anatomy().heads()[0].dims // 2
    apply(anatomy().remove_head_dims({h.path: [1, 1 + half] for h in anatomy().heads()}), net)
    # Every second of the query heads where they share keys, so that as many go from each group.
    apply(anatomy().remove_heads({h.path: range(0, h.heads, 2) for h in anatomy().heads()}), net)
    apply(anatomy().remove_layers([anatomy().layers()[0].path]), net)
    path = tmp_path / "net.safetensors"
    save_artifact(path, bake(net, REGISTRY), model, facts, REGISTRY)
    again = open_artifact(path, REGISTRY).net
    with torch.no_grad():
        assert torch.equal(run(again, inputs), run(net, inputs))
