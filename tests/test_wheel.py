"""A wheel, as a user installs it: built, unpacked outside the checkout, and run there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a command of this Python outside the checkout; returns what it printed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CONDENSERY_DATA")}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    """``make demo``'s command, with nothing of this checkout in reach."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling to build")
    quiet = ("--no-deps", "--quiet", "--disable-pip-version-check")
    run("-m", "pip", "wheel", *quiet, "--no-build-isolation", "-w", str(tmp_path), str(ROOT), cwd=tmp_path)
    (wheel,) = tmp_path.glob("condensery-*.whl")
    home = tmp_path / "home"
    run("-m", "pip", "install", *quiet, "--target", str(home), str(wheel), cwd=tmp_path)

    # What the folder holds comes before what an editable install of this checkout puts on the path.
    code = (
        "import condensery, condensery_catalogue, condensery_reproductions as r; print(condensery.__file__, r.__file__)"
    )
    places = run("-c", code, cwd=tmp_path, PYTHONPATH=str(home)).split()
    assert all(Path(place).is_relative_to(home) for place in places)
    environment = {"PYTHONPATH": str(home), "CONDENSERY_CACHE": str(tmp_path / "cache"), "COLUMNS": "80"}
    said = run("-m", "condensery_catalogue.cli", "demo", cwd=tmp_path, **environment)
    assert "resnet56-l1" in said
    assert said.count("loaded back and run: ") == said.count("as its run measured") == 2
    assert (tmp_path / "runs" / "demo" / "smoke" / "result.json").is_file()


def test_the_citation_names_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (said["version"], said["license"]) == (project["version"], project["license"])
    assert project["version"] == importlib.metadata.version("condensery")


def test_the_readme_names_the_extras_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f"[{extra}]" in text for extra in extras)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []
