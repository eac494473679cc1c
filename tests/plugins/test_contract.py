"""What every built-in method must do on every kind of net: one suite, a cell per method and net."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from condensery import Method, NotApplicable, Registry, Run, hookimpl
from condensery.checkpoint import load_tree, save_tree
from condensery.players import Player
from condensery.progress import Progress
from condensery.recipe import parse_recipe
from condensery.stage import Stage
from condensery_plugins import METHODS

NETS: dict[str, dict[str, Any]] = {
    "CNN": {"model": {"key": "resnet8", "width": 0.5}, "task": "digits"},
    "ViT": {"model": {"key": "vit", "dim": 24, "depth": 2, "patch_size": 4}, "task": "digits"},
    "Transformer": {"model": {"key": "transformer", "hidden": 24, "depth": 2}, "task": "word-language"},
}
LAST = {"name": "m", "train": {"epochs": 2}}
TEACHER: dict[str, dict[str, Any]] = {
    "hinton-kd": {"teacher": "original"},
    "prune-then-distill": {"teacher": "stage:pruned"},
}
BEFORE: dict[str, list[dict[str, Any]]] = {
    "prune-then-distill": [{"name": "pruned", "methods": ["magnitude"], "epochs": 0}],
}
NOT_APPLICABLE = {
    ("l1-filter-pruning", "ViT"): r"no convolution can lose filters; patch_embed\.proj:",
    ("l1-filter-pruning", "Transformer"): "the net has no convolution",
    ("network-slimming", "ViT"): "batch normalization",
    ("network-slimming", "Transformer"): "batch normalization",
}
NOT_TWICE = {"lsq": "lsq", "qkd": "qkd"}
"""Methods that take away what they need: a second copy is refused, naming the method."""
CELLS = [(key, net) for key, _ in METHODS for net in NETS]


@dataclasses.dataclass(eq=False, kw_only=True)
class L2Decay(Method):
    """The fixed reference method: an L2 penalty, counted."""

    strength: float = 1e-3

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        self.steps_ = 0

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, torch.Tensor]:
        return {"l2": self.strength * torch.stack([w.latent.square().sum() for w in stage.weights()]).sum()}

    @hookimpl
    def after_step(self) -> None:
        self.steps_ += 1

    @hookimpl
    def report(self) -> dict[str, float]:
        return {"steps_count": float(self.steps_)}


class Reference:
    @hookimpl
    def register_methods(self, register: Any) -> None:
        register("l2-decay", "tests.plugins.test_contract:L2Decay")


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry.open([("reference", Reference())])
    found._cache["methods", "l2-decay"] = L2Decay
    return found


def recipe(key: str, net: str, beside: tuple[str, ...] = (), **changes: Any) -> Any:
    stage = {**LAST, "methods": [key, *beside], **TEACHER.get(key, {})}
    data = {
        **NETS[net],
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}},
        "stages": [*BEFORE.get(key, []), stage],
        **changes,
    }
    return parse_recipe(json.loads(json.dumps(data)))


class Watched(Run):
    """A run that keeps its last student and hands out its progress."""

    stop_after: int | None = None
    student: nn.Module

    def _save_progress(self, stage: Stage, unit: Any, history: Any) -> None:
        super()._save_progress(stage, unit, history)
        if self.stop_after is not None and stage.name == "m" and stage.epoch + 1 == self.stop_after:
            raise KeyboardInterrupt

    def _close(self, stage: Stage) -> None:
        self.student = stage.student.module
        super()._close(stage)


def run(what: Any, registry: Registry, out: Path, *, resume: bool = False, stop_after: int | None = None) -> Watched:
    job = Watched(what, registry, out=out, device="cpu", resume=resume, show=Progress(quiet=True))
    job.stop_after = stop_after
    job.report = job.execute()  # type: ignore[attr-defined]
    return job


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    a, b = numbers(left), numbers(right)
    assert a.keys() == b.keys()
    different = [n for n in a if not torch.equal(a[n], b[n])]
    assert not different, different[:5]


def hooks_on(model: nn.Module) -> list[str]:
    """Return the hooks that aren't the site of a kept activation transform."""
    found = []
    for path, module in model.named_modules():
        for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]:
            if getattr(hook, "__name__", "") not in ("_input_hook", "_output_hook"):
                found.append(f"{path}: {hook}")
        found += [f"{path}: backward" for _ in module._backward_hooks]
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return tmp_path / "run"


@pytest.mark.parametrize(("key", "net"), CELLS)
def test_runs_repeats_and_resumes(key: str, net: str, registry: Registry, out: Path) -> None:
    if (key, net) in NOT_APPLICABLE:
        with pytest.raises(NotApplicable, match=f"{key} is not applicable: .*{NOT_APPLICABLE[key, net]}"):
            run(recipe(key, net), registry, out)
        assert not out.exists()
        return
    first = run(recipe(key, net), registry, out)
    assert not hooks_on(first.student)
    assert all(torch.isfinite(v).all() for v in numbers(first.student).values() if v.is_floating_point())
    assert any(p.requires_grad for p in first.student.parameters())

    shutil.rmtree(out)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(key, net), registry, out, stop_after=1)
    again = run(recipe(key, net), registry, out, resume=True)
    assert_equal(first.student, again.student)  # a resumed run is a repeated run too: bit for bit
    mine, theirs = first.stages[-1], again.stages[-1]
    assert mine["report"] == theirs["report"]
    assert [h["terms"] for h in mine["history"]] == [h["terms"] for h in theirs["history"]]


@pytest.mark.parametrize(("key", "net"), [(k, n) for k, n in CELLS if n == "CNN"])
def test_works_beside_others_and_itself(key: str, net: str, registry: Registry, out: Path) -> None:
    beside = run(recipe(key, net, ("l2-decay",)), registry, out)
    players = 2 if key == "deep-mutual-learning" else 1
    assert beside.stages[-1]["report"]["l2-decay.steps_count"] == 4  # the student's only, whoever else trains
    assert players >= 1
    assert "student.l2-decay.l2" in beside.stages[-1]["history"][0]["terms"]
    if key in NOT_TWICE:
        with pytest.raises(NotApplicable, match=f"{key}#2"):
            run(recipe(key, net, (key,)), registry, out.with_name("twice"))
        return
    twice = run(recipe(key, net, (key,)), registry, out.with_name("twice"))
    assert twice.stages[-1]["methods"] == [key, f"{key}#2"]


def test_resume_needs_the_saved_state(registry: Registry, out: Path) -> None:
    """A control: without the optimizer's state the resumed run differs, so the equality above can fail."""
    what = recipe("lsq", "CNN")
    whole = run(what, registry, out)
    shutil.rmtree(out)
    with pytest.raises(KeyboardInterrupt):
        run(what, registry, out, stop_after=1)
    path = out / "progress.safetensors"
    tree = load_tree(path)
    tree["players"]["student"]["optimizer"] = {}
    save_tree(path, tree)
    other = run(what, registry, out, resume=True)
    with pytest.raises(AssertionError):
        assert_equal(whole.student, other.student)


QKD = [
    {"name": "self", "methods": ["qkd"], "epochs": 2},
    {
        "name": "co",
        "methods": [{"qkd": {"phase": "co-study"}}],
        "teacher": "original",
        "players": {"teacher": {"train": True, "optimizer": {"lr": 0.01}}},
        "epochs": 2,
    },
    {"name": "m", "methods": [{"qkd": {"phase": "tutor"}}], "teacher": "stage:co.teacher", "epochs": 2},
]


class Killed(Watched):
    """Stops in the middle of a named stage."""

    where = ""

    def _save_progress(self, stage: Stage, unit: Any, history: Any) -> None:
        Run._save_progress(self, stage, unit, history)
        if stage.name == self.where and stage.epoch == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["self", "co", "m"])
def test_resume_in_each_stage_of_qkd(where: str, registry: Registry, out: Path) -> None:
    what = recipe("qkd", "CNN", stages=QKD)
    whole = run(what, registry, out)
    shutil.rmtree(out)
    job = Killed(what, registry, out=out, device="cpu")
    job.where = where
    with pytest.raises(KeyboardInterrupt):
        job.execute()
    again = run(what, registry, out, resume=True)
    assert_equal(whole.student, again.student)
    assert [s["name"] for s in again.stages] == ["self", "co", "m"]
