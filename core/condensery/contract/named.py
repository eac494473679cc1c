"""Plugins that a user names: a file, a package's folder, or a module that no package announces. Imports no torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from condensery.errors import CRASH, PluginError, UsageError

NAMED = "CONDENSERY_PLUGINS"
"""Environment variable: files, folders and modules, parted as in ``PATH``; processes that are started have it too."""


class Named(NamedTuple):
    """A plugin that a user has named: the name it goes by, itself, and what was named."""

    name: str
    plugin: object
    source: str


def named_plugins() -> list[str]:
    """Return what ``$CONDENSERY_PLUGINS`` names."""
    return [word for word in os.environ.get(NAMED, "").split(os.pathsep) if word]


def name_plugin(word: str) -> Named:
    """Load a plugin and let every registry of this process, and of those that it starts, have it.

    :param word: a file, a package's folder with a ``/`` in it, or the name of a module.
    :raises UsageError: if there is no such file, or its name is taken.
    :raises PluginError: if it can't be imported.
    """
    word = str(Path(word).resolve()) if _is_file(word) else word
    found = load_named(word)
    os.environ[NAMED] = os.pathsep.join(dict.fromkeys([*named_plugins(), word]))
    return found


def load_named(word: str) -> Named:
    """Import a file or a module; its plugin is what it calls ``plugin``, or else the module with its hooks.

    :raises UsageError: if there is no such file, or its name is taken.
    :raises PluginError: if it can't be imported, naming its line.
    """
    try:
        module = _module_of(Path(word)) if _is_file(word) else importlib.import_module(word)
    except UsageError:
        raise
    except CRASH as error:
        # What stands innermost is the fault's own place: in the file itself, or in what it imports.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "" if isinstance(error, SyntaxError | ModuleNotFoundError) else f" ({frame.filename}:{frame.lineno})"
        raise PluginError(f"plugin {word}: can't be imported: {type(error).__name__}: {error}{place}") from error
    return Named(module.__name__, getattr(module, "plugin", module), word)


def _is_file(word: str) -> bool:
    return word.endswith(".py") or os.sep in word


def _module_of(path: Path) -> ModuleType:
    """Import a file or a package's folder under its own name, so that ``module:Name`` finds what is in it.

    :raises UsageError: if there is no such file, or another module has its name.
    """
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"no such file: {file}")
    if not path.stem.isidentifier():
        raise UsageError(f"plugin {path}: a module's name has letters, digits and underscores; rename the file")

    # Behind all others, so that a file in this folder hides no module that is installed.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    known = sys.modules.get(path.stem)
    spec = importlib.util.find_spec(path.stem) if known is None else known.__spec__
    if spec is None or Path(spec.origin or "").resolve() != file.resolve():
        raise UsageError(f"plugin {path}: there is another module named {path.stem!r} already; rename the file")
    return importlib.import_module(path.stem)
