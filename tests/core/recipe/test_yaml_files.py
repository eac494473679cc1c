"""YAML from a stranger: a few bytes may stand for millions of entries."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from condensery.errors import UsageError, short
from condensery.recipe import load_yaml, parse_recipe, parse_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 30)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "stands for more than 100,000 entries"),
        ("a: &a [*a]", "a value holds itself"),
        ("a: " + ":".join(["1"] * 100_000), "a number of 199999 characters"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("[" * 100_000, "not plain YAML"),
        ("a: .nan", "not JSON compliant"),
        ("a: -.inf", "not JSON compliant"),
        ("a: " + "x" * 4_000_001, "4,000,004 characters, more than 4,000,000"),
    ],
)
def test_what_grows_without_bound_is_one_line_at_once(text: str, says: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError) as caught:
        parse_yaml(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert time.monotonic() - started < 3


def test_merges_of_merges_end_at_once() -> None:
    """Newer versions of PyYAML take each key once; those before copy it 30^8 times, and are stopped."""
    started = time.monotonic()
    with contextlib.suppress(UsageError):
        assert parse_yaml(MERGES)["a8"] == {"k": 1}
    assert time.monotonic() - started < 3


def test_aliases_and_merges_of_a_normal_size_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1}, "b": [{"x": 1}, {"x": 1}], "c": {"x": 1, "y": 2}
    }  # fmt: skip


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.yaml").open("wb") as file:
        file.truncate(10**12)  # sparse: it takes no room on the disk
    with pytest.raises(UsageError, match=r"long\.yaml: 1,000,000,000,000 bytes, more than"):
        load_yaml(tmp_path / "long.yaml")


def test_a_value_is_shown_without_being_written_out() -> None:
    value: object = ["x"]
    for _ in range(60):
        value = [value, value]
    assert len(short(value)) == 60
    plain: object
    for plain in ({"a": [1, (2,), ()], "b": "it's"}, "text", 1.5, None, [], {}, (1, 2)):
        assert short(plain) == repr(plain)
    assert short("x" * 100) == repr("x" * 100)[:57] + "..."
    assert short(10**6000) == "a number of 19932 bits"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "a\\b", "..", ".hidden", "a\x00b", "x" * 101])
def test_a_recipes_name_leads_nowhere(name: str) -> None:
    with pytest.raises(UsageError, match="recipe: name: "):
        parse_recipe({"name": name, "model": "any", "task": "any"})
    assert parse_recipe({"name": "hinton-kd:arm 1.5", "model": "any", "task": "any"}).name == "hinton-kd:arm 1.5"
