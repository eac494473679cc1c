"""The table of methods at several widths: made of the recipe alone, or of a result too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.made_up import CARD, ERROR, TIER, plan, report

from condensery_catalogue import widths_table
from condensery_catalogue.judging import judge
from condensery_catalogue.widths_table import method_and_width, order_rows, width_rows

ROOT = Path(__file__).parents[2]
ARMS = {arm: {"stages": [{"name": "longer"}]} for arm in ("float-32", "one-4", "one-2", "other-2")}
COMPARE = [
    {**ERROR, "claim": "gain", "arm": "one-2", "baseline_arm": "other-2"},
    {**ERROR, "arm": "one-4", "baseline_arm": "float-32"},
]
MADE = plan(
    tiers={"desk": {**TIER, "arms": ARMS, "grid": {"lr": [0.1, 0.2, 0.3]}, "once": ["*-4"], "compare": COMPARE}}
)
DESK = MADE.tiers["desk"]
ASKED = MADE.comparisons(DESK, CARD)


def measured() -> dict[str, Any]:
    """Return a result: two seeds, one at 4 bits; the net of one arm collapsed."""
    errors = {"float-32": [6.0, 6.0], "one-4": [6.5], "one-2": [7.0, 8.0], "other-2": [9.0, 9.0]}
    reports = {arm: [report(seed, error=e) for seed, e in enumerate(found)] for arm, found in errors.items()}
    reports["other-2"][1]["collapsed"] = [{"stage": "s", "methods": ["m"], "what": ["conv1"]}]
    tried = [{"values": {"lr": rate}} for rate in (0.1, 0.2, 0.3)]
    chosen = {"one-2": 0.2, "other-2": 0.3}
    choices = {arm: {"tried": tried, "chosen": {"lr": rate}} for arm, rate in chosen.items()}
    return judge(MADE, DESK, "desk", CARD, reports, choices)


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert widths_table.main(["--check"]) == 0


def test_an_arm_is_named_after_method_and_width() -> None:
    assert method_and_width("ptq-min-max-8") == ("ptq-min-max", 8)


def test_a_method_has_a_row_and_a_width_a_column() -> None:
    columns, rows = width_rows(DESK, ASKED, measured())
    assert columns == ["method", "32 bits", "4 bits", "2 bits", "rate", "the papers say"]
    assert rows == [
        ["`float`", "6.00 ± 0.00", "-", "-", "-", "-"],
        ["`one`", "-", "6.50", "7.50 ± 0.71", "0.2", "6 -> 4.4 %, error: M, D"],
        ["`other`", "-", "-", "9.00 ± 0.00, collapsed in 1 of 2 seeds", "0.3, at the grid's end", "-"],
    ]


def test_before_it_was_run_all_is_pending() -> None:
    _, rows = width_rows(DESK, ASKED, None)
    assert rows[1] == ["`one`", "-", "pending", "pending", "-", "6 -> 4.4 %, error: M, D"]
    assert [row[-1] for row in order_rows(ASKED, None)] == ["pending"]


def test_two_methods_at_one_width_are_an_order_with_its_verdict() -> None:
    (row,) = order_rows(ASKED, measured())
    assert row[:2] == ["`gain`", "`one-2` against `other-2`"]
    assert row[4] == "9.00 ± 0.00 -> 7.50 ± 0.71 error"
    assert row[6].startswith("scaled-down: ")
    assert "other-2 collapsed in 1 of 2 seeds" in row[6]


def test_an_arm_that_diverged_is_told_so() -> None:
    made = measured()
    del made["arms"]["other-2"]
    made |= {"comparisons": [], "diverged": {"other-2": {"seeds": [1], "of": 2, "why": "w"}}}
    made["grid"]["other-2"]["chosen"] = None
    _, rows = width_rows(DESK, ASKED, made)
    assert rows[2] == ["`other`", "-", "-", "diverged", "-", "-"]
    (row,) = order_rows(ASKED, made)
    assert row[4:] == ["-", "-", "an arm diverged"]
