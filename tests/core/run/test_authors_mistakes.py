"""Mistakes that authors of methods make: each is one line that names the method, the hook and what would be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, Sign, offering, recipe
from torch import Tensor, nn

from condensery import Method, Registry, Run, Transform, hookimpl
from condensery.errors import CondenseryError
from condensery.run import Stage
from condensery.tasks import Batch

HERE = r" \(\S*test_authors_mistakes\.py:\d+\)$"
"""The plugin's own line, which ends a message."""
LATE = "while the stage trains; only prepare and end_stage may" + HERE


class Short(Transform):
    """Changes the shape of what it is on."""

    key = "short"

    def forward(self, value: Tensor) -> Tensor:
        return value[:1]


class Nobodys(Transform):
    """No plugin registers it."""

    key = "nobodys"

    def forward(self, value: Tensor) -> Tensor:
        return value * 0.5


class Plain(Method):
    """Not decorated, so that its setting is none."""

    ratio: float = 0.5

    @hookimpl
    def prepare(self, stage: Stage) -> None: ...


@dataclasses.dataclass
class ByValue(Method):
    @hookimpl
    def prepare(self, stage: Stage) -> None: ...


def acting(**hooks: Any) -> type[Method]:
    """Return a method made of functions; what isn't one stays as it is."""
    marked = {name: hookimpl(hook) if callable(hook) else hook for name, hook in hooks.items()}
    return type("Wrong", (Act,), {**marked, "__annotations__": {}})


def unmarked(self: Method, outputs: Any) -> dict[str, Tensor]:
    return {}


def attaches(target: str, transform: type[Transform] = Sign) -> Any:
    return lambda self, stage: stage.attach(target, "shape", transform())


def cuts(self: Method, stage: Stage) -> None:
    stage.surgeon.remove_channels({"layer1.0.conv1": torch.tensor([0])})


def keeps(attribute: str) -> Any:
    """Return a hook that keeps parameters, which a cut would replace."""
    return lambda self, stage: setattr(self, attribute, [weight.latent for weight in stage.weights()])


def counts(self: Any, stage: Stage) -> None:
    self.count = getattr(self, "count", 0) + 1


def keeps_head(self: Any, stage: Stage) -> None:
    self.head_ = nn.Linear(3, 3)


def raises(self: Method, stage: Stage) -> None:
    raise KeyError("conv9")


def deep(self: Method, stage: Stage) -> Tensor:
    return one_call_deeper()


def one_call_deeper() -> Tensor:
    return torch.zeros(3) @ torch.zeros(4)


def fails_later(self: Method, stage: Stage) -> Any:
    yield next(stage.task_batches())
    raise RuntimeError("no more")


def terms(make: Any) -> type[Method]:
    """Return a method whose loss terms are made of the student's class scores, ``(batch, classes)``."""
    return acting(loss_terms=lambda self, outputs: make(outputs["student"].rows))


MISTAKES = {
    "a hook misspelt": (
        acting(loss_term=lambda self, outputs: {}),
        "wrong: unknown hook 'loss_term'; did you mean 'loss_terms'",
    ),
    "a hook misspelt and unmarked": (
        type("Wrong", (Act,), {"loss_term": unmarked}),
        "wrong: loss_term looks like the hook loss_terms and would never run; mark it, or rename it",
    ),
    "an argument that the hook lacks": (
        acting(after_step=lambda self, stage, model: None),
        "wrong: .*'after_step'.*{'model'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "no such module": (
        acting(prepare=attaches("layer1.conv1.weight")),
        "target 'layer1.conv1.weight': the net has no module 'layer1.conv1'",
    ),
    "a module as the target": (
        acting(prepare=attaches("conv1")),
        "target 'conv1': ResNet has no parameter 'conv1'",
    ),
    "no such site": (
        acting(prepare=attaches("conv1:outputs")),
        "target 'conv1:outputs': a site is ':input' or ':output'",
    ),
    "a transform of no package": (
        acting(prepare=attaches("conv1.weight", Nobodys)),
        r"transform Nobodys at conv1\.weight isn't in register_layers",
    ),
    "a weight of another shape": (
        acting(prepare=attaches("conv1.weight", Short)),
        r"wrong: transform 'shape' \(Short\) turns shape \(8, 1, 3, 3\) into \(1, 1, 3, 3\)" + HERE,
    ),
    "an output of another shape": (
        acting(prepare=attaches("conv1:output", Short)),
        r"wrong: transform 'shape' \(Short\) turns shape \(8, 8, 8, 8\) into \(1, 8, 8, 8\)" + HERE,
    ),
    "a term that is no scalar": (
        terms(lambda rows: {"far": rows.sum(1)}),
        r"stage 's', wrong, loss_terms, term 'far': .* a scalar tensor, got a tensor of shape \(8,\)" + HERE,
    ),
    "a term that is a float": (
        terms(lambda rows: {"far": 0.5}),
        r"stage 's', wrong, loss_terms, term 'far': must return a scalar tensor, got float 0\.5" + HERE,
    ),
    "terms without names": (
        terms(lambda rows: rows.sum()),
        r"stage 's', wrong, loss_terms: must return a mapping .*, got a tensor of shape \(\)" + HERE,
    ),
    "a term without a gradient": (
        terms(lambda rows: {"far": torch.tensor(rows.sum().item())}),
        "stage 's', wrong, loss_terms, term 'far': .* lost its own, by detach.. or item.., got a tensor.*" + HERE,
    ),
    "a term that is no number": (
        terms(lambda rows: {"far": rows.sum() * float("nan")}),
        "stage 's', epoch 1, step 0: student.wrong.far is not finite",
    ),
    "a cut before a step": (acting(before_step=cuts), "stage 's', wrong, before_step: a net is cut " + LATE),
    "a cut after a step": (acting(after_step=cuts), "stage 's', wrong, after_step: a net is cut " + LATE),
    "a cut after an epoch": (acting(after_epoch=cuts), "stage 's', wrong, after_epoch: a net is cut " + LATE),
    "a transform that comes late": (
        acting(before_step=attaches("conv1.weight")),
        r"stage 's', wrong, before_step: a transform is attached \(conv1\.weight: shape\) " + LATE,
    ),
    "parameters that are kept": (
        acting(prepare=keeps("params_")),
        r"stage 's', wrong: params_ holds a parameter, which a cut replaces: .* stage\.weights\(\)",
    ),
    "parameters that are kept, and not saved": (
        acting(prepare=keeps("params")),
        r"stage 's', wrong: params holds a parameter, which a cut replaces: .* stage\.weights\(\)",
    ),
    "a count that isn't saved": (
        acting(before_step=counts),
        "stage 's', wrong: count changed while the stage trained and isn't saved, .*; call it count_",
    ),
    "a report of several numbers": (
        acting(report=lambda self: {"n": torch.zeros(3)}),
        r"stage 's', wrong, report, 'n': must return a number, got a tensor of shape \(3,\)" + HERE,
    ),
    "a report in words": (
        acting(report=lambda self: {"n": "text"}),
        "stage 's', wrong, report, 'n': must return a number, got str 'text'" + HERE,
    ),
    "a report of what is no number": (
        acting(report=lambda self: {"n": float("nan")}),
        "stage 's', wrong, report, 'n': must return a finite number, got float nan" + HERE,
    ),
    "a need misspelt": (
        acting(needs=frozenset({"batchnorm"}), prepare=lambda self, stage: None),
        "wrong: needs: unknown word 'batchnorm'; did you mean 'batch-norm'",
    ),
    "no dataclass": (Plain, r"wrong: Plain lacks @dataclass\(eq=False, kw_only=True\), so that ratio is no setting"),
    "compared by value": (ByValue, r"wrong: ByValue is compared by value; write @dataclass\(eq=False"),
    "an error": (acting(prepare=raises), "stage 's', wrong, prepare: KeyError: 'conv9'" + HERE),
    "an error in a call": (acting(prepare=deep), "stage 's', wrong, prepare: RuntimeError: .*" + HERE),
    "an error in a generator": (
        acting(batches=fails_later),
        "stage 's', wrong, batches: RuntimeError: no more" + HERE,
    ),
    "a module that is kept": (
        acting(prepare=keeps_head),
        r"stage 's', wrong: head_ holds a Linear: .* is a helper, stage\.student\.helpers\['name'\] = module",
    ),
    "a role misspelt": (
        acting(prepare=lambda self, stage: stage.student.tap("stage")),
        "tap in ResNet: unknown module or role 'stage'; did you mean 'stages'",
    ),
    "a tap that nobody asked for": (
        acting(loss_terms=lambda self, outputs: {"far": outputs["student"].taps["features"].mean()}),
        "stage 's', wrong, loss_terms: tap 'features' was never asked for; write player.tap.'features'. in prepare",
    ),
    "a teacher that isn't there": (
        acting(loss_terms=lambda self, outputs: {"far": outputs["teacher"].rows.mean()}),
        "stage 's', wrong, loss_terms: there is no player 'teacher'; there are student; .* needs = frozenset.*" + HERE,
    ),
    "a weight in words": (
        acting(task_weight=lambda self: "half"),
        "stage 's', wrong, task_weight: must return a number, got str 'half'" + HERE,
    ),
    "no batches": (
        acting(batches=lambda self: []),
        "stage 's', wrong, batches: an epoch has no batch: nothing would train",
    ),
    "batches that are none": (
        acting(batches=lambda self: [(1, 2)]),
        r"stage 's', wrong, batches: must return batches, each a condensery.tasks.Batch\(inputs, labels\), got tuple",
    ),
    "an optimizer's class": (
        acting(optimizer=lambda self: torch.optim.SGD),
        "stage 's', wrong, optimizer: must return an optimizer of torch, got the class SGD" + HERE,
    ),
    "a step that isn't said": (
        acting(training_step=lambda self, stage, batch: stage.gradients(batch)),
        "stage 's', wrong, training_step: must return True, got None" + HERE,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, says = MISTAKES[mistake]
    monkeypatch.setattr(method, "key", "wrong")
    known = Registry.open([("given", offering(methods={"wrong": method}, layers={"test-sign": Sign}))])
    with pytest.raises(CondenseryError, match=f"^{says}") as caught:
        Run(recipe([{"name": "s", "methods": ["wrong"]}]), known, out=tmp_path / "o").execute()
    assert "\n" not in str(caught.value).strip()
    assert caught.value.exit_code == (1 if "not finite" in says else 2)
    assert not (tmp_path / "o").exists()


def test_the_innermost_line_of_the_plugin_is_named(tmp_path: Path) -> None:
    """Not that of the hook, nor one of torch's."""
    known = Registry.open([("given", offering(methods={"wrong": acting(prepare=deep)}))])
    line = one_call_deeper.__code__.co_firstlineno + 1
    known.entries["methods"]["wrong"].target.key = "wrong"
    with pytest.raises(CondenseryError, match=rf"test_authors_mistakes\.py:{line}\)$"):
        Run(recipe(["wrong"]), known, out=tmp_path / "o").execute()


def test_a_method_that_says_no_word_of_a_hook_may_have_helpers(tmp_path: Path) -> None:
    """Functions of its own whose names are far from any hook's, and attributes that stay as they are."""

    class Fine(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            self.paths = stage.weights().paths
            self.nets = [stage.student.module]

        def stepped(self, batch: Batch) -> int:
            return batch.size

    known = Registry.open([("given", offering(methods={"fine": Fine}))])
    report = Run(recipe(["fine"]), known, out=tmp_path / "o").execute()
    assert report["stages"][0]["methods"] == ["fine"]
