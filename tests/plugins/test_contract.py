"""What every built-in method must do on every kind of net: one suite, a cell per method and net."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from condensery import Method, NotApplicable, Registry, Run, hookimpl
from condensery.recipe import parse_recipe
from condensery.run import Player, Progress, Stage
from condensery.storage import ROOT, cost_of, load_tree, open_artifact, save_tree
from condensery_plugins import METHODS

NETS: dict[str, dict[str, Any]] = {
    "CNN": {"model": {"key": "resnet8", "width": 0.5}, "task": "digits"},
    "ViT": {"model": {"key": "vit", "dim": 24, "depth": 2, "patch_size": 4}, "task": "digits"},
    "Transformer": {"model": {"key": "transformer", "hidden": 24, "depth": 2}, "task": "word-language"},
}
TEACHER: dict[str, dict[str, Any]] = {
    "hinton-kd": {"teacher": "original"},
    "prune-then-distill": {"teacher": "stage:pruned"},
}
BEFORE: dict[str, list[dict[str, Any]]] = {
    "prune-then-distill": [{"name": "pruned", "methods": ["magnitude"], "epochs": 0}],
}
_PATCHES = r"the only convolution, patch_embed\.proj, embeds patches"
_NO_FILTERS = "no convolution whose filters may go"
NOT_APPLICABLE = {
    ("activation-gradient-pruning-dbtd", "ViT"): "no convolution but the one that embeds patches",
    ("activation-gradient-pruning-dbtd", "Transformer"): "the net has no convolution",
    ("asymptotic-soft-filter-pruning", "ViT"): _PATCHES,
    ("asymptotic-soft-filter-pruning", "Transformer"): _NO_FILTERS,
    ("filter-pruning", "ViT"): _PATCHES,
    ("filter-pruning", "Transformer"): _NO_FILTERS,
    ("group-brain-damage", "Transformer"): "the net has no convolution whose filters share inputs",
    ("l1-filter-pruning", "ViT"): r"no convolution can lose filters; patch_embed\.proj:",
    ("l1-filter-pruning", "Transformer"): "the net has no convolution",
    ("network-slimming", "ViT"): "batch normalization",
    ("network-slimming", "Transformer"): "batch normalization",
    ("soft-filter-pruning", "ViT"): _PATCHES,
    ("soft-filter-pruning", "Transformer"): _NO_FILTERS,
    ("structured-magnitude", "CNN"): "the net has no attention of a known class",
    ("thinet", "ViT"): "no convolution has channels of its own that only one other convolution reads",
    ("thinet", "Transformer"): "the net has no convolution",
}
NOT_TWICE = {"jacob-integer-only", "kmeans-sharing", "lsq", "qkd"}
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


def recipe(key: str, net: str, beside: tuple[str, ...] = (), epochs: int = 2, **changes: Any) -> Any:
    stage = {"name": "m", "train": {"epochs": epochs}, "methods": [key, *beside], **TEACHER.get(key, {})}
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
    check_artifact(first, registry, out / "artifact.safetensors")

    shutil.rmtree(out)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(key, net), registry, out, stop_after=1)
    again = run(recipe(key, net), registry, out, resume=True)
    assert_equal(first.student, again.student)  # a resumed run is a repeated run too: bit for bit
    mine, theirs = first.stages[-1], again.stages[-1]
    assert mine["report"] == theirs["report"]
    assert [h["terms"] for h in mine["history"]] == [h["terms"] for h in theirs["history"]]


def outputs(job: Run, net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return job.task.logits(net.eval(), job.task.example_input(5))


def check_artifact(job: Run, registry: Registry, path: Path) -> None:
    """Loaded outputs are the baked net's bit for bit, and nearly the trained one's; the estimate is the file."""
    assert job.baked is not None
    found = open_artifact(path, registry)
    expected = outputs(job, job.baked.net)
    assert torch.equal(outputs(job, found.net), expected)
    assert job.baked.moved < 1e-6
    records = {
        tensor if module == ROOT else f"{module}.{tensor}": record
        for module, parts in found.manifest["tensors"].items()
        for tensor, record in parts.items()
    }
    for name, stored in job.baked.stored.items():
        estimate = stored.coding.cost(job.baked.net.get_parameter(name))
        assert estimate == cost_of(records[name], registry), name
    content = path.read_bytes()
    sizes = found.sizes
    assert sizes.header == 8 + int.from_bytes(content[:8], "little")
    assert sizes.payload + sizes.tables + sizes.header + sizes.manifest == len(content)


LOADER = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from condensery import Registry
from condensery.artifact import open_artifact
from condensery.models import build_task
torch.set_num_threads(1)
registry = Registry.open()
for path in sorted(Path(sys.argv[1]).glob("*/artifact.safetensors")):
    found = open_artifact(path, registry)
    task = build_task(found.task, registry)
    with torch.no_grad():
        mine = task.logits(found.net, task.example_input(5))
    assert torch.equal(mine, load_file(path.with_name("outputs.st"))["logits"]), path
    print(path.parent.name)
"""


@pytest.mark.parametrize("net", NETS)
def test_artifacts_load_in_a_fresh_process(net: str, registry: Registry, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    keys = [k for k, _ in METHODS if (k, net) not in NOT_APPLICABLE]
    for key in keys:
        job = run(recipe(key, net, epochs=1), registry, tmp_path / key)
        assert job.baked is not None
        save_file({"logits": outputs(job, job.baked.net).contiguous()}, tmp_path / key / "outputs.st")
    done = subprocess.run([sys.executable, "-c", LOADER, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == sorted(keys)


@pytest.mark.parametrize(
    ("key", "net"), [(k, next(n for n in NETS if (k, n) not in NOT_APPLICABLE)) for k, _ in METHODS]
)
def test_works_beside_others_and_itself(key: str, net: str, registry: Registry, out: Path) -> None:
    beside = run(recipe(key, net, ("l2-decay",)), registry, out)
    assert beside.stages[-1]["report"]["l2-decay.steps_count"] == 4  # the student's only, whoever else trains
    terms = beside.stages[-1]["history"][0]["terms"]
    assert "student.l2-decay.l2" in terms
    trained = {"student", "peer#1"} if key == "deep-mutual-learning" else {"student"}
    assert {term.partition(".")[0] for term in terms} == trained
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


DEEP_COMPRESSION = [
    {"name": "prune", "methods": [{"magnitude": {"sparsity": 0.8}}], "epochs": 1},
    {"name": "m", "methods": ["kmeans-sharing"], "epochs": 2},
    {"name": "code", "methods": ["huffman"], "epochs": 0},
]


@pytest.mark.parametrize("net", NETS)
def test_resume_in_the_middle_of_deep_compression(net: str, registry: Registry, out: Path) -> None:
    what = recipe("kmeans-sharing", net, stages=DEEP_COMPRESSION)
    whole = run(what, registry, out)
    check_artifact(whole, registry, out / "artifact.safetensors")
    shutil.rmtree(out)
    with pytest.raises(KeyboardInterrupt):
        run(what, registry, out, stop_after=1)
    again = run(what, registry, out, resume=True)
    assert_equal(whole.student, again.student)
    left = again.report["after"]["nonzeros"] / again.report["after"]["parameters"]  # type: ignore[attr-defined]
    assert left < 0.5
