"""What core offers: each name in a face's stub is there, is light to import where torch isn't needed, and is typed."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import condensery
from condensery.surgery import attention

ROOMS = [module.name for module in pkgutil.iter_modules(condensery.__path__, "condensery.") if module.ispkg]
FACES = [condensery.__name__, *ROOMS, attention.__name__]


def test_the_rooms_are_there() -> None:
    assert {"condensery.contract", "condensery.recipe", "condensery.nets", "condensery.run"} <= set(ROOMS)


@pytest.mark.parametrize("face", FACES)
def test_each_name_of_a_face_can_be_loaded_and_is_listed(face: str) -> None:
    module = importlib.import_module(face)
    assert module.__file__ is not None
    assert Path(module.__file__).with_suffix(".pyi").is_file()
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None, name
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


@pytest.mark.parametrize("face", FACES)
def test_no_name_of_a_face_is_a_file_of_its_room(face: str) -> None:
    """A file, once imported, is an attribute of its room and would hide what the face offers by that name."""
    module = importlib.import_module(face)
    assert {file.name for file in pkgutil.iter_modules(module.__path__)}.isdisjoint(module.__all__)


def test_what_needs_no_torch_loads_none() -> None:
    code = (
        "import sys, condensery, condensery.contract, condensery.recipe, condensery_plugins, condensery_reproductions;"
        "from condensery import Method, Recipe, Registry, hookimpl;"
        "from condensery.run import Proposal, Search, Space, Trial, best_trials, run_search;"
        "[getattr(room, name) for room in (condensery.contract, condensery.recipe) for name in room.__all__];"
        "print({'torch', 'optuna'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


WRONG = """
from condensery import Stage, Stge
from condensery.nets import clnoe, clone
from condensery.surgery.attention import Haeds, Heads

reveal_type(clone)
"""
CONFIG = """
[mypy]
mypy_path = {core}
follow_imports = silent

[mypy-torch.*,pydantic.*,numpy.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_a_misspelt_import_fails_the_type_check(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "mypy.ini").write_text(CONFIG.format(core=Path(condensery.__file__).parents[1]))
    command = [sys.executable, "-m", "mypy", "--no-color-output", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert 'Module "condensery" has no attribute "Stge"' in done.stdout
    assert 'Module "condensery.nets" has no attribute "clnoe"' in done.stdout
    assert 'Module "condensery.surgery.attention" has no attribute "Haeds"' in done.stdout
    assert 'Revealed type is "def (' in done.stdout
    assert "Found 3 errors in 1 file" in done.stdout
