"""``check``: whether a package's plugin keeps the contract, its cards and hooks first, then the contract suite."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from condensery.contract import Registry, StageManager, build_method, name_plugin
from condensery.errors import CondenseryError, UnknownKey, UsageError
from condensery.files import package_folder
from condensery_catalogue.lost_writes import lost_writes

LOADED = ("methods", "models", "tasks", "layers", "codecs", "searches")
"""Kinds whose entries point at code."""


def check_package(package: str, *, everything: bool) -> bool:
    """Check a package's plugins and print what was found; returns whether all is as it should be.

    :param package: a distribution, a plugin's name, or what ``--plugin`` takes.
    :param everything: also the suite's tests that are tried on one network alone otherwise.
    :raises UnknownKey: if nothing of that name is installed.
    """
    if package.endswith(".py") or os.sep in package:
        package = name_plugin(package).name
    registry = Registry.open()
    names = plugins_of(package, registry)

    wrong = 0
    for name in names:
        faults = list(faults_of(name, registry))
        wrong += len(faults)
        offers = {kind: offered(registry, kind, name) for kind in registry.entries}
        said = ", ".join(f"{len(keys)} {kind}" for kind, keys in offers.items() if keys) or "nothing"
        print(f"{name} offers {said}")
        for fault in faults:
            print(f"  wrong: {fault}")
        for lack in lacks_of(offers["methods"], registry):
            print(f"  missing: {lack}")

    tried = [name for name in names if offered(registry, "methods", name)]
    if wrong:
        print("the contract suite was not run: mend what is wrong first")
    elif not tried:
        print("no method, so nothing for the contract suite to try")
    else:
        print("the contract suite: each method on each kind of network, trained, killed, resumed, stored, loaded")
        wrong += run_suite(tried, everything=everything)
    print("something is wrong" if wrong else "all is as it should be")
    return not wrong


def plugins_of(package: str, registry: Registry) -> list[str]:
    """Return the names of a package's plugins.

    :raises UnknownKey: if there are none.
    """
    plain = re.sub(r"[-_.]+", "-", package).lower()
    points = importlib.metadata.entry_points(group="condensery")
    of_package = [p.name for p in points if p.dist and re.sub(r"[-_.]+", "-", p.dist.name).lower() == plain]
    installed = [plugin.name for plugin in registry.plugins]
    found = [name for name in installed if name == package or name in of_package]
    if not found:
        raise UnknownKey("package or plugin", package, [*installed, *{p.dist.name for p in points if p.dist}])
    return found


def offered(registry: Registry, kind: str, plugin: str) -> list[str]:
    """Return the keys of one kind that a plugin offers."""
    return [key for key, entry in registry.entries[kind].items() if entry.plugin == plugin]


def faults_of(name: str, registry: Registry) -> Iterator[str]:
    """Yield what is wrong with a plugin: with its cards and hooks, and with what it points at."""
    for plugin in registry.plugins:
        yield from plugin.problems if plugin.name == name else ()

    for kind in LOADED:
        for key in offered(registry, kind, name):
            try:
                target = registry.load(kind, key)
                if kind == "methods":
                    yield from lost_writes(Path(inspect.getfile(target)))
                    # A stage refuses a method whose hooks would never be called.
                    StageManager("check", [(key, build_method(key, target, {}, registry.card(key) or {}))])
            except CondenseryError as error:
                yield str(error)


def lacks_of(methods: list[str], registry: Registry) -> Iterator[str]:
    """Yield what a plugin's methods would be better with."""
    for key in methods:
        card = registry.card(key)
        if card is None:
            yield f"{key} has no card: it isn't in condensery show, and the suite expects it to refuse every network"
        elif not card.get("claims"):
            yield f"{key}'s card has no claims, so nothing of its paper can be compared"
        if card is not None and key not in registry.entries["recipes"]:
            yield f"{key} has no recipe: condensery reproduce {key} has nothing to run"


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
