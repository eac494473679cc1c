"""TAKD is no method of its own but stages that teach one another, each the next one alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe

import condensery_reproductions
from condensery import Registry
from condensery.recipe import load_yaml, parse
from condensery.run import Outputs
from condensery.tasks import Batch
from condensery.testing import different_tensors, play
from condensery_catalogue.cli import main

FOLDER = Path(condensery_reproductions.__file__).parent / "takd"
SMALL = {"model": {"key": "mlp", "hidden": [32]}}


def kd(name: str, hidden: int) -> dict[str, Any]:
    methods = [{"hinton-kd": {"T": 2.0, "alpha": 0.5}}]
    return {"name": name, "methods": methods, "teacher": "input", "student": {"key": "mlp", "hidden": [hidden]}}


def test_each_net_is_taught_by_the_one_before_it_alone(tmp_path: Path) -> None:
    """The last teacher is the assistant as it was trained, bit for bit; the first teacher plays no more."""
    registry = Registry.open()
    assistant = play(recipe([kd("assistant", 16)], **SMALL), registry, tmp_path / "half").student
    start = play(recipe([{**kd("assistant", 16), "epochs": 0}], **SMALL), registry, tmp_path / "start").student
    whole = play(recipe([kd("assistant", 16), kd("student", 8)], **SMALL), registry, tmp_path / "whole")
    assert set(different_tensors(assistant, start)) == {f"fc{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}

    players = whole.stage.players
    assert list(players) == ["student", "teacher"]
    assert different_tensors(players["teacher"].module, assistant) == []
    assert players["student"].module.get_parameter("fc1.weight").shape == (8, 64)


def test_the_loss_of_a_step_by_hand(tmp_path: Path) -> None:
    """tau = 2, lambda = 0.75, scores (0, 0) against (0, 2 ln 3): 1/4 ln 2 + 3/4 * 4 * KL((1/4, 3/4) || (1/2, 1/2))."""
    what = {**kd("student", 8), "methods": [{"hinton-kd": {"T": 2.0, "alpha": 0.75}}]}
    stage = play(recipe([what], **SMALL), Registry.open(), tmp_path / "run").stage
    labels = torch.tensor([0, 1, 1])
    batch = Batch(torch.zeros(3, 1, 8, 8), labels)
    rows = {"student": torch.zeros(3, 2), "teacher": torch.tensor([[0.0, 2 * math.log(3)]]).repeat(3, 1)}
    outputs = {name: Outputs(scores, stage.task, batch) for name, scores in rows.items()}

    terms = stage.terms(stage.student, batch, outputs)
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(sum(terms.values())) == pytest.approx(0.25 * math.log(2) + 0.75 * 4 * divergence, rel=1e-5)


def test_the_cards_composition_is_such_a_chain() -> None:
    stages = parse((Registry.open().card("takd") or {})["composition"])
    assert [(stage["teacher"], stage["student"]) for stage in stages] == [("input", "resnet20"), ("input", "resnet8")]
    assert [stage["methods"] for stage in stages] == 2 * [[{"key": "hinton-kd", "settings": {"T": 5, "alpha": 0.5}}]]


def test_a_search_finds_the_best_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Three trials of the search that stands beside the recipe; each is a path of the space, scored on validation."""
    paths = load_yaml(FOLDER / "space.yaml")["parameters"]["stages"]
    assert [[stage["name"] for stage in path] for path in paths] == [
        ["student"],
        ["wide", "student"],
        ["narrow", "student"],
        ["wide", "narrow", "student"],
    ]

    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    files = [str(FOLDER / "path.yaml"), "--space", str(FOLDER / "space.yaml")]
    quick = ["--set", "train.epochs=1", "--set", "base.epochs=1", "--trials", "3", "--out", str(tmp_path / "found")]
    monkeypatch.setattr("sys.argv", ["condensery", "search", *files, *quick, "--device", "cpu", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert json.loads(out)
    tried = [load_yaml(path)["stages"] for path in tmp_path.glob("found/trials/*/recipe.json")]
    assert len(tried) == 3
    assert all([stage["name"] for stage in stages][-1] == "student" for stages in tried)
