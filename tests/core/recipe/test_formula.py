from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import evaluate, holds, setting_at, variables


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("1-0.8**(round+1)", 1 - 0.8**3),
        ("=8 - 2*round", 4),
        ("7 // 2 + 7 % 2", 4),
        ("-round ** 2", -4),
        ("2 ** -1", 0.5),
        ("min(round, rounds, 3) + max(1, 0.5)", 3),
        ("sqrt(abs(-16)) + log(1)", 4.0),
        ("0.5 * (round >= 2)", 0.5),
        ("1 < round < 3", True),
        ("1 < round < 2", False),
        ("round == 2 and not rounds == 2", True),
        ("round != 2 or rounds < 3", False),
    ],
)
def test_values(formula: str, value: float) -> None:
    result = evaluate(formula, {"round": 2, "rounds": 5})
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "=",
        "1 +",
        "'a' * 9",
        "True",
        "1j",
        "[1, 2][0]",
        "().__class__",
        "round.real",
        "(lambda: 1)()",
        "1 if round else 2",
        "round := 3",
        "+1",
        "~1",
        "1 << 9",
        "1 in round",
        "min(1)",
        "abs(1, 2)",
        "min(*round)",
        "log(8, base=2)",
        "\0",
        "(" * 150,
        "1" * 201,
    ],
)
def test_anything_else_is_refused(formula: str) -> None:
    with pytest.raises(UsageError) as caught:
        evaluate(formula, {"round": 2})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("10 ** 10 ** 10", "power is too large"),
        ("2.0 ** 5000", "out of range"),
        ("2**1000 * 2**1000", "too large"),
        ("2**1000 * 2**1000 / 3 > 1", "too large"),
        ("(-8) ** 0.5 < 3", "root of a negative"),
        ("(-8) ** (1e308 * 10)", "root of a negative"),
        ("1 / 0", "zero"),
        ("7 % 0", "zero"),
        ("sqrt(-1)", "formula"),
        ("log(0)", "formula"),
        ("1e308 * 10", "not a finite number"),
    ],
)
def test_numbers_that_cannot_be_computed(formula: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        evaluate(formula, {})


def test_unknown_variables_are_named_with_the_nearest() -> None:
    with pytest.raises(UnknownKey, match=r"'sparsty'; did you mean 'sparsity'\?"):
        evaluate("sparsty >= 0.9", {"sparsity": 0.5})
    with pytest.raises(UnknownKey, match="'rouns'"):  # also where `or` would not look
        evaluate("round == 0 or rouns", {"round": 0, "rounds": 3})
    with pytest.raises(UnknownKey, match="unknown function 'round'"):
        evaluate("round(3.5)", {"round": 0})


def test_variables_are_found_without_values() -> None:
    assert variables("min(sparsity, 1) >= goal or round > 3") == {"sparsity", "goal", "round"}


def test_conditions() -> None:
    assert holds("sparsity >= 0.9", {"sparsity": 0.9})
    assert not holds("sparsity >= 0.9", {"sparsity": math.nan})
    with pytest.raises(UsageError, match="not a condition"):
        holds("sparsity", {"sparsity": 0.9})


@pytest.mark.parametrize(
    ("value", "is_list", "expected"),
    [
        (0.5, False, 0.5),
        ("cosine", False, "cosine"),
        ([1, 2, 3], False, 2),
        ([1, "=10*round + rounds", 3], False, 13),
        ("=round/rounds", False, 1 / 3),
        ([1, 2], True, [1, 2]),
        ([1, 2, 3], True, [1, 2, 3]),
        ([1, "=round"], True, [1, 1]),
        ({"a": 1}, False, {"a": 1}),
    ],
)
def test_settings_by_round(value: Any, is_list: bool, expected: Any) -> None:
    assert setting_at(value, 1, 3, is_list=is_list) == expected


def test_setting_errors_name_the_setting() -> None:
    with pytest.raises(UsageError, match=r"magnitude\.sparsity: .*2 for 3 rounds"):
        setting_at([1, 2], 0, 3, is_list=False, where="magnitude.sparsity")
    with pytest.raises(UsageError, match=r"magnitude\.sparsity: .*'rond'; did you mean 'round'"):
        setting_at("=rond", 0, 3, is_list=False, where="magnitude.sparsity")


@settings(deadline=None)
@given(st.text("0123456789.()+-*/%<>=!,e roundsmixqtlgabv_'\"[]\n\\é", max_size=60) | st.text(max_size=20))
def test_no_text_breaks_it(text: str) -> None:
    problem = ""
    try:
        assert math.isfinite(evaluate(text, {"round": 2, "rounds": 5}))
    except UsageError as error:
        problem = str(error)
    assert len(problem.splitlines()) <= 1
