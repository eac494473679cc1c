"""``check``: whether a package's plugin keeps the contract, its cards and hooks first, then the contract suite."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from condensery.contract import Registry, StageManager, build_method, name_plugin, settings_of
from condensery.errors import CondenseryError, UnknownKey, UsageError
from condensery.files import package_folder
from condensery_catalogue.app import waited_for
from condensery_catalogue.lost_writes import lost_writes
from condensery_catalogue.metrics import measures
from condensery_catalogue.publishing import lacks_of, plugin_files
from condensery_catalogue.reproduction import card_of, load_reproduction

LOADED = ("methods", "models", "tasks", "layers", "codecs", "searches")
"""Kinds whose entries point at code."""


def check_package(package: str, *, everything: bool) -> bool:
    """Check a package's plugins and print what was found; returns whether nothing is wrong.

    :param package: a distribution, a plugin's name, the folder of a project, or what ``--plugin`` takes.
    :param everything: also the suite's tests that are tried on one network alone otherwise.
    :raises UnknownKey: if nothing of that name is installed.
    :raises UsageError: for a folder that announces no plugin.
    """
    words = [package]
    if package.endswith(".py") or os.sep in package or package == os.curdir:
        folder = Path(package).resolve()
        files = plugin_files(folder) if (folder / "pyproject.toml").is_file() else [folder]
        words = [name_plugin(str(file)).name for file in files]
    registry = Registry.open()
    names = list(dict.fromkeys(name for word in words for name in plugins_of(word, registry)))

    wrong = missing = 0
    for name in names:
        with waited_for(f"loading {name}"):
            faults = list(faults_of(name, registry))
        offers = {kind: offered(registry, kind, name) for kind in registry.entries}
        said = ", ".join(f"{len(keys)} {kind}" for kind, keys in offers.items() if keys) or "nothing"
        print(f"{name} offers {said}")
        for fault in faults:
            print(f"  wrong: {fault}")
        wrong += len(faults)

        # What can't be loaded can't be looked at.
        for lack in [] if faults else lacks_of(module_of(name), offers["methods"], registry):
            print(f"  missing: {lack}")
            missing += 1

    tried = [name for name in names if offered(registry, "methods", name)]
    if wrong:
        print("the contract suite was not run: mend what is wrong first")
    elif not tried:
        print("no method, so nothing for the contract suite to try")
    else:
        print("the contract suite: each method on each kind of network, trained, killed, resumed, stored, loaded")
        wrong += run_suite(tried, everything=everything)
    print(ending(wrong, missing))
    return not wrong


def ending(wrong: int, missing: int) -> str:
    """Return the last line of a check."""
    if wrong:
        return "something is wrong"
    if missing:
        what = "1 thing is" if missing == 1 else f"{missing} things are"
        return f"nothing is wrong; {what} missing before it is fit to be published"
    return "all is as it should be"


def plugins_of(package: str, registry: Registry) -> list[str]:
    """Return the names of a package's plugins.

    :param package: a distribution, a plugin's name, or the module that it lies in.
    :raises UnknownKey: if there are none.
    """
    plain = re.sub(r"[-_.]+", "-", package).lower()
    points = importlib.metadata.entry_points(group="condensery")
    of_package = [p.name for p in points if p.dist and re.sub(r"[-_.]+", "-", p.dist.name).lower() == plain]
    of_module = [p.name for p in points if p.module == package]
    installed = [plugin.name for plugin in registry.plugins]
    found = [name for name in installed if name in (package, *of_package, *of_module)]
    if not found:
        raise UnknownKey("package or plugin", package, [*installed, *{p.dist.name for p in points if p.dist}])
    return found


def module_of(plugin: str) -> str:
    """Return the module that a plugin lies in; one that was named goes by that name."""
    points = importlib.metadata.entry_points(group="condensery", name=plugin)
    return next((point.module for point in points), plugin)


def offered(registry: Registry, kind: str, plugin: str) -> list[str]:
    """Return the keys of one kind that a plugin offers."""
    return [key for key, entry in registry.entries[kind].items() if entry.plugin == plugin]


def faults_of(name: str, registry: Registry) -> Iterator[str]:
    """Yield what is wrong with a plugin: with its cards, hooks and recipes, and with what it points at."""
    for plugin in registry.plugins:
        yield from plugin.problems if plugin.name == name else ()

    for kind in LOADED:
        for key in offered(registry, kind, name):
            try:
                target = registry.load(kind, key)
                if kind == "methods":
                    yield from lost_writes(Path(inspect.getfile(target)))
                    # A stage refuses a method whose hooks would never be called.
                    card = registry.card(key)
                    StageManager("check", [(key, build_method(key, target, {}, card or {}))])
                    yield from disagreements(key, target, card) if card is not None else ()
            except CondenseryError as error:
                yield str(error)

    for key in offered(registry, "recipes", name):
        try:
            plan = load_reproduction(registry, key)
            card = card_of(registry, plan)
            for tier in plan.tiers.values():
                known = {arm: measures(registry, recipe) for arm, recipe in tier.recipes(key).items()}
                plan.ready(tier, card, known)
        except CondenseryError as error:
            yield f"reproduction {key!r}: {error}"


def disagreements(key: str, cls: type, card: Mapping[str, Any]) -> Iterator[str]:
    """Yield where a card's hyper-parameters aren't those of its class."""
    described, fields = card.get("hyperparameters") or {}, settings_of(cls)
    for name in sorted(described.keys() ^ fields.keys()):
        has, lacks = ("card", "class") if name in described else ("class", "card")
        yield f"{key}: the {has} has the setting {name!r}, and the {lacks} hasn't"

    for name in described.keys() & fields.keys():
        field = fields[name]
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        if described[name]["default"] != made:
            yield f"{key}.{name}: its default is {made!r} in the class, {described[name]['default']!r} in the card"


def run_suite(plugins: list[str], *, everything: bool) -> int:
    """Run the contract suite on some plugins' methods in a process of its own; returns pytest's exit code.

    :raises UsageError: without pytest.
    """
    if package_folder("pytest") is None:
        raise UsageError("the contract suite needs the package pytest: pip install pytest")
    chosen = [f"--condensery-plugin={name}" for name in plugins]
    slow = [] if everything else ["-m", "not slow"]
    with tempfile.TemporaryDirectory() as folder:
        # A file of its own settings, so that those of the folder that the user stands in don't count.
        (Path(folder) / "pytest.ini").write_text("[pytest]\n")
        suite = ["--pyargs", "condensery.testing.test_contract", "-p", "condensery.testing.plugin", *chosen, *slow]
        quiet = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", f"-c{folder}/pytest.ini"]
        command = [sys.executable, "-m", "pytest", *suite, *quiet]
        sys.stdout.flush()  # what was found before stands above what pytest prints
        return subprocess.run(command, check=False, env={**os.environ, "PYTEST_ADDOPTS": ""}).returncode
