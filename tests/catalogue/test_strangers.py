"""Plugins in packages of their own, pip-installed beside the catalogue: good ones work, broken ones are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.catalogue.sites import condensery

HERE = Path(__file__).parent / "strangers"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install every stranger into one folder."""
    target = tmp_path_factory.mktemp("strangers") / "site"
    packages = [str(p) for p in sorted(HERE.iterdir()) if (p / "pyproject.toml").is_file()]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *packages], check=True)
    return target


def test_a_strangers_method_is_listed_and_shown(site: Path) -> None:
    rows = json.loads(condensery(site, "list", "--json").stdout)
    mine = next(r for r in rows if r["key"] == "sign-weights")
    assert mine["plugin"] == "stranger-good"
    assert mine["runs"] is True
    assert {"hinton-kd", "qkd"} <= {r["key"] for r in rows}
    assert "Sign weights" in condensery(site, "show", "sign-weights").stdout


def test_a_strangers_method_runs_and_composes(site: Path, tmp_path: Path) -> None:
    line = "magnitude -> sign-weights"
    options = ["--model", "resnet8(width=0.5)", "--epochs", "1", "--out", "o", "--json"]
    smaller = ["--set", "data.subset.size=64", "--set", "base=none"]
    done = condensery(site, "compose", line, *options, *smaller, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [s["name"] for s in report["stages"]] == ["magnitude", "sign-weights"]
    zeros = 1 - report["after"]["nonzeros"] / report["after"]["parameters"]
    assert zeros > 0.45  # the masks held under the stranger's quantizer


def test_each_broken_plugin_is_named_and_the_rest_works(site: Path) -> None:
    done = condensery(site, "list")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()

    def about(name: str) -> str:
        found = [line for line in lines if f"plugin '{name}'" in line]
        assert len(found) == 1, lines
        return found[0]

    assert "register_method" in about("stranger-misspelt")
    assert "register_methods lacks @hookimpl" in about("stranger-unmarked")
    assert "method 'lsq' is already offered by 'builtin'" in about("stranger-duplicate")
    assert "RuntimeError: this package is broken" in about("stranger-failing")
    assert "a module or an instance, not the class Offers" in about("stranger-class")
    assert "register_methods has a default for 'register'" in about("stranger-register-default")
    assert "write condensery_api = 1 in it" in about("stranger-unstated")
    assert "written for version 2 of the hooks; this condensery has version 1" in about("stranger-newer")
    assert "never-seen" not in done.stdout
    assert "works-beside" in done.stdout  # the duplicate's other offer still counts


def test_each_bad_card_is_named_and_the_right_one_stays(site: Path) -> None:
    done = condensery(site, "list", "--json")
    listed = {row["key"] for row in json.loads(done.stdout)}
    wrong = {
        "nested_network": "network.0: must be 'CNN'",
        "crossed_bounds": "hyperparameters.share: no number is >= 2 and <= 1",
        "unknown_bound": "hyperparameters.share: unknown field 'atleast'",
        "unknown_family": "family: unknown word 'prunning'; did you mean 'pruning'?",
    }
    for name, says in wrong.items():
        found = [line for line in done.stderr.splitlines() if f"{name}.yaml" in line]
        assert len(found) == 1, done.stderr
        assert "plugin 'stranger-cards'" in found[0]
        assert says in found[0]
        assert name.replace("_", "-") not in listed
    assert {"right-card", "hinton-kd"} <= listed


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("works-beside", "must be a dataclass that extends condensery.Method"),
        ("defaulted", "after_step has a default for 'stage'"),
    ],
)
def test_a_wrong_method_is_named_when_it_is_used(site: Path, tmp_path: Path, key: str, says: str) -> None:
    done = condensery(site, "compose", key, "--out", "o", cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


def test_plugins_shows_every_problem(site: Path) -> None:
    rows = json.loads(condensery(site, "plugins", "--json").stdout)
    problems = {r["name"]: r["problems"] for r in rows}
    assert problems["builtin"] == []
    assert problems["stranger-good"] == []
    assert all(problems[f"stranger-{n}"] for n in ("misspelt", "unmarked", "duplicate", "failing", "class", "cards"))
