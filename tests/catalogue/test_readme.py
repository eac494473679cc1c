"""What the README says must be so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.catalogue.made_up import install

from condensery.contract import Registry
from condensery.recipe import parse, parse_recipe
from condensery_catalogue import readme

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMPOSING = TEXT.partition("## Composing")[2].partition("\n## ")[0]
LINES = re.findall(r"^\| `(.+?)` \|", COMPOSING, flags=re.MULTILINE)


def test_the_table_of_methods_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert readme.main(["--check"]) == 0


def test_a_stale_table_is_found_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(TEXT.replace("| `hinton-kd` [42] |", "| `hinton-kd` [41] |"))
    assert readme.main(["--check"]) == 1
    assert readme.main([]) == 0
    assert (tmp_path / "README.md").read_text() == TEXT
    (tmp_path / "README.md").write_text("no markers")
    assert readme.main([]) == 1


def test_a_strangers_method_is_in_a_table_but_not_in_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "brings_a_method", monkeypatch)
    row = "| `made-up` [7] | Made-up method | joint | CNN | tested |"
    assert row in readme.methods_table(Registry.open()).splitlines()
    monkeypatch.chdir(ROOT)
    assert readme.main(["--check"]) == 0


def test_the_compositions_are_of_known_methods() -> None:
    registry = Registry.open()
    assert len(LINES) >= 5
    for line in LINES:
        recipe = parse_recipe({"model": "resnet8", "task": "digits", "stages": parse(line)})
        keys = re.findall(r"'methods': \[\{'key': '([a-z-]+)'", str(recipe.dump()))
        assert keys, line
        for key in keys:
            registry.find("methods", key)


@pytest.mark.slow
def test_the_python_example_runs_and_runs_again(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.+?)```", TEXT, flags=re.DOTALL)
    environment = {**os.environ, "CONDENSERY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", example]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 10 < after <= 100
    assert 50 < before <= 100
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
