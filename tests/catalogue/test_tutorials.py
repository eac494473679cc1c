"""The tutorials run as they are written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from condensery import Registry
from condensery.contract import NAMED, name_plugin
from condensery_catalogue.checking import faults_of

DOCS = Path(__file__).parents[2] / "catalogue" / "docs"
BLOCK = re.compile(r"^```(python|yaml|toml|console)(?: title=\"(\S+)\")?\n(.+?)^```", flags=re.MULTILINE | re.DOTALL)


def pieces(name: str) -> list[tuple[str, str | None, str]]:
    """Return the blocks of a tutorial: language, the file that it is, and text; python that follows python is one."""
    found: list[tuple[str, str | None, str]] = []
    for language, title, text in BLOCK.findall((DOCS / f"{name}.md").read_text()):
        if found and not title and language == "python" and found[-1][:2] == ("python", None):
            text = f"{found.pop()[2]}\n{text}"
        found.append((language, title or None, text))
    return found


def follow(name: str, folder: Path) -> str:
    """Do what a tutorial says, from top to bottom, in a folder of its own; returns what was printed."""
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    said = ""
    for language, title, text in pieces(name):
        if title:
            (folder / title).parent.mkdir(parents=True, exist_ok=True)
            (folder / title).write_text(text)
            continue

        commands = [[sys.executable, "-c", text]]
        if language == "console":
            commands = [["bash", "-ec", line[2:]] for line in text.splitlines() if line.startswith("$ ")]
        for command in commands:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
            )
            assert done.returncode == 0, f"{command[-1][:200]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            said += done.stdout
    return said


@pytest.mark.slow
def test_bring_a_net(tmp_path: Path) -> None:
    said = follow("bring-a-net", tmp_path)
    assert "What came out" in said
    assert re.search(r"^\d+\.\d+ -> \d+\.\d+$", said, flags=re.MULTILINE)
    assert "magnitude/student.task" in said
    assert (tmp_path / "runs" / "mine" / "report.json").is_file()
    assert (tmp_path / "runs" / "my-net" / "artifact.safetensors").is_file()


@pytest.mark.slow
def test_reproduce_a_paper(tmp_path: Path) -> None:
    said = follow("reproduce-a-paper", tmp_path)
    assert "network-slimming" in said
    assert re.search(r"^slim \d+\.\d+ \[\d+\]$", said, flags=re.MULTILINE)
    assert re.search(r"^\d+ parameters$", said, flags=re.MULTILINE)
    assert (tmp_path / "runs" / "slimming" / "smoke" / "result.svg").is_file()


@pytest.mark.slow
def test_contribute_a_method(tmp_path: Path) -> None:
    said = follow("contribute-a-method", tmp_path)
    assert "Relational Knowledge Distillation" in said
    report = json.loads((tmp_path / "runs" / "mine" / "report.json").read_text())
    assert "student.relational-kd.distance" in report["stages"][-1]["history"][0]["terms"]
    assert (tmp_path / "runs" / "relational" / "smoke" / "result.json").is_file()


def test_the_method_and_the_card_of_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its distances by hand: of three rows on a line, 0, 3 and 9, they are 3, 9 and 6, and their mean is 6."""
    monkeypatch.setenv(NAMED, "")
    for _, title, text in pieces("contribute-a-method"):
        if title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(text)
    name_plugin(f"{tmp_path}/my_papers")

    registry = Registry.open()
    assert list(faults_of("my_papers", registry)) == []
    assert registry.keys("recipes").count("relational-kd") == 1
    distances = sys.modules[registry.load("methods", "relational-kd").__module__].distances
    assert distances(torch.tensor([[0.0], [3.0], [9.0]])).tolist() == [0.5, 1.5, 1.0]
    assert distances(torch.zeros(2, 4)).tolist() == [0.0]
