from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.catalogue.made_up import KEY, install, result

from condensery import Registry
from condensery_catalogue import results_table
from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.results import stored_results
from condensery_catalogue.results_table import claim_rows, results_page

ROOT = Path(__file__).parents[2]


def test_the_table_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert results_table.main(["--check"]) == 0


def test_a_strangers_paper_has_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two claims at the paper's scale, where they were measured; one of the desk tier, which nobody has run."""
    measured = result("paper", {"plain": [6.0, 6.2, 6.1], "better": [4.4, 4.6, 4.5]})
    install(tmp_path, "brings_rows", monkeypatch, measured)
    desk, error, gain = (row for row in claim_rows(Registry.open()) if KEY in row["reproduction"])
    said = {
        "claim": "`error`",
        "what": "error: M, D",
        "the paper says": "6 -> 4.4 %",
        "source": "read: p. 1, M, pruned",
    }
    assert desk == {
        "reproduction": "`made-up` [7]",
        "tier": "desk",
        "scale": "scaled-down",
        **said,
        "verdict": "pending",
    }
    assert error == {
        "reproduction": "`made-up` [7]",
        "tier": "paper, recipe changed since",  # the made-up result is of no recipe
        "scale": "paper",
        **said,
        "measured here": "6.10 ± 0.10 -> 4.50 ± 0.10 error",
        "seeds": "3",
        "effect": "+1.6 claimed, +1.6 here (+1.37 to +1.83)",
        "verdict": "reproduced: a gain, as claimed",
    }
    assert gain["effect"] == "+1.5 claimed, +1.6 here (+1.37 to +1.83)"
    assert gain["the paper says"] == "1.5 (recalled, not read) points"
    assert gain["verdict"] == "partly reproduced: as claimed, but the claim was only recalled"


def test_the_projects_own_table_holds_no_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "brings_strange_rows", monkeypatch)
    assert "`made-up`" in results_page(Registry.open())
    assert "`made-up`" not in results_page(own_registry())
    monkeypatch.chdir(ROOT)
    assert results_table.main(["--check"]) == 0


def test_every_tier_that_nobody_ran_is_pending() -> None:
    registry = own_registry()
    keys = registry.keys("recipes")
    tiers = {(key, tier) for key in keys for tier in load_reproduction(registry, key).tiers if tier != "smoke"}
    stored = {(key, found["tier"]) for key in keys for found in stored_results(registry, key)}
    made = [(row["reproduction"].split("`")[1], row["tier"], row.get("verdict")) for row in claim_rows(registry)]
    rows = [(key, tier.partition(",")[0], verdict) for key, tier, verdict in made]
    assert stored
    assert {(key, tier) for key, tier, _ in rows} == tiers
    assert {(key, tier) for key, tier, verdict in rows if verdict == "pending"} == tiers - stored


def test_collapsed_arms_are_rows_even_where_nothing_compares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = result("desk", {"plain": [6.0], "better": [4.6], "alone": [90.0]}, collapsed=("better", "alone"))
    install(tmp_path, "brings_collapse", monkeypatch, made)
    error, alone, *_ = (row for row in claim_rows(Registry.open()) if KEY in row["reproduction"])
    assert error["verdict"] == "scaled-down: the net collapsed; better collapsed"
    assert (alone["measured here"], alone["verdict"]) == ("arm alone", "collapsed")


def test_a_stale_table_is_found_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / results_table.PAGE
    assert results_table.main(["--check"]) == 1
    assert "results.md is stale: run python -m condensery_catalogue.results_table" in capsys.readouterr().err
    assert results_table.main([]) == 0
    text = page.read_text(encoding="utf-8")
    assert text == (ROOT / results_table.PAGE).read_text(encoding="utf-8")
    page.write_text(text.replace("1.64 -> 1.58 %", "1.64 -> 1.50 %"), encoding="utf-8")
    assert results_table.main(["--check"]) == 1


def test_checking_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\nfrom condensery_catalogue.results_table import main\nassert main(['--check']) == 0\n"
        "heavy = [m for m in ('torch', 'timm', 'matplotlib') if m in sys.modules]\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
