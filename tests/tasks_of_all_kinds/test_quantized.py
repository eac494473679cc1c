"""Tasks of many kinds, each with its net quantized: levels, inputs, what stays float, and what the artifact gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tasks_of_all_kinds import generation
from tests.tasks_of_all_kinds.made import run
from tests.tasks_of_all_kinds.test_tasks import KINDS
from torch import Tensor, nn

from condensery import Run
from condensery.nets import attached
from condensery.tasks import tensors_in

ALL = [*KINDS, "generation"]
EMBEDDINGS = {"gpt2": ("wte", "wpe"), "llama": ("embed_tokens",)}
COUNTS = (2, 2, 9, 15, 4, 3, 2, 2)
LAYERS = dict(zip(ALL, COUNTS, strict=True))
"""How many layers of each net have matrices, without embeddings; an LSTM is one."""


def quantized(line: str, kind: str, folder: Path) -> tuple[Mapping[str, Any], nn.Module, Run]:
    """Quantize a net of a kind; returns what the stage came to, the net that was loaded, and the run."""
    if kind == "generation":
        more = {"methods": {"adversary": generation.Adversary}, "models": {"critic": generation.build_critic}}
        report, net, job = run(f"{line} + adversary", generation.Generation, generation.build, folder, **more)
    else:
        report, net, job = run(line, *KINDS[kind], folder)
    assert not report["collapsed"]
    return report["stages"][-1], net, job


def matrices(net: nn.Module, kind: str) -> dict[str, Tensor]:
    """Return what every quantizer is to reach, by name."""
    embeddings = EMBEDDINGS.get(kind, ())
    return {n: p for n, p in net.named_parameters() if p.dim() > 1 and n.split(".")[-2] not in embeddings}


def answers_are_kept(net: nn.Module, job: Run) -> bool:
    """Tell whether the loaded net gives the baked net's outputs, bit for bit; these differ among themselves."""
    assert job.baked is not None
    batch = next(job.task.batches("test", batch_size=4))
    with torch.no_grad():
        mine, theirs = (tensors_in(job.task.outputs(one.eval(), batch)) for one in (job.baked.net, net))
    assert all(bool(t.isfinite().all()) for t in mine)
    assert len(mine[0].unique()) > 1  # type: ignore[no-untyped-call]
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_each_kinds_weights_and_inputs_are_on_levels(kind: str, tmp_path: Path) -> None:
    """Three bits: at most 8 values in each matrix, and in what each layer reads, be it packed or one of several."""
    stage, net, job = quantized("lsq(weight_bits=3, activation_bits=3, edge_bits=3)", kind, tmp_path / "o")
    reached = matrices(net, kind)
    assert all(2 <= len(p.unique()) <= 8 for p in reached.values())  # type: ignore[no-untyped-call]
    assert answers_are_kept(net, job)

    sizes = {n: p.numel() for n, p in job.builder.net(job.recipe.model).module.named_parameters()}
    whole = sum(sizes.values())
    assert stage["report"]["lsq.reached_percent"] == pytest.approx(100 * sum(sizes[n] for n in reached) / whole)
    left = {n: 100 * size / whole for n, size in sizes.items() if n.split(".")[-2] in EMBEDDINGS.get(kind, ())}
    assert stage.get("missed", {}) == pytest.approx(left, abs=0.01)

    sites = [item.target.removesuffix(":input") for item in attached(net)]
    assert len(sites) == LAYERS[kind]
    read: dict[str, Tensor] = {}
    for path in sites:
        stack = net.get_submodule(f"{path}.condensery_input")
        stack.register_forward_hook(lambda module, args, out, path=path: read.update({path: out}))
    with torch.no_grad():
        job.task.outputs(net, next(job.task.batches("test", batch_size=4)))
    assert set(read) == set(sites)
    assert all(2 <= len(values.unique()) <= 8 for values in read.values())  # type: ignore[no-untyped-call]
    assert "left_out" not in stage


@pytest.mark.parametrize("kind", ALL)
def test_each_kinds_weights_share_values(kind: str, tmp_path: Path) -> None:
    """Pruned to half, then two bits: three centers a matrix and the zero."""
    line = "magnitude(sparsity=0.5, scope=local) -> kmeans-sharing(bits=2)"
    if kind == "generation":
        line = line.replace(" ->", " + adversary ->")
    stage, net, job = quantized(line, kind, tmp_path / "o")
    reached = matrices(net, kind)
    for values in reached.values():
        levels = values.unique()  # type: ignore[no-untyped-call]
        assert 2 <= len(levels) <= 4
        assert bool((levels == 0).any())
        assert float((values == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert stage["report"]["kmeans-sharing.centers_count"] == 3 * len(reached)
    assert answers_are_kept(net, job)


@pytest.mark.parametrize("kind", ALL)
def test_each_kinds_layers_compute_in_whole_numbers(kind: str, tmp_path: Path) -> None:
    """All but the LSTM, which is named with its share."""
    stage, net, job = quantized("jacob-integer-only(weight_bits=4, edge_bits=4)", kind, tmp_path / "o")
    codes = {n: b for n, b in net.named_buffers() if n.endswith("codes")}
    lstm = kind == "frames"
    assert len(codes) == LAYERS[kind] - lstm
    assert all(2 <= len(b.unique()) <= 15 for b in codes.values())  # type: ignore[no-untyped-call]
    assert stage["report"]["jacob-integer-only.float_layers_count"] == lstm

    fresh = {n: p.numel() for n, p in job.builder.net(job.recipe.model).module.named_parameters()}
    named = ("lstm", *EMBEDDINGS.get(kind, ()))
    left = {n: 100 * size / sum(fresh.values()) for n, size in fresh.items() if n.split(".")[-2] in named}
    left = {n: share for n, share in left.items() if "bias" not in n}
    assert stage.get("missed", {}) == pytest.approx(left, abs=0.01)
    assert answers_are_kept(net, job)
