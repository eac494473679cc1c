"""``new-method``: a package that runs as it is made, is found everywhere, and says what is left to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.commands import condensery, started
from tests.catalogue.sites import command

from condensery import Registry
from condensery.contract import NAMED, name_plugin
from condensery.recipe import parse_model, parse_task
from condensery_catalogue import new_method
from condensery_catalogue.claims_list import claim_rows
from condensery_catalogue.fitting import tried
from condensery_catalogue.new_method import TESTED, write_folder
from condensery_catalogue.readme import methods_table
from condensery_catalogue.site.building import pages

ROOT = Path(__file__).parents[2]
LONGEST = "a-key-of-forty-letters-that-still-fitsin"


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test names is forgotten after it."""
    monkeypatch.setenv(NAMED, "")


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the contract suite was started with; it says that all tests passed."""
    return started(monkeypatch, 0)


def made(folder: Path, key: str, family: str) -> Path:
    """Make a package, and return its folder."""
    done = condensery("new-method", key, "--family", family, "--into", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"condensery-{key} is a package" in done.stdout
    return folder / f"condensery-{key}"


@pytest.mark.parametrize("family", TESTED)
def test_it_is_a_whole_package_and_formatted_whatever_its_name(family: str, tmp_path: Path) -> None:
    assert len(LONGEST) == new_method.LONGEST
    for key in ("k", LONGEST):
        project = made(tmp_path, key, family)
        module = key.replace("-", "_")
        home = f"condensery_{module}"
        assert {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} == {
            "pyproject.toml",
            "README.md",
            ".gitignore",
            ".github/workflows/test.yml",
            f"{home}/__init__.py",
            f"{home}/{module}.py",
            f"{home}/{module}.yaml",
            f"{home}/{key}/recipe.yaml",
            f"tests/test_{module}.py",
        }
        for check in (["check"], ["format", "--check"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *check, "."], cwd=project, check=False, capture_output=True
            )
            assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"condensery-{key}" for key in ("k", LONGEST))


@pytest.mark.parametrize("family", TESTED)
def test_nothing_is_wrong_with_it_and_what_is_left_is_said(family: str, tmp_path: Path, suite: list[Any]) -> None:
    key = f"checked-{family}"
    done = condensery("check", str(made(tmp_path, key, family)))
    assert done.returncode == 0, done.stdout
    assert "offers 1 papers, 1 methods," in done.stdout
    assert "wrong:" not in done.stdout
    assert f"/checked_{family}.py line" in done.stdout
    assert f"/checked_{family}.yaml line " in done.stdout
    assert "README.md line 3: TODO: what the paper does" in done.stdout
    assert f"{key}'s card is a draft" in done.stdout
    assert f"{key}: 1 of 1 claims weren't read in the paper: idea" in done.stdout
    assert "things are missing before it is fit to be published" in done.stdout
    assert f"--condensery-plugin=condensery_{key.replace('-', '_')}" in suite[0]


@pytest.mark.parametrize(
    ("key", "gone", "says"),
    [
        ("no-test", "tests/test_no_test.py", "no-test has no test"),
        ("no-ci", ".github/workflows/test.yml", "no CI file"),
        ("no-readme", "README.md", "no README"),
        ("no-recipe", "condensery_no_recipe/no-recipe/recipe.yaml", "no-recipe has no recipe"),
        ("no-licence", 'license = "Apache-2.0" # or another that you choose', "no licence, so nobody may use it"),
        ("no-needs", 'dependencies = ["condensery"]', "no condensery among its dependencies"),
    ],
)
def test_each_lack_is_said_in_words(key: str, gone: str, says: str, tmp_path: Path, suite: list[Any]) -> None:
    """Said where the file or the line has gone, and not before."""
    project = made(tmp_path, key, "pruning")
    said = [condensery("check", str(project))]
    if "=" in gone:
        file = project / "pyproject.toml"
        assert gone in file.read_text()
        file.write_text(file.read_text().replace(gone, ""))
    else:
        (project / gone).unlink()

    # The plugin is a new one, as in a new process: it keeps the files that it has found.
    del sys.modules[f"condensery_{key.replace('-', '_')}"]
    said.append(condensery("check", str(project)))
    assert [done.returncode for done in said] == [0, 0]
    assert [says in done.stdout for done in said] == [False, True]


def test_a_card_that_says_other_defaults_or_compares_what_is_not_there_is_wrong(
    tmp_path: Path, suite: list[Any]
) -> None:
    project = made(tmp_path, "unlike", "pruning")
    for name, old, new in (
        ("unlike.yaml", "default: 0.5", "default: 0.25"),
        ("unlike/recipe.yaml", "claim: idea", "claim: ideas"),
    ):
        file = project / "condensery_unlike" / name
        file.write_text(file.read_text().replace(old, new))
    done = condensery("check", str(project))
    assert done.returncode == 1
    assert "wrong: unlike.sparsity: its default is 0.5 in the class, 0.25 in the card" in done.stdout
    assert "wrong: reproduction 'unlike': " in done.stdout
    assert "did you mean 'idea'" in done.stdout
    assert not suite


@pytest.mark.parametrize(
    ("key", "family", "says"),
    [
        ("lsq", "pruning", "key 'lsq' is taken: plugin 'builtin' offers it"),
        ("Soft-Pruning", "pruning", "lower-case words"),
        ("../evil", "pruning", "lower-case words"),
        ("lambda", "pruning", "choose another key"),
        ("method", "pruning", "choose another key"),
        ("rounded", "quantization", "choose another key"),
        (f"{LONGEST}s", "pruning", "40 characters at most"),
        ("mine", "prunning", "did you mean 'pruning'"),
    ],
)
def test_a_key_that_will_not_do_is_one_line_and_nothing_is_written(
    key: str, family: str, says: str, tmp_path: Path
) -> None:
    done = condensery("new-method", key, "--family", family, "--into", str(tmp_path))
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "condensery-mine").mkdir()
    for into, says in ((tmp_path, "is there already; nothing was written"), (tmp_path / "none", "no such folder")):
        done = condensery("new-method", "mine", "--into", str(into))
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["condensery-mine"]


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, count = Path.write_text, []

    def full(path: Path, *args: Any, **how: Any) -> int:
        count.append(path)
        if len(count) == 3:
            raise OSError(28, "No space left on device")
        return writes(path, *args, **how)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Exception, match="make room on the disk"):
        write_folder(tmp_path / "p", dict.fromkeys("abcd", "text"))
    assert len(count) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_announces_no_plugin_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    done = condensery("check", f"{tmp_path}/")
    assert done.returncode == 2
    assert "announces no plugin" in done.stderr


# ---------------------------------------------------------------- it is found everywhere


def test_it_is_listed_fitted_and_has_its_page_and_rows(tmp_path: Path) -> None:
    project = made(tmp_path, "found", "quantization")
    plugin = ["--plugin", f"{project}/condensery_found"]
    (row,) = [row for row in json.loads(condensery("list", "--json", *plugin).stdout) if row["key"] == "found"]
    assert (row["runs"], row["family"], row["plugin"]) == (True, "quantization", "condensery_found")
    assert "weights of inner layers are rounded" in condensery("show", "found", *plugin).stdout

    named = name_plugin(f"{project}/condensery_found")
    net = {"model": parse_model("resnet8(width=0.5)"), "task": parse_task("digits")}
    assert tried("found", net, Registry.open())[0] == ""  # why fit would say that it doesn't apply
    alone = Registry.open([("found", named.plugin)], entry_points=False)
    assert methods_table(alone).splitlines()[-1].startswith("| `found` | Found | quantization |")
    (claim,) = claim_rows(alone)
    assert claim[:2] == ["`found`", "`idea`"]
    assert claim[5] == "pending"
    page = pages(alone)["m/found.html"]
    assert "weights of inner layers are rounded" in page
    assert "condensery reproduce found" in page


@pytest.mark.slow
def test_the_site_has_its_page_where_it_is_named_or_installed(tmp_path: Path) -> None:
    project = made(tmp_path, "shown", "distillation")
    done = condensery("site", "build", "--out", str(tmp_path / "a"), "--plugin", f"{project}/condensery_shown")
    assert done.returncode == 0, done.stderr
    assert "class scores" in (tmp_path / "a" / "m" / "shown.html").read_text()
    assert (tmp_path / "a" / "m" / "lsq.html").is_file()
    assert "m/shown.html" in (tmp_path / "a" / "index.html").read_text()

    site = tmp_path / "site"
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, str(project)], check=True)
    built = command(site, "condensery_catalogue.cli", "site", "build", "--out", "b", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    for page in ("m/shown.html", "index.html"):
        # The tree that a page is built from may get changes meanwhile, which its foot says.
        named, installed = ((tmp_path / built / page).read_text().replace("-dirty", "") for built in "ab")
        assert named == installed


@pytest.mark.slow
@pytest.mark.parametrize("family", TESTED)
def test_its_own_test_and_the_contract_suite_pass_as_it_is_made(family: str, tmp_path: Path) -> None:
    project = made(tmp_path, f"tried-{family}", family)
    own = command(project, "pytest", "-q", cwd=project)
    assert own.returncode == 0, own.stdout
    assert "2 passed" in own.stdout
    checked = command(tmp_path, "condensery_catalogue.cli", "check", ".", cwd=project)
    assert checked.returncode == 0, checked.stdout
    assert " passed" in checked.stdout
    assert "nothing is wrong" in checked.stdout
