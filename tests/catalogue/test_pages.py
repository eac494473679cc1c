from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from condensery_catalogue import pages
from condensery_catalogue.readme import markdown_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "reproductions" / "results"


def stored(key: str, tier: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / key / f"{tier}.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder: a checkout with one stored result, its page and its picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reproductions" / "condensery_reproductions").mkdir(parents=True)
    shutil.copytree(RESULTS / "hinton-kd", tmp_path / "reproductions" / "results" / "hinton-kd")
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0
    return tmp_path


def test_the_pages_and_pictures_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert pages.main(["--check"]) == 0


def test_checking_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys\nfrom condensery_catalogue.pages import main\nassert main(['--check']) == 0\n"
        "heavy = [m for m in ('torch', 'timm', 'matplotlib') if m in sys.modules]\nassert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_page_tells_claims_arms_and_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = stored("deep-compression", "paper")
    page = pages.result_page(result)
    (row,) = re.findall(r"^\| `lenet-300-100-error` .*$", page, flags=re.MULTILINE)
    for said in ("1.64 -> 1.58 %", "read: Table 1", "0.83 ± 0.02 -> 0.89 ± 0.01 error", "not held", "not reproduced"):
        assert said in row
    assert "LeNet-300-100, MNIST" in row
    (row,) = re.findall(r"^\| `lenet-300-100` \| 99.11 ± 0.01 .*$", page, flags=re.MULTILINE)
    assert row.endswith("| 21,716 of 266,610 | 27,214 | 39.20x | 40.32x | 258 |")
    recipes = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.+?)```", page, flags=re.DOTALL)]
    assert recipes == list(result["recipes"].values())
    assert result["commit"] in page
    assert f"torch {result['versions']['torch']}" in page
    (link,) = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert (ROOT / pages.PAGES / link).resolve() == RESULTS / "deep-compression" / "paper.svg"


def test_a_recalled_claim_is_marked_and_unknown_columns_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = pages.result_page(stored("magnitude", "desk"))
    assert "1.59 (recalled, not read) %" in page
    assert "recalled: Table 1" in page
    assert "MACs, before over after" not in page
    assert "file (bytes)" not in page
    whole = stored("hinton-kd", "desk")
    whole["arms"]["alone"]["macs_ratio"] = [2.0, 2.5, 3.0]
    whole["arms"]["distilled"]["macs_ratio"] = [None, None, None]
    page = pages.result_page(whole)
    assert re.search(r"^\| `alone` .* \| 2.50x \| ", page, flags=re.MULTILINE)
    assert re.search(r"^\| `distilled` .* \| - \| ", page, flags=re.MULTILINE)


def test_a_result_without_claims_or_picture_has_a_page() -> None:
    result = {**stored("hinton-kd", "desk"), "comparisons": [], "seeds": [0], "note": ""}
    page = pages.result_page(result)
    assert "## Claims" not in page
    assert "![" not in page
    assert "from one seed" in page


def test_the_index_counts_verdicts() -> None:
    index = pages.index_page([stored("deep-compression", "paper"), stored("hinton-kd", "desk")])
    assert "| 1 not reproduced, 1 partly reproduced, 4 reproduced | cpu, AMD EPYC |" in index
    assert "| [hinton-kd](results/hinton-kd-desk.md) | desk | scaled-down | 3 | 1 scaled-down |" in index


def test_a_stale_page_is_noticed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = checkout / "catalogue" / "docs" / "results" / "hinton-kd-desk.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("300.33", "74.00"), encoding="utf-8")
    assert pages.main(["--check"]) == 1
    assert "hinton-kd-desk.md is stale" in capsys.readouterr().err
    assert pages.main([]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_picture_of_another_result_is_noticed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = checkout / "reproductions" / "results" / "hinton-kd" / "desk.svg"
    whole = picture.read_text(encoding="utf-8")
    picture.write_text(whole.replace("#0072b2", "#0072b3"), encoding="utf-8")
    assert pages.main(["--check"]) == 0  # as another version of matplotlib would have drawn it
    picture.unlink()
    assert pages.main(["--check"]) == 1
    assert pages.main([]) == 0
    assert picture.read_text(encoding="utf-8") == whole
    path = picture.with_suffix(".json")
    path.write_text(path.read_text(encoding="utf-8").replace("305.0", "304.0"), encoding="utf-8")
    assert pages.main(["--check"]) == 1
    assert "desk.svg is not of the result beside it" in capsys.readouterr().err


def test_a_page_without_a_result_goes(checkout: Path) -> None:
    shutil.rmtree(checkout / "reproductions" / "results" / "hinton-kd")
    assert pages.main(["--check"]) == 1
    assert pages.main([]) == 0
    assert not list((checkout / "catalogue" / "docs" / "results").iterdir())
    assert pages.main(["--check"]) == 0


def test_elsewhere_than_in_a_checkout_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pages.main([]) == 1
    assert not list(tmp_path.iterdir())


def test_a_cell_ends_where_it_should() -> None:
    assert markdown_table(("a", "b"), [("x|y", "two\nlines")]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
