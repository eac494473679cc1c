"""One test for each rule that the design learnt from something that went wrong silently."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery import Method, NotApplicable, PluginError, Registry, Run, UsageError, hookimpl
from condensery.clone import clone, same_numbers
from condensery.errors import MethodError, NonFiniteLoss
from condensery.managers import StageManager
from condensery.players import Outputs, Player
from condensery.recipe import ModelSpec, parse_recipe
from condensery.stage import Stage
from condensery.steps import Bucket
from condensery.taps import Taps
from condensery.tasks import Batch
from condensery.transforms import (
    MASK,
    QUANTIZE,
    Transform,
    attach,
    attached,
    broken_promises,
    detach,
    plain_name,
    straight_through,
)
from condensery_plugins.pruning.masks import Mask

torch.set_num_threads(1)


class Sign(Transform):
    """Three levels: -s, 0, s."""

    key = "test-sign"
    rank = QUANTIZE

    def forward(self, value: Tensor) -> Tensor:
        return straight_through(value.sign() * 0.5, value)

    def holds(self, final: Tensor) -> str | None:
        levels = len(final.unique())  # type: ignore[no-untyped-call]
        return f"{levels} levels" if levels > 3 else None


@dataclasses.dataclass(eq=False, kw_only=True)
class Act(Method):
    """A method whose hooks are given as functions, to look inside a stage."""

    prepare_: Any = None

    def __post_init__(self) -> None:
        """Let subclasses that are not dataclasses have one."""

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        if self.prepare_ is not None:
            self.prepare_(stage)


def registry(**methods: type[Method]) -> Registry:
    class Plugin:
        @hookimpl
        def register_methods(self, register: Any) -> None:
            for name in methods:
                register(name.replace("_", "-"), "tests:Given")

        @hookimpl
        def register_layers(self, register: Any) -> None:
            register("test-sign", "tests:Sign")

    found = Registry.open([("given", Plugin())])
    for name, cls in methods.items():
        found._cache["methods", name.replace("_", "-")] = cls
    found._cache["layers", "test-sign"] = Sign
    return found


def recipe(stages: list[Any], **changes: Any) -> Any:
    data = {
        "model": {"key": "resnet8", "width": 0.5},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}},
        "stages": stages,
        **changes,
    }
    return parse_recipe(json.loads(json.dumps(data)))


# ------------------------------------------------------------------ transforms


def test_straight_through_is_exact() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = straight_through(x.sign() * 0.3, x)
    assert torch.equal(out, x.sign() * 0.3)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("order", ["mask first", "sign first"])
def test_zeros_survive_a_sign_quantizer_in_both_orders(order: str) -> None:
    net = nn.Linear(8, 4)
    keep = torch.arange(32).reshape(4, 8) % 2 == 0
    mask = Mask((4, 8))
    mask.keep.copy_(keep)
    parts = [("mask", mask), ("sign", Sign())]
    for name, part in parts if order == "mask first" else parts[::-1]:
        attach(net, "weight", name, part)
    assert [a.name for a in attached(net)] == ["sign", "mask"]  # rank order, whatever came first
    assert float((net.weight == 0).float().mean()) == 0.5
    assert len(net.weight.unique()) == 3  # type: ignore[no-untyped-call]
    assert not broken_promises(net)
    mask.keep.fill_(True)
    net.weight.sum().backward()  # type: ignore[no-untyped-call]


def test_a_broken_promise_is_named() -> None:
    class Liar(Sign):
        def forward(self, value: Tensor) -> Tensor:
            return value

    net = nn.Linear(8, 4)
    attach(net, "weight", "liar", Liar())
    assert broken_promises(net) == ["weight: liar: 32 levels"]


def test_a_clone_shares_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    attach(net, "0.weight", "sign", Sign())
    attach(net, "0:output", "out", Sign())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    twin = clone(net)
    assert same_numbers(net, twin)
    assert twin[1].inplace is False  # type: ignore[index]
    detach(twin, "0.weight", "sign")
    detach(twin, "0:output", "out")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

    assert len(torch.unique(getattr(net[0], "weight"))) <= 3  # noqa: B009
    net(torch.randn(2, 4)).sum().backward()


def test_activation_sites_survive_copies_and_export() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    attach(net, "0:input", "in", Sign())
    attach(net, "0:output", "out", Sign())
    x = torch.randn(3, 4)
    expected = net(x)
    assert len(expected.unique()) <= 3
    assert torch.equal(clone(net)(x), expected)
    exported = torch.export.export(net, (x,), strict=False).module()
    assert torch.equal(exported(x), expected)


def test_tied_weights_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    with pytest.raises(UsageError, match=r"0\.weight' is shared with 1\.weight"):
        attach(net, "0.weight", "sign", Sign())


def test_plain_names() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    attach(net, "0.weight", "sign", Sign())
    assert {plain_name(n) for n, _ in net.named_parameters()} == {"0.weight", "0.bias"}


# ------------------------------------------------------------------ weights


def test_a_write_cannot_get_lost(tmp_path: Path) -> None:
    """``latent`` is the trained Parameter under any transform; a write to it shows in ``value``."""

    def write(stage: Stage) -> None:
        weight = stage.weights()[1]
        assert isinstance(weight.latent, nn.Parameter)
        if weight.stack is None:
            stage.attach(weight.name, "sign", Sign())
        weight = stage.weights()[1]
        with torch.no_grad():
            weight.latent[0].zero_()
        assert torch.equal(weight.value[0], torch.zeros_like(weight.value[0]))
        assert weight.value[1:].abs().min() > 0

    class Writes(Act):
        def __post_init__(self) -> None:
            self.prepare_ = write

    Run(recipe(["writes"]), registry(writes=Writes), out=tmp_path / "o").execute()


def test_plugins_never_touch_module_weight() -> None:
    """Under a transform ``module.weight`` is a temporary: writes vanish and criteria see quantized values."""
    root = Path(__file__).parents[2] / "plugins" / "condensery_plugins"
    guilty = []
    for family in ("pruning", "quantization", "distillation", "joint"):
        for path in (root / family).glob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                touched = re.search(r"(?<!self)\.weight([.\[)]|\s*$)", line)
                if touched:
                    guilty.append(f"{path.name}:{number}: {line.strip()}")
    assert not guilty


class Levels(Act):
    """Counts a weight's levels after every step."""

    counts: ClassVar[list[int]] = []
    steps: ClassVar[list[float]] = []

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        weight = stage.weights()[2]
        Levels.counts.append(len(weight.value.unique()))  # type: ignore[no-untyped-call]
        assert weight.stack is not None
        Levels.steps.append(float(weight.stack.transforms["lsq"].step.detach()))  # type: ignore[operator]


def test_quantize_then_distil_keeps_the_levels(tmp_path: Path) -> None:
    Levels.counts.clear()
    Levels.steps.clear()
    stages = [
        {"methods": [{"lsq": {"weight_bits": 3}}]},
        {"methods": ["hinton-kd", "levels"], "teacher": "original", "epochs": 3},
    ]
    Run(recipe(stages), registry(levels=Levels), out=tmp_path / "o").execute()
    assert len(Levels.counts) >= 6
    assert max(Levels.counts) <= 8
    assert len(set(Levels.steps)) > 3  # the step size keeps moving in the later stage


def test_a_mask_holds_through_later_stages(tmp_path: Path) -> None:
    report = Run(recipe(["magnitude", {"name": "plain", "epochs": 2}]), registry(), out=tmp_path / "o").execute()
    assert report["stages"][-1]["name"] == "plain"
    zeros = 1 - report["after"]["nonzeros"] / report["after"]["parameters"]
    assert 0.45 < zeros < 0.52


# ------------------------------------------------------------------ taps


def test_a_tap_before_an_inplace_activation() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    taps = Taps(clone(net))
    taps.add("0")
    x = torch.randn(64, 4)
    with taps.reading():
        taps.model(x)
    assert bool((taps.collect()["0"] < 0).any())  # before the ReLU, not after it

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu_(self.linear(x))

    taps = Taps(clone(Functional()))
    taps.add("linear")
    with torch.no_grad(), taps.reading():
        taps.model(x)
    with pytest.raises(UsageError, match="overwritten in place"):
        taps.collect()["linear"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_taps_agree_with_the_net(attention: str) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(  # type: ignore[call-arg]
        vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    config._attn_implementation = "eager"
    net = BertForSequenceClassification(config)
    net.train(False)
    ids = torch.randint(0, 20, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    expected = net(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    net.config._attn_implementation = attention
    hooks = sum(len(m._forward_hooks) for m in net.modules())
    taps = Taps(net)
    taps.add("attention")
    taps.add("scores")
    with taps.reading():
        net(input_ids=ids, attention_mask=mask)
    got = taps.collect()
    assert len(got["attention"]) == 2
    for mine, theirs, scores in zip(got["attention"], expected, got["scores"], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores.softmax(-1), mine)
    taps.remove()
    assert sum(len(m._forward_hooks) for m in net.modules()) == hooks


def test_taps_by_role(tmp_path: Path) -> None:
    shapes: list[Any] = []

    class Reads(Act):
        def __post_init__(self) -> None:
            self.prepare_ = lambda stage: [stage.student.tap(t) for t in ("stages", "logits", "attention")]

        @hookimpl
        def loss_terms(self, outputs: Mapping[str, Outputs]) -> None:
            taps = outputs["student"].taps
            shapes.append((len(taps["stages"]), taps["logits"][0].shape[1], tuple(taps["attention"][0].shape[1:])))

    model = {"key": "vit", "dim": 24, "depth": 3, "patch_size": 4}
    Run(recipe(["reads"], model=model), registry(reads=Reads), out=tmp_path / "o").execute()
    assert set(shapes) == {(3, 10, (3, 5, 5))}


# ------------------------------------------------------------------ stage


def test_two_first_results_are_refused(tmp_path: Path) -> None:
    class Steps(Act):
        @hookimpl
        def training_step(self, stage: Stage, batch: Batch) -> bool:
            return True

    with pytest.raises(PluginError, match="one and two both implement training_step"):
        StageManager("s", [("one", Steps()), ("two", Steps())])


@dataclasses.dataclass(eq=False, kw_only=True)
class Misspelt(Method):
    @hookimpl
    def after_stepp(self, stage: Stage) -> None: ...


@dataclasses.dataclass(eq=False, kw_only=True)
class Unmarked(Method):
    def prepare(self, stage: Stage) -> None: ...


@dataclasses.dataclass(eq=False, kw_only=True)
class Defaulted(Method):
    @hookimpl
    def prepare(self, stage: Any = None) -> None: ...


@dataclasses.dataclass(kw_only=True)
class ByValue(Method):
    @hookimpl
    def prepare(self, stage: Stage) -> None: ...


@dataclasses.dataclass(eq=False, kw_only=True)
class Nothing(Method):
    pass


@dataclasses.dataclass(eq=False, kw_only=True)
class WrongArgument(Method):
    @hookimpl
    def prepare(self, stages: Stage) -> None: ...


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Misspelt(), "no hook is called 'after_stepp'; did you mean 'after_step'"),
        (Unmarked(), "prepare lacks @hookimpl"),
        (Defaulted(), "default for 'stage'"),
        (ByValue(), "compared by value"),
        (Nothing(), "implements no hook"),
        (Act, "register an instance, not the class Act"),
        (object(), "must extend condensery.Method"),
        (WrongArgument(), "stages"),
    ],
)
def test_methods_that_would_silently_do_nothing_are_refused(method: Any, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        StageManager("s", [("culprit", method)])


def test_recipe_order_is_call_order() -> None:
    calls: list[str] = []

    @dataclasses.dataclass(eq=False, kw_only=True)
    class Says(Method):
        word: str = ""

        @hookimpl
        def after_epoch(self, stage: Stage) -> None:
            calls.append(self.word)

    manager = StageManager("s", [(w, Says(word=w)) for w in "abc"])
    manager.call("after_epoch", stage=None)
    assert calls == ["a", "b", "c"]
    assert manager.order("after_epoch") == ["a", "b", "c"]


def test_an_error_names_stage_method_and_hook(tmp_path: Path) -> None:
    class Fails(Act):
        @hookimpl
        def after_epoch(self, stage: Stage) -> None:
            raise RuntimeError("boom")

    with pytest.raises(MethodError, match="stage 'bad', fails, after_epoch: RuntimeError: boom"):
        Run(recipe([{"name": "bad", "methods": ["fails"]}]), registry(fails=Fails), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_per_player_hooks_keep_to_their_players(tmp_path: Path) -> None:
    asked: list[str] = []

    class Guarded(Act):
        @hookimpl
        def task_weight(self, stage: Stage, player: Player) -> float:
            asked.append(player.name)
            return 0.5

    what = recipe([{"methods": ["guarded", "deep-mutual-learning"]}])
    report = Run(what, registry(guarded=Guarded), out=tmp_path / "o").execute()
    assert set(asked) == {"student"}
    assert {"student.task", "peer#1.task"} <= set(report["stages"][0]["history"][0]["terms"])


def test_a_stage_without_a_loss_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((UsageError, MethodError), match="nothing gives it a loss"):
        Run(recipe([{"data": {"labels": False}}]), registry(), out=tmp_path / "o").execute()


def test_a_non_finite_term_is_named(tmp_path: Path) -> None:
    class Explodes(Act):
        @hookimpl
        def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
            logits = outputs["student"].logits
            return {"bang": logits.sum() * (0.0 if stage.dry or stage.step == 0 else float("inf"))}

    with pytest.raises(NonFiniteLoss, match=r"stage 's', epoch 1, step 1: student\.explodes\.bang is not finite"):
        Run(recipe([{"name": "s", "methods": ["explodes"]}]), registry(explodes=Explodes), out=tmp_path / "o").execute()


def test_needs_are_checked_before_anything_trains(tmp_path: Path) -> None:
    for stages, says in (
        (["lsq", "lsq"], "lsq in stage 'lsq' took them away"),
        (["hinton-kd"], "hinton-kd is not applicable: .*teacher=original"),
        ([{"methods": [{"qkd": {"phase": "tutor"}}], "teacher": "original"}], "quantizer"),
    ):
        with pytest.raises(NotApplicable, match=says):
            Run(recipe(stages), registry(), out=tmp_path / "o").execute()
        assert not (tmp_path / "o").exists()


def test_a_self_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="train and eval mode"):
        recipe([{"methods": ["hinton-kd"], "teacher": "self"}])


def test_the_dry_run_finds_a_fault_of_a_late_stage(tmp_path: Path) -> None:
    class Taps3(Act):
        def __post_init__(self) -> None:
            self.prepare_ = lambda stage: stage.student.tap("nolayer")

    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="no module 'nolayer'"):
        Run(recipe(["magnitude", "magnitude", "taps3"]), registry(taps3=Taps3), out=tmp_path / "o").execute()
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "o").exists()


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


def test_the_default_step_equals_a_loop_by_hand(tmp_path: Path) -> None:
    from condensery.models import build_net, derive_seed

    what = recipe([{"name": "s", "epochs": 2}])
    found = registry()
    students: list[nn.Module] = []

    class Keeps(Run):
        def _close(self, stage: Stage) -> None:
            students.append(stage.student.module)
            super()._close(stage)

    job = Keeps(what, found, out=tmp_path / "o")
    job.execute()

    net = build_net(ModelSpec(key="resnet8", width=0.5), job.task, found, 0)
    torch.manual_seed(derive_seed("stage", 0, "0", "s"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    from condensery.tasks import Subset

    for epoch in range(2):
        net.train()
        for batch in job.task.batches("train", batch_size=16, seed=epoch, subset=Subset(size=32), train=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()  # type: ignore[arg-type, no-untyped-call]
            optimizer.step()
    assert same_numbers(net, students[-1])


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


def test_rounds_stop_when_the_condition_holds(tmp_path: Path) -> None:
    rounds = {
        "repeat": 6,
        "until": "sparsity >= 0.5",
        "stages": [{"name": "p", "methods": [{"magnitude": {"sparsity": "=1 - 0.7 ** (round + 1)"}}]}],
    }
    report = Run(recipe([rounds]), registry(), out=tmp_path / "o").execute()
    reached = [s["report"]["magnitude.sparsity_percent"] for s in report["stages"]]
    assert [round(r, 1) for r in reached] == [30.0, 51.0]


def test_helpers_train_and_vanish(tmp_path: Path) -> None:
    moved: list[float] = []

    class Helped(Act):
        def __post_init__(self) -> None:
            def start(stage: Stage) -> None:
                stage.student.tap("layer1")
                stage.student.helpers["regressor"] = nn.Conv2d(8, 2, 1)

            self.prepare_ = start

        @hookimpl
        def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
            out = stage.student.helpers["regressor"](outputs["student"].taps["layer1"])
            return {"hint": (out - 1).square().mean()}

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            moved.append(float(stage.student.helpers["regressor"].bias.detach().abs().sum()))  # type: ignore[operator]

    report = Run(recipe([{"methods": ["helped"], "epochs": 2}]), registry(helped=Helped), out=tmp_path / "o").execute()
    terms = [h["terms"]["student.helped.hint"] for h in report["stages"][0]["history"]]
    assert terms[1] < terms[0]
    assert moved[-1] > 0
    assert MASK > QUANTIZE
