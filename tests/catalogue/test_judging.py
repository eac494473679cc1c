from __future__ import annotations

import json

import pytest
from tests.catalogue.made_up import CARD, ERROR, plan, report, result

from condensery.errors import UnknownKey, UsageError
from condensery_catalogue.judging import dig
from condensery_catalogue.reproduce import print_result


def test_judge_by_hand() -> None:
    """Errors 5, 7 against 3, 6: means 6 and 4.5, gains 2 and 1; variances 2 and 4.5 pool to 3.25, so 1.5 is noise."""
    made = result("paper", {"plain": [5.0, 7.0], "better": [3.0, 6.0]})
    plain = made["arms"]["plain"]
    assert plain["quality"]["error"] == {"mean": 6.0, "std": 2**0.5, "values": [5.0, 7.0]}
    assert plain["storage"]["file"] == [90, 91]
    assert plain["compression_rate"] == [2.0, 3.0]
    assert plain["macs_ratio"] == [1.25, 1.25]
    assert plain["collapsed"] == [[], []]
    assert "figure" not in made
    value, gain = made["comparisons"]
    assert value["measured"]["mean"] == 4.5
    assert value["direction"] == "within noise"
    assert value["verdict"] == "partly"
    assert gain["gain"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5), "values": [2.0, 1.0]}
    assert gain["verdict"] == "partly"
    assert made["wall_s"] == 6.0
    assert made["seeds"] == [0, 1]
    assert json.loads(json.dumps(made)) == made


REPRODUCED = {"plain": [6.0, 6.2], "better": [4.6, 4.8]}
"""Within 0.5 of 4.4, and 1.4 better than a noise of 0.14."""


def test_judge_reproduced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    made = result("paper", REPRODUCED)
    assert [c["verdict"] for c in made["comparisons"]] == ["reproduced", "partly"]  # the gain was only recalled
    print_result(made)
    out = capsys.readouterr().out
    assert "1.5 (recalled, not read)" in " ".join(out.split())
    assert "reproduced" in out


@pytest.mark.parametrize("arm", ["plain", "better"])
def test_a_net_that_collapsed_reproduces_nothing(
    arm: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither as the arm nor as the baseline, though the figures are those that would."""
    monkeypatch.setenv("COLUMNS", "200")
    made = result("paper", REPRODUCED, collapsed=(arm,))
    assert made["arms"][arm]["collapsed"] == [[{"stage": "s", "methods": ["ssl"], "what": ["conv1"]}], []]
    assert [c["verdict"] for c in made["comparisons"]] == ["partly", "partly"]
    print_result(made)
    out = capsys.readouterr().out
    assert f"partly reproduced; {arm} collapsed in 1 of 2 seeds" in out
    assert f" {arm}, collapsed in 1 of 2 seeds " in out


def test_a_wrong_comparison_is_named() -> None:
    tier = plan().tiers["paper"]
    with pytest.raises(UnknownKey, match="unknown claim 'eror'; did you mean 'error'"):
        plan(compare=[{**ERROR, "claim": "eror"}]).comparisons(tier, CARD)
    with pytest.raises(UnknownKey, match="unknown arm 'plan'; did you mean 'plain'"):
        plan(compare=[{**ERROR, "baseline_arm": "plan"}]).comparisons(tier, CARD)
    with pytest.raises(UsageError, match="a gain needs a baseline_arm"):
        plan(compare=[{**ERROR, "answers": "gain", "baseline_arm": None}])
    with pytest.raises(UsageError, match="has no 'eror'"):
        dig(report(0, error=1.0), "after.quality.eror")
