from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.core.helpers import Act, recipe, registry

from condensery import Method, PluginError, Run, hookimpl
from condensery.contract import StageManager
from condensery.errors import MethodError
from condensery.run import Player, Stage
from condensery.tasks import Batch


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
        (Misspelt(), "unknown hook 'after_stepp'; did you mean 'after_step'"),
        (Unmarked(), "prepare lacks @hookimpl"),
        (Defaulted(), "default for 'stage'"),
        (ByValue(), "compared by value"),
        (Nothing(), "implements no hook"),
        (Act, "not the class Act"),
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


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_an_error_names_stage_method_and_hook(kind: type[BaseException], tmp_path: Path) -> None:
    """A ``sys.exit()`` too: it would end the process, and who had asked for it would not be known."""

    class Fails(Act):
        @hookimpl
        def after_epoch(self, stage: Stage) -> None:
            raise kind("boom")

    with pytest.raises(MethodError, match=f"stage 'bad', fails, after_epoch: {kind.__name__}: boom"):
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
