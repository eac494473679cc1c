"""``new-method``: a first version of a method, in a package of its own or in this project's tree."""

from __future__ import annotations

import datetime
import keyword
import os
import re
import secrets
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError, short
from condensery.files import unwritable

TESTED = {"pruning": "scores", "quantization": "Rounded", "distillation": "apart", "joint": "apart, scores"}
"""The families, and what of each one's method its test looks at by hand."""
LONGEST = 40
"""Characters of a key with which each line that names it still fits."""
FOLDER = Path("plugins/condensery_plugins")
"""Where methods lie in a checkout of this project."""


def print_new_method(key: str, family: str, into: Path, *, in_tree: bool) -> None:
    """Make a method's files, and say what to do with them.

    :param into: the folder that the package's own will lie in.
    :param in_tree: put method, card, recipe and test where they belong in the checkout in the current folder instead.
    :raises UsageError: for a key that won't do, or a file or folder that is there; nothing is written then.
    """
    words = words_of(key, family)
    if in_tree:
        files = tree_files(words)
        made = write_new(Path(), files)
        print("\n".join(str(path) for path in made))
        print("wrote a small method that runs; your paper's comes where TODO stands: see CONTRIBUTING.md")
        return

    folder = into / words["project"]
    write_folder(folder, package_files(words))
    print(f"{folder} is a package with a small method that runs; your paper's comes where TODO stands. In it:")
    print('  pip install -e ".[test]"    the method is then in every command; --plugin does without')
    print("  pytest                      its own test")
    print("  condensery check .          what is wrong or missing, and the contract suite")


def words_of(key: str, family: str) -> dict[str, str]:
    """Return what the templates are filled with.

    :raises UsageError: for a key that is taken, or that no file or class can be named after.
    :raises UnknownKey: for a family that has no method to begin with.
    """
    if family not in TESTED:
        raise UnknownKey("family", family, TESTED)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", key) or len(key) > LONGEST:
        what = f"lower-case words joined by '-', {LONGEST} characters at most"
        raise UsageError(f"key {short(key)}: it must be {what}, such as soft-filter-pruning")
    module, cls = key.replace("-", "_"), "".join(word.capitalize() for word in key.split("-"))
    names = {"key": key, "family": family, "module": module, "cls": cls, "tested": TESTED[family]}
    own = {"project": f"condensery-{key}", "package": f"condensery_{module}"}
    words = {**names, **own, "name": key.replace("-", " ").capitalize(), "year": str(datetime.date.today().year)}

    # The class's name stands once in the file, unless it is that of something else there.
    twice = len(re.findall(rf"\b{cls}\b", filled(f"{family}/method.py", words))) > 1
    if keyword.iskeyword(module) or twice:
        raise UsageError(f"key {key!r}: Python or the method's file has this word already; choose another key")

    registry = Registry.open()
    for kind in ("methods", "papers", "recipes"):
        if key in registry.entries[kind]:
            raise UsageError(f"key {key!r} is taken: plugin {registry.find(kind, key).plugin!r} offers it")
    return words


def package_files(words: dict[str, str]) -> dict[str, str]:
    """Return the texts of a package's files by path."""
    package = words["package"]
    return {
        "pyproject.toml": filled("package/pyproject.toml", words),
        "README.md": filled("package/README.md", words),
        ".gitignore": filled("package/gitignore", words),
        ".github/workflows/test.yml": filled("package/ci.yml", words),
        f"{package}/__init__.py": filled("package/init.py", words),
        **paper_files(words, Path(package), Path("tests"), Path(package), home=package),
    }


def tree_files(words: dict[str, str]) -> dict[str, str]:
    """Return the texts of a method's files by path, for this project's own tree.

    :raises UsageError: if the current folder is no checkout.
    """
    if not FOLDER.is_dir():
        raise UsageError(f"--in-tree: no {FOLDER} here: the current folder is no checkout of Condensery")
    tests, recipes = Path("tests/plugins") / words["family"], Path("reproductions/condensery_reproductions")
    home = f"{FOLDER.name}.{words['family']}"
    return paper_files(words, FOLDER / words["family"], tests, recipes, home=home)


def paper_files(words: dict[str, str], methods: Path, tests: Path, recipes: Path, *, home: str) -> dict[str, str]:
    """Return the texts of the four files of a paper by path.

    :param methods: folder of the method and its card; ``home`` is that folder as a module.
    """
    family, module = words["family"], words["module"]
    words = {**words, "home": home}
    return {
        f"{methods}/{module}.py": filled(f"{family}/method.py", words),
        f"{methods}/{module}.yaml": filled(f"{family}/card.yaml", words),
        f"{tests}/test_{module}.py": filled(f"{family}/test.py", words),
        f"{recipes}/{words['key']}/recipe.yaml": filled("recipe.yaml", words),
    }


def filled(name: str, words: dict[str, str]) -> str:
    """Return one filled template."""
    loader = PackageLoader("condensery_catalogue", "kit")
    templates = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return templates.get_template(f"{name}.j2").render(words)


# ---------------------------------------------------------------- writing


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write files into a folder that is new; it is there with all of them, or not at all.

    :raises UsageError: if it is there, or the folder that it is to lie in isn't.
    """
    if not folder.parent.is_dir():
        raise UsageError(f"no such folder: {folder.parent}")
    refuse_old([folder])

    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    try:
        temporary.mkdir()
        write_new(temporary, files)
        os.rename(temporary, folder)
    except OSError as error:
        raise unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_new(folder: Path, files: dict[str, str]) -> list[Path]:
    """Write files that are new, all or none, and return their paths.

    :raises UsageError: if one of them is there.
    """
    paths = [folder / name for name in files]
    refuse_old(paths)
    try:
        for path, text in zip(paths, files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        raise unwritable(folder, error) from None
    return paths


def refuse_old(paths: list[Path]) -> None:
    """Refuse to write where something lies.

    :raises UsageError: naming it.
    """
    there = [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise UsageError(f"{there[0]} is there already; nothing was written")
