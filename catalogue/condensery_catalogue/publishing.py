"""What a plugin lacks before it is fit to be published: in its cards and recipes, and in the package around them."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery_catalogue.reproduction import load_reproduction

TODO = re.compile(r"\bTODO\b.*")
"""What the templates of ``new-method`` leave to be filled in."""
LICENCES = ("LICEN[CS]E*", "COPYING*")
CI = (".github/workflows/*.y*ml", ".gitlab-ci.yml", ".ci/*", ".circleci/config.yml")


def plugin_files(project: Path) -> list[Path]:
    """Return the packages and modules that a project's ``pyproject.toml`` announces as plugins.

    :raises UsageError: if it announces none, or one that isn't there.
    """
    announced = project_data(project).get("entry-points", {}).get("condensery", {})
    if not announced:
        raise UsageError(
            f"{project / 'pyproject.toml'} announces no plugin: it has no [project.entry-points.condensery]"
        )

    found = []
    for target in announced.values():
        name = target.partition(":")[0].partition(".")[0]
        places = [place / part for place in (project, *project.glob("*/")) for part in (name, f"{name}.py")]
        here = [path for path in places if path.suffix or (path / "__init__.py").is_file()]
        found += [path for path in here if path.exists()][:1]
        if not any(path.stem == name for path in found):
            raise UsageError(f"{project / 'pyproject.toml'} announces {target!r}, and there is no {name} in {project}")
    return found


def project_data(project: Path) -> dict[str, Any]:
    """Return what a ``pyproject.toml`` says of its project.

    :raises UsageError: if it can't be read.
    """
    path = project / "pyproject.toml"
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from None
    return found if isinstance(found, dict) else {}


def lacks_of(module: str, methods: Sequence[str], registry: Registry) -> Iterator[str]:
    """Yield what a plugin and its package would be better with.

    :param module: that the plugin is, or lies in.
    :param methods: keys of its methods.
    """
    for key in methods:
        yield from card_lacks(key, registry)

    # A package's own folder, or the file of a plugin that is one; a project lies around it, or one further out.
    place = sys.modules[module.partition(".")[0]].__file__
    if place is None:
        yield f"the package {module} has no __init__.py, so its files aren't looked at"
        return
    file = Path(place)
    root = file.parent if file.name == "__init__.py" else file
    project = next((folder for folder in list(root.parents)[:2] if (folder / "pyproject.toml").is_file()), None)
    if project is not None:
        yield from project_lacks(project)
        yield from test_lacks(project, root, {key: registry.load("methods", key) for key in methods})
    else:
        yield from installed_lacks(root.stem)

    sources = [path for path in sorted(root.rglob("*")) if path.suffix in (".py", ".yaml")] if root.is_dir() else [root]
    yield from left_to_do(sources, root.parent)


def card_lacks(key: str, registry: Registry) -> Iterator[str]:
    """Yield what a method's card and recipe lack."""
    card = registry.card(key)
    if card is None:
        yield f"{key} has no card: it isn't in condensery show, and the suite expects it to refuse every network"
        return

    claims = card.get("claims") or []
    unread = [c["id"] for c in claims if c["value"]["source"] in ("recalled", "second-hand")]
    if not claims:
        yield f"{key}'s card has no claims, so nothing of its paper can be compared"
    elif unread:
        named = f"{', '.join(unread[:3])}{', ...' if len(unread) > 3 else ''}"
        yield f"{key}: {len(unread)} of {len(claims)} claims weren't read in the paper: {named}"
    if card.get("status") == "draft":
        yield f"{key}'s card is a draft: its status is tested once tests hold what the paper says"

    # A recipe has its method's key, or another one and the method's card.
    plugin = registry.entries["methods"][key].plugin
    own = [name for name, entry in registry.entries["recipes"].items() if entry.plugin == plugin or name == key]
    plans = [plan for plan in (load_reproduction(registry, name) for name in own) if key in (plan.key, plan.card)]
    if not plans:
        yield f"{key} has no recipe: condensery reproduce {key} has nothing to run"
    yield from (f"reproduction {plan.key!r} has no smoke tier" for plan in plans if "smoke" not in plan.tiers)


# ---------------------------------------------------------------- the package around a plugin


def project_lacks(project: Path) -> Iterator[str]:
    """Yield what a project's folder lacks."""
    try:
        said = project_data(project)
    except UsageError as error:
        yield str(error)
        return

    if not said.get("entry-points", {}).get("condensery"):
        yield "pyproject.toml has no [project.entry-points.condensery], so who installs the package doesn't get it"
    needed = [re.split(r"[^\w.-]", word, maxsplit=1)[0] for word in said.get("dependencies", [])]
    if "condensery" not in (said.get("name"), *needed):
        yield "pyproject.toml has no condensery among its dependencies"
    if not said.get("license") and not [path for name in LICENCES for path in project.glob(name)]:
        yield "it has no licence, so nobody may use it: say license in pyproject.toml"
    if not any(project.glob("README*")):
        yield "it has no README"
    if not [path for name in CI for path in project.glob(name)]:
        yield "it has no CI file, so nothing tries it at each change; condensery new-method makes one"
    yield from left_to_do([project / "pyproject.toml", *project.glob("README*")], project)


def test_lacks(project: Path, root: Path, methods: Mapping[str, type]) -> Iterator[str]:
    """Yield which methods no test of a project names, and what is left to do in their tests.

    :param root: the plugin's package, in which tests may lie too.
    :param methods: classes by key.
    """
    found = {*project.glob("test_*.py"), *project.glob("tests/**/test_*.py"), *root.rglob("test_*.py")}
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(found)}
    for key, cls in methods.items():
        module = cls.__module__.rpartition(".")[2]
        names = re.compile(rf"\b({re.escape(key)}|{cls.__name__}|{module})\b")
        if not any(names.search(text) for text in texts.values()):
            yield f"{key} has no test: a value worked out by hand, at least"
        yield from left_to_do([path for path in texts if path.stem == f"test_{module}"], project)


def installed_lacks(package: str) -> Iterator[str]:
    """Yield what an installed package lacks, as far as that can be told without its project's folder."""
    try:
        said = distribution(packages_distributions().get(package, [package])[0]).metadata
    except PackageNotFoundError:
        yield "there is no pyproject.toml around it, so nobody can install it; condensery new-method makes one"
        return
    if not any(field in said for field in ("License-Expression", "License", "License-File")):
        yield "it has no licence, so nobody may use it: say license in pyproject.toml"


def left_to_do(paths: Sequence[Path], base: Path) -> Iterator[str]:
    """Yield which files have places that are marked as to be filled in.

    :param base: folder that paths are told from.
    """
    for path in paths:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [(n, match[0].rstrip(' ."')) for n, line in enumerate(lines, 1) if (match := TODO.search(line))]
        if found:
            (number, text), more = found[0], f", and {len(found) - 1} more" if found[1:] else ""
            yield f"{path.relative_to(base)} line {number}: {text}{more}"
