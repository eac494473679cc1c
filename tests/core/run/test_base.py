"""What is trained before a recipe's first stage, and which runs share it."""

from __future__ import annotations

import importlib
import json
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.core.helpers import Act, offering, recipe, registry

from condensery import Registry, Run, UsageError, hookimpl
from condensery.measure import code_of, digest, evaluate, quick
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.run import Observer, Progress, Stage
from condensery.storage import load_tree, save_tree
from condensery.tasks import Subset
from condensery_plugins.tasks.digits import Digits

BASE = {"epochs": 1, "batch_size": 16, "max_steps": 2, "optimizer": {"lr": 0.1}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    with quick():
        yield tmp_path / "cache" / "nets"


def start(path: Path, seed: int, base: dict[str, Any], **model: Any) -> Run:
    """Run a recipe without stages; its net is the base."""
    spec = {"key": "resnet8", "width": 0.5, **model}
    job = Run(recipe([], model=spec, base=base, seed=seed), registry(), out=path)
    job.execute()
    return job


def weights(job: Run) -> torch.Tensor:
    assert job.baked is not None
    return torch.cat([p.detach().flatten() for p in job.baked.net.parameters()])


def test_runs_of_other_seeds_share_a_base_with_a_seed_of_its_own(tmp_path: Path, cache: Path) -> None:
    first, second = (start(tmp_path / str(s), s, {**BASE, "seed": 5}) for s in (0, 1))
    assert torch.equal(weights(first), weights(second))
    assert "cached" not in first.stages[0]
    assert second.stages[0]["cached"]
    third = start(tmp_path / "5", 5, BASE)  # the same net: the seed is the run's own
    assert torch.equal(weights(third), weights(first))
    assert third.stages[0]["cached"]
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_a_cached_net_that_its_builder_no_longer_makes_is_trained_anew(tmp_path: Path, cache: Path) -> None:
    first = start(tmp_path / "0", 0, BASE)
    (file,) = cache.glob("*.safetensors")
    tree = load_tree(file)
    tree["net"]["tensors"]["older.weight"] = tree["net"]["tensors"].pop("linear.weight")
    save_tree(file, tree)

    second, third = (start(tmp_path / str(s), 0, BASE) for s in (1, 2))
    assert torch.equal(weights(second), weights(first))
    assert ["cached" in job.stages[0] for job in (second, third)] == [False, True]


def test_without_one_each_seed_has_its_own(tmp_path: Path, cache: Path) -> None:
    first, second = (start(tmp_path / str(s), s, BASE) for s in (0, 1))
    assert not torch.equal(weights(first), weights(second))
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_methods_of_the_base_act_and_make_it_another_net(tmp_path: Path, cache: Path) -> None:
    class Halves(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            for weight in stage.weights():
                with torch.no_grad():
                    weight.latent.mul_(0.5)

    what = [recipe([], base=base) for base in (BASE, {**BASE, "methods": ["halves"]})]
    jobs = [Run(one, registry(halves=Halves), out=tmp_path / str(number)) for number, one in enumerate(what)]
    reports = [job.execute() for job in jobs]
    assert [report["stages"][0]["methods"] for report in reports] == [[], ["halves"]]
    assert len(list(cache.glob("*.safetensors"))) == 2

    plain, halved = (job.baked.net.get_parameter("conv1.weight") for job in jobs if job.baked)
    assert float(plain.detach().abs().max()) > 0.1
    torch.testing.assert_close(halved, plain / 2)


class Shifted(Digits):
    """Digits that are shifted by up to two pixels, so that some columns and rows of an image go black."""

    key = "shifted"

    def __init__(self) -> None:
        super().__init__()
        self.pad = 2


def test_a_stage_sees_examples_as_stored_though_the_base_saw_them_augmented(tmp_path: Path) -> None:
    """As a student whose teacher alone was trained on shifted images; the two see the same 32 examples."""
    seen: dict[str, torch.Tensor] = {}

    class Look(Act):
        @hookimpl
        def loss_terms(self, outputs: Any, batch: Any, stage: Stage) -> None:
            seen[stage.name] = torch.cat([seen.get(stage.name, batch.inputs[:0]), batch.inputs])

    stages = [
        {"name": "stored", "methods": ["look"], "data": {"augment": False}},
        {"name": "augmented", "methods": ["look"]},
    ]
    base = {**BASE, "methods": ["look"]}
    tasks = Registry.open([("mine", offering(methods={"look": Look}, tasks={"shifted": Shifted}))])
    Run(recipe(stages, task="shifted", base=base), tasks, out=tmp_path / "o").execute()

    (whole,) = Digits().batches("train", batch_size=32, subset=Subset(size=32))
    plain = {tuple(image.flatten().tolist()) for image in whole.inputs}
    kept = {name: [tuple(i.flatten().tolist()) in plain for i in images] for name, images in seen.items()}
    assert all(kept["stored"])
    assert not all(kept["augmented"])
    assert not all(kept["base"])


def test_a_task_that_cannot_leave_augmentation_out_says_so(tmp_path: Path) -> None:
    asked = recipe([{"data": {"augment": False}}], task="brightest", model="pixel-classifier")
    with pytest.raises(
        UsageError, match=r"data.augment: task 'brightest' can't show its training examples as they are"
    ):
        Run(asked, registry(), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_the_quality_of_a_shared_base_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.nn.Module] = []

    def count(task: Any, net: torch.nn.Module, device: torch.device, **how: Any) -> dict[str, float]:
        seen.append(net)
        return evaluate(task, net, device, **how)

    monkeypatch.setattr("condensery.measure.known.evaluate", count)
    jobs = [start(tmp_path / str(s), s, {**BASE, "seed": 5}) for s in (0, 1)]
    assert len(seen) == 1
    reports = [json.loads((job.folder.path / "report.json").read_text()) for job in jobs]
    assert reports[0]["before"]["quality"] == reports[1]["before"]["quality"] == reports[0]["after"]["quality"]
    start(tmp_path / "other", 0, {**BASE, "seed": 6})
    assert len(seen) == 2


def test_another_value_is_another_net() -> None:
    net = torch.nn.Linear(2, 2)
    first = digest(net)
    assert digest(net) == first
    with torch.no_grad():
        net.weight[0, 0] += 1.0
    assert digest(net) != first


def test_given_weights_are_trained_on_only_where_the_recipe_says_how(tmp_path: Path) -> None:
    net = build_net(ModelSpec(key="resnet8", width=0.5), Digits().facts, registry(), 7)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = torch.cat([p.detach().flatten() for p in net.parameters()])
    place = str(tmp_path / "net.safetensors")
    assert torch.equal(weights(start(tmp_path / "as-is", 0, {}, weights=place)), given)
    trained = start(tmp_path / "on", 0, {**BASE, "optimizer": {"lr": 1e-6}}, weights=place)
    assert trained.stages[0]["name"] == "base"
    assert not torch.equal(weights(trained), given)
    torch.testing.assert_close(weights(trained), given, atol=1e-3, rtol=0)


def test_a_teacher_trained_now_or_before_leaves_the_stage_the_same_draws(tmp_path: Path) -> None:
    """Training a teacher draws its augmentation and dropout; the stage that it teaches draws as if it hadn't."""
    draws: list[torch.Tensor] = []

    class Draws(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            if not stage.dry:
                draws.append(torch.rand(4))

    stages = [{"methods": ["draws"], "teacher": {"key": "resnet8", "width": 0.5, "seed": 1}, "epochs": 0}]
    what = recipe(stages, base=BASE)
    reports = [Run(what, registry(draws=Draws), out=tmp_path / name).execute() for name in ("cold", "warm")]
    assert [[s["name"] for s in report["stages"]] for report in reports] == [["base", "base:resnet8", "draws"]] * 2
    assert [["cached" in s for s in report["stages"]] for report in reports] == [[False] * 3, [True, True, False]]
    assert torch.equal(*draws)


def test_a_teacher_does_not_go_on_from_another_ones_progress(tmp_path: Path) -> None:
    """Both train as ``base:resnet8``; the run is stopped between them."""

    class Stops(Progress):
        started = 0

        def start(self, title: str, steps: int) -> None:
            self.started += title == "base:resnet8"
            if self.started == 2:
                raise KeyboardInterrupt

    class Looks(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            if not stage.dry:
                seen.extend(digest(teacher.module) for teacher in stage.teachers)

    seen: list[str] = []
    teachers = [{"key": "resnet8", "width": 0.5, "seed": seed} for seed in (1, 2)]
    what = recipe([{"methods": ["looks"], "teacher": teachers, "epochs": 0}], base=BASE)
    found = registry(looks=Looks)
    with pytest.raises(KeyboardInterrupt):
        Run(what, found, out=tmp_path / "o", show=Stops(quiet=True)).execute()
    Run(what, found, out=tmp_path / "o", resume=True).execute()
    assert len(set(seen)) == 2


def test_an_observer_sees_the_base_train_once(tmp_path: Path) -> None:
    class Names(Observer):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def epoch_ended(self, stage: Stage, history: Any) -> None:
            self.seen.append((stage.name, len(history)))

        def stage_ended(self, stage: Stage) -> None:
            self.seen.append((stage.name, 0))

    first, second = Names(), Names()
    for number, names in enumerate((first, second)):
        Run(
            recipe([{"name": "s", "epochs": 2}], base=BASE), registry(), out=tmp_path / str(number), observer=names
        ).execute()
    assert first.seen == [("base", 1), ("base", 0), ("s", 1), ("s", 2), ("s", 0)]
    assert second.seen == first.seen[2:]


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ({"methods": ["hinton-kd"], "teacher": "original"}, {}),
        ({"methods": ["hinton-kd"], "teacher": {"key": "transformer", "seed": 1}}, {}),
        ({"methods": [], "train": {"carry_optimizer": True}}, {}),
        ({"methods": [], "train": {"carry_optimizer": True}}, {"base": {**BASE, "channels_last": True}}),
    ],
)
def test_cold_equals_warm(stage: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    """A net that was trained now, and one from the cache: same losses, same bits, with the optimizer that it had."""
    momentum = {"lr": 0.05, "options": {"momentum": 0.9}}
    what: dict[str, Any] = {"base": {**BASE, "optimizer": momentum}}
    if stage["methods"]:
        what = {"model": "transformer", "task": "word-language", "base": {**BASE, "optimizer": {"lr": 0.001}}}
    job = recipe([{"name": "s", "epochs": 2, **stage}], **{**what, **more})

    runs = [Run(job, registry(), out=tmp_path / name) for name in ("cold", "warm")]
    cold, warm = (run.execute() for run in runs)
    assert "cached" not in cold["stages"][0]
    assert warm["stages"][0]["cached"]
    assert [e["terms"] for e in cold["stages"][-1]["history"]] == [e["terms"] for e in warm["stages"][-1]["history"]]
    assert torch.equal(*map(weights, runs))
    assert cold["before"]["quality"] == warm["before"]["quality"]


def test_the_carried_optimizer_is_that_of_the_base(tmp_path: Path) -> None:
    """Also from the cache, and after a run was killed before its first epoch ended."""
    seen: list[list[str]] = []

    class Looks(Act):
        @hookimpl
        def before_step(self, stage: Stage) -> None:
            if stage.step == 0 and not stage.dry:
                seen.append(sorted(stage.student.optimizer_state()))
                if stops:
                    raise KeyboardInterrupt

    base = {**BASE, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
    what = recipe([{"methods": ["looks"], "train": {"carry_optimizer": True}}], base=base)
    known, stops = registry(looks=Looks), True
    with pytest.raises(KeyboardInterrupt):
        Run(what, known, out=tmp_path / "o").execute()
    stops = False
    job = Run(what, known, out=tmp_path / "o", resume=True)
    job.execute()
    Run(what, known, out=tmp_path / "warm").execute()
    assert job.baked is not None
    assert seen == [sorted(name for name, _ in job.baked.net.named_parameters())] * 3


def test_an_entry_from_elsewhere_is_used_and_named(tmp_path: Path, cache: Path) -> None:
    start(tmp_path / "first", 0, BASE)
    (entry,) = cache.glob("*.safetensors")
    saved = load_tree(entry)
    threads = saved["origin"]["threads"]
    assert saved["origin"]["torch"]
    saved["origin"] |= {"threads": "64", "torch": "1.0"}
    save_tree(entry, saved)

    second = start(tmp_path / "second", 0, BASE)
    assert second.stages[0]["cached"]
    named = json.loads((tmp_path / "second" / "report.json").read_text())["stages"][0]["elsewhere"]
    assert named == {"torch": f"1.0, here {torch.__version__.partition('+')[0]}", "threads": f"64, here {threads}"}


def test_a_flipped_bit_in_the_cache_is_noticed_and_the_net_is_trained_again(tmp_path: Path, cache: Path) -> None:
    first = start(tmp_path / "first", 0, BASE)
    (entry,) = cache.glob("*.safetensors")
    content = bytearray(entry.read_bytes())
    content[-3] ^= 1
    entry.write_bytes(content)

    second = start(tmp_path / "second", 0, BASE)
    assert "cached" not in second.stages[0]
    assert torch.equal(weights(first), weights(second))
    assert start(tmp_path / "third", 0, BASE).stages[0]["cached"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_changed_data_are_no_others_in_the_cache(split: str, tmp_path: Path) -> None:
    """As in a notebook, where a task keeps its key: a base is trained anew, and what it came to measured anew."""

    class Mine(Digits):
        key = "mine"
        changed: tuple[str, ...] = ()

        def load(self, split: Any) -> Any:
            images, labels = super().load(split)
            return images, (labels + (split in self.changed)) % 10

    known = Registry.open([("mine", offering(tasks={"mine": Mine}))])
    what = recipe([], base=BASE, task="mine")
    first = Run(what, known, out=tmp_path / "first").execute()
    Mine.changed = (split,)
    second = Run(what, known, out=tmp_path / "second").execute()
    assert ("cached" in second["stages"][0]) == (split == "test")
    assert first["before"]["quality"] != second["before"]["quality"]
    assert second["before"]["quality"] == second["after"]["quality"]


def test_code_is_told_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by comments, docstrings and layout; of a class also by that of its bases."""
    monkeypatch.syspath_prepend(tmp_path)

    def code(text: str) -> str:
        (tmp_path / "mycode.py").write_text(text)
        linecache.checkcache()
        sys.modules.pop("mycode", None)
        importlib.invalidate_caches()
        module = importlib.import_module("mycode")
        return code_of(type("Sub", (module.Of,), {"__module__": "builtins"}))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = code("class Of:\n    def f(self):\n        return 1\n")
    assert code('class Of:\n    """What it is."""\n\n    def f(self):  # why\n        return (1)\n') == first
    assert code("class Of:\n    def f(self):\n        return 2\n") != first


def test_code_of_a_notebook_is_that_of_its_functions() -> None:
    """There is no file, only the text of the cells."""

    def define(value: int) -> Any:
        text = f"class Of:\n    def f(self):\n        return {value}\n\n\ndef build():\n    return {value}\n"
        name = f"<cell {value}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        space: dict[str, Any] = {"__name__": "notebook"}
        exec(compile(text, name, "exec"), space)  # noqa: S102
        return space

    one, again, two = define(1), define(1), define(2)
    for name in ("Of", "build"):
        assert code_of(one[name]) == code_of(again[name]) != code_of(two[name])
