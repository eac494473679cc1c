"""Plugins that a user names: by file or module, for every registry of a process and of those that it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from condensery import CondenseryError, Registry
from condensery.contract import NAMED, name_plugin

MODEL = """
from condensery import hookimpl

condensery_api = 1

def build(facts, name): ...

@hookimpl
def register_models(register):
    register("named-model", f"{__name__}:build")
"""


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that offers a model."""
    monkeypatch.setenv(NAMED, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "a_named_plugin", raising=False)
    path = tmp_path / "a_named_plugin.py"
    path.write_text(MODEL)
    return path


def test_what_a_file_registers_is_there_and_loads(named: Path) -> None:
    assert "named-model" not in Registry.open().entries["models"]
    for _ in range(2):  # the second time changes nothing
        name_plugin(str(named))
    registry = Registry.open()
    assert registry.problems == []
    assert registry.find("models", "named-model").plugin == "a_named_plugin"
    assert registry.load("models", "named-model").__name__ == "build"
    assert "named-model" not in Registry.open(entry_points=False).entries["models"]


def test_a_relative_file_is_found_from_another_folder(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(named.parent)
    name_plugin(named.name)
    monkeypatch.chdir("/")
    assert "named-model" in Registry.open().entries["models"]


def test_a_packages_folder_is_a_plugin_too(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = named.parent / "a_named_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from condensery.contract import Papers\n\nplugin = Papers(__name__)\n")
    monkeypatch.chdir(named.parent)
    name_plugin("a_named_package/")
    registry = Registry.open()
    assert registry.problems == []
    assert "a_named_package" in [plugin.name for plugin in registry.plugins]


def test_a_module_that_is_installed_is_there_once(named: Path) -> None:
    name_plugin("condensery_plugins")
    assert Registry.open().problems == []


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("absent.py", None, r"^no such file: .*absent\.py$"),
        ("exits.py", "raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("wrong_import.py", "import nothing_of_that_name", "can't be imported: ModuleNotFoundError: No module named"),
        ("wrong_line.py", "\nx = 1 / 0", r"ZeroDivisionError: division by zero \(.*wrong_line\.py:2\)"),
        ("wrong_syntax.py", "def f(:", r"SyntaxError: .*wrong_syntax\.py, line 1"),
        ("json.py", MODEL, "there is another module named 'json' already; rename the file"),
        ("two-words.py", MODEL, "letters, digits and underscores; rename the file"),
    ],
)
def test_a_wrong_file_is_one_line(named: Path, file: str, text: str | None, says: str) -> None:
    path = named.parent / file
    if text is not None:
        path.write_text(text)
    with pytest.raises(CondenseryError, match=says) as caught:
        name_plugin(str(path))
    assert "\n" not in str(caught.value)
    assert Registry.open().problems == []  # what can't be taken isn't named


def test_what_the_environment_names_wrongly_is_a_problem_of_that_plugin(
    named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAMED, "/nowhere.py")
    (problem,) = Registry.open().problems
    assert "no such file: /nowhere.py" in problem
