"""What a cell comes to: made-up methods for each outcome, on a perceptron that knows the digits well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, offering

from condensery import NotApplicable, Registry, hookimpl
from condensery.run import Stage
from condensery_catalogue.matrix.cells import Kind
from condensery_catalogue.matrix.plan import CAREFUL, NETS, Net, Planned
from condensery_catalogue.matrix.playing import Player, innermost, play


class Idle(Act):
    """Nothing."""


class Forgets(Act):
    """Weights become their opposites: worse than chance, and no layer dies."""

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        with torch.no_grad():
            for weight in stage.weights():
                weight.latent.neg_()


class Declines(Act):
    """Not on this net."""

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        raise NotApplicable(self.key, "the net is too nice")


class Breaks(Act):
    """A fault in a hook."""

    @hookimpl
    def after_epoch(self, stage: Stage) -> None:
        raise ZeroDivisionError("by nothing")


class BreaksLate(Act):
    """A sentence, but only once the net has trained."""

    @hookimpl
    def after_epoch(self, stage: Stage) -> None:
        if stage.epoch:  # the dry run has one epoch
            raise NotApplicable(self.key, "too late")


METHODS = {cls.key: cls for cls in (Idle, Forgets, Declines, Breaks, BreaksLate)}
REGISTRY = Registry.open([("given", offering(methods=METHODS))])


@pytest.fixture(autouse=True)
def perceptron(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    small = {"model": {"key": "mlp", "hidden": [32]}, "task": "digits"}
    monkeypatch.setitem(NETS, "CNN", Net(small, {"epochs": 4}, CAREFUL))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def came(kind: Kind, *methods: str, seeds: int = 1) -> dict[str, Any]:
    return play(Planned("CNN", kind, methods, seeds), REGISTRY)


def test_one_that_does_nothing_keeps_what_the_net_knows() -> None:
    found = came("alone", "idle", seeds=2)
    assert found["outcome"] == "ran"
    assert found["before"] > 85
    assert len(found["quality"]) == 2
    assert min(found["quality"]) > 85
    assert found["bytes"] == pytest.approx(found["bytes_before"], rel=0.1)
    assert 0 < found["seconds"] < 30
    assert found["line"] == "idle"


def test_one_that_harms_the_net_ran_too() -> None:
    found = came("then", "idle", "forgets")
    assert (found["outcome"], found["line"]) == ("ran", "idle -> forgets")
    assert found["quality"][0] < 20 < found["before"]


def test_a_refusal_is_the_reasons_own_sentence() -> None:
    found = came("with", "idle", "declines")
    assert (found["outcome"], found["reason"]) == ("refused", "declines is not applicable: the net is too nice")
    assert "quality" not in found


def test_what_breaks_fails_with_its_innermost_lines() -> None:
    found = came("alone", "breaks")
    assert found["outcome"] == "fails"
    *lines, last = found["reason"].splitlines()
    assert last == "ZeroDivisionError: by nothing"
    assert lines[-1].startswith("test_playing.py:")
    assert lines[-1].endswith('in after_epoch: raise ZeroDivisionError("by nothing")')


def test_a_sentence_that_comes_too_late_fails() -> None:
    """What a method can't do is said before anything trains."""
    found = came("alone", "breakslate")
    assert found["outcome"] == "fails"
    assert "too late" in found["reason"]


def test_no_folder_of_this_machine_is_kept() -> None:
    with pytest.raises(OSError, match="nowhere") as raised:
        Path("/nowhere/at/all").read_text()
    *lines, last = innermost(raised.value).splitlines()
    assert last.startswith("FileNotFoundError: ")
    assert not any(str(Path(__file__).parent) in line for line in lines)


@pytest.mark.slow
def test_a_process_plays_cells_and_one_that_dies_is_noticed() -> None:
    player = Player()
    try:
        assert player.play(Planned("CNN", "alone", ("declined-by-nobody",))) is not None
        player.kill()
        assert player.play(Planned("CNN", "alone", ("idle",))) is None
        assert player.ended == -9
    finally:
        player.close()
