from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from tests.catalogue.commands import condensery
from tests.catalogue.made_up import KEY, install, result

from condensery import Registry, UsageError
from condensery.contract import Register, hookimpl
from condensery.errors import ArtifactError, UnknownKey
from condensery_catalogue import results
from condensery_catalogue.results import recipe_file, stored_results

ERRORS = {"plain": [6.0, 6.2], "better": [4.6, 4.8]}


def test_a_strangers_results_lie_beside_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paper, desk = result("paper", ERRORS), result("desk", ERRORS)
    home = install(tmp_path, "brings_results", monkeypatch, paper, desk)
    (home / "other.json").write_text("{}")
    registry = Registry.open()
    assert recipe_file(registry, KEY) == home / "recipe.yaml"
    assert [r["tier"] for r in stored_results(registry, KEY)] == ["desk", "paper"]
    assert stored_results(registry, KEY)[0] == desk


def test_a_result_of_another_paper_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brings_others", monkeypatch, {**result("desk", ERRORS), "key": "another"})
    assert stored_results(Registry.open(), KEY) == []


def test_a_damaged_result_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = install(tmp_path, "brings_damage", monkeypatch)
    (home / "desk.json").write_text("{")
    with pytest.raises(
        UsageError, match=r"made-up/desk\.json: damaged or can't be read .*; restore it, or reproduce it again"
    ):
        stored_results(Registry.open(), KEY)


@pytest.mark.parametrize("seal", ["its checksum doesn't fit", "it has no checksum"])
def test_a_figure_that_somebody_edited_is_noticed(seal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = install(tmp_path, f"brings_{len(seal)}", monkeypatch, result("desk", ERRORS))
    file = home / "desk.json"
    text = file.read_text().replace("4.6", "3.6")
    assert text.count("3.6") >= 1
    if "no" in seal:
        text = json.dumps({k: v for k, v in json.loads(text).items() if k != "checksum"})
    file.write_text(text)

    with pytest.raises(ArtifactError, match=rf"desk\.json: damaged .*{seal}.*; restore it"):
        stored_results(Registry.open(), KEY)
    done = condensery("site", "build", "--out", str(tmp_path / "pages"))
    assert done.returncode == 2
    assert seal in done.stderr
    assert not (tmp_path / "pages").exists()


class Nowhere:
    condensery_api = 1

    @hookimpl
    def register_recipes(self, register: Register) -> None:
        register("lost", "no_such_package:lost/recipe.yaml")


def test_a_recipe_that_is_not_there_is_named() -> None:
    registry = Registry.open([("nowhere", Nowhere())])
    with pytest.raises(
        UsageError, match=r"plugin 'nowhere': reproduction 'lost' can't be read: no package 'no_such_package'"
    ):
        recipe_file(registry, "lost")
    with pytest.raises(UnknownKey, match="unknown reproduction 'hinton-kdd'; did you mean 'hinton-kd'"):
        recipe_file(registry, "hinton-kdd")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_code(tmp_path: Path) -> None:
    """None for files that a repository around them doesn't hold, then the commit, then the commit and -dirty."""
    package = tmp_path / "package"
    package.mkdir()
    for name in ("results.py", "__init__.py"):
        shutil.copy(Path(results.__file__).with_name(name), package)

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *names, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    module = _module(package / "results.py")
    assert module.commit() is None
    git("init", "--quiet")
    assert module.commit() is None
    git("add", ".")
    git("commit", "--quiet", "--message", "all", "--no-verify")
    assert module.commit() == git("rev-parse", "HEAD")
    kept = tmp_path / "reproductions" / "package" / "key"
    kept.mkdir(parents=True)
    (kept / "desk.json").write_text("{}")
    git("add", ".")
    git("commit", "--quiet", "--message", "result", "--no-verify")
    (kept / "desk.json").write_text("{ }")
    assert module.commit() == git("rev-parse", "HEAD")  # a result is no code
    (package / "__init__.py").write_text("changed = 1\n")
    assert module.commit() == git("rev-parse", "HEAD") + "-dirty"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_elsewhere", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
