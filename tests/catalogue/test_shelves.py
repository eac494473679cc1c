"""What there is to run on, what it needs, and what is kept."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.commands import condensery

from condensery import Registry
from condensery_catalogue.inputs import recipes_weights
from condensery_catalogue.shelves import KINDS, trained

REGISTRY = Registry.open()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; no test may remove a user's own."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "cache"


def rows(command: str) -> dict[str, Any]:
    """Return what a command says as JSON, by the first field."""
    found = json.loads(condensery(command, "--json").stdout)
    return {next(iter(row.values())): row for row in found}


def put(path: Path, size: int, days: float = 0.0) -> Path:
    """Write a file of a size, so many days ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - 86400 * days,) * 2)
    return path


@pytest.mark.parametrize("command", ["models", "tasks", "data", "cache"])
def test_tables_fit_80_columns(command: str) -> None:
    done = condensery(command)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) > 8
    assert all(len(line) <= 80 for line in lines if len(line.split()) > 1)


def test_models_and_tasks_are_those_of_the_registry() -> None:
    models, tasks = rows("models"), rows("tasks")
    assert list(models) == REGISTRY.keys("models")
    assert list(tasks) == REGISTRY.keys("tasks")
    assert {"hidden", "dropout"} <= set(models["mlp"]["settings"])
    assert (tasks["digits"]["data"], tasks["cola"]["data"], tasks["cola"]["figure"]) == ("none", "glue", "matthews")
    assert all(row["what"] for row in (*models.values(), *tasks.values()))


def test_data_says_what_is_missing_where_and_who_has_it(cache: Path) -> None:
    """One of MNIST's four files is there, all of Fashion-MNIST's, and CoLA was unpacked before."""
    files = rows("data")["mnist"]["files"]
    assert len(files) == 4
    put(cache / "data" / "mnist" / next(iter(files)), 1)
    for name in files:
        put(cache / "data" / "fashion-mnist" / name, 1)
    put(cache / "decoded" / "glue-cola-0123" / "sums.json", 1)

    found = rows("data")
    assert [found[key]["state"] for key in ("mnist", "fashion-mnist", "cola", "cifar10")] == [
        "absent",
        "here",
        "kept",
        "absent",
    ]
    assert found["mnist"]["looked"] == [{"folder": str(cache / "data" / "mnist"), "absent": list(files)[1:]}]
    assert found["fashion-mnist"]["there"] == str(cache / "data" / "fashion-mnist")
    hub = found["cifar10"]["hub"]
    assert (hub["name"], sorted(hub["files"])) == ("uoft-cs/cifar10", ["plain_text/test", "plain_text/train"])
    assert found["spoken-digits"]["hub"] is None
    assert "digits" not in found
    assert all(row["source"] for row in found.values() if "data" in row)

    out = " ".join(condensery("data").stdout.split())
    assert f"uoft-cs/cifar10, revision {hub['revision'][:12]}, pinned" in out
    assert "files: labels.npz, train_0.zip" in out


def test_data_names_the_trained_nets_that_recipes_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One net is there, two are not."""
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path))
    here = put(tmp_path / "ckpt_cifar10_resnet" / "resnet20.safetensors", 1)
    sources = recipes_weights(REGISTRY)
    assert [source.rpartition("/")[2] for source in sources] == [f"resnet{n}.safetensors" for n in (20, 32, 56)]
    found = [trained(source, keys) for source, keys in sources.items()]
    assert [row["state"] for row in found] == ["here", "absent", "absent"]
    assert found[0]["where"] == str(here)
    assert "thinet" in found[2]["needed_by"]
    lacks, origin, _ = found[2]["where"].splitlines()
    assert lacks == "no resnet56.safetensors in $CONDENSERY_DATA/ckpt_cifar10_resnet"
    assert "akamaster/pytorch_resnet_cifar10" in origin


def test_the_cache_is_counted_by_kind(cache: Path) -> None:
    put(cache / "nets" / "a.safetensors", 1_500_000, days=3)
    put(cache / "nets" / "b.safetensors", 500_000)
    put(cache / "decoded" / "mnist" / "x.npy", 100)
    nets = rows("cache")["nets"]
    assert (nets["files"], nets["bytes"]) == (2, 2_000_000)
    assert (round(nets["newest_days"]), round(nets["oldest_days"])) == (0, 3)
    (line,) = [line for line in condensery("cache").stdout.splitlines() if line.startswith(" nets")]
    assert line.split()[:6] == ["nets", "2", "2.0", "0", "to", "3"]


def test_clear_removes_what_is_named_and_says_how_much(cache: Path) -> None:
    net, decoded = put(cache / "nets" / "a.safetensors", 2_000_000), put(cache / "decoded" / "x.npy", 1)
    refused = condensery("cache", "clear", "nets")
    assert "--yes" in refused.stderr  # nobody can be asked here
    assert net.exists()

    done = condensery("cache", "clear", "nets", "--yes")
    assert done.stdout.startswith("nets: 1 files, 2.0 MB")
    assert not net.exists()
    assert decoded.exists()
    assert "nothing to remove" in condensery("cache", "clear", "nets", "--yes").stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clear"], "say what to remove"),
        (["clear", "net"], "did you mean 'nets'"),
        (["cler"], "did you mean 'clear'"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], says: str, cache: Path) -> None:
    put(cache / "nets" / "a", 1)
    done = condensery("cache", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert (cache / "nets" / "a").exists()


def test_a_folder_that_is_a_link_stays(cache: Path, tmp_path: Path) -> None:
    mine = put(tmp_path / "mine" / "file", 1)
    cache.mkdir()
    (cache / "data").symlink_to(mine.parent)
    assert condensery("cache", "clear", "data", "--yes").returncode == 2
    assert mine.exists()


def test_all_that_core_keeps_is_listed() -> None:
    """Each folder that the code names below the cache."""
    import re

    import condensery

    code = "".join(path.read_text() for path in Path(condensery.__file__).parent.rglob("*.py"))
    named = set(re.findall(r'cache_dir\(\) / "(\w+)"', code))
    assert len(named) > 4
    assert named <= set(KINDS)
