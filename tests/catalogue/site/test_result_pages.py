from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import yaml
from markupsafe import escape
from tests.catalogue.made_up import result

from condensery import Registry
from condensery_catalogue.generated import markdown_table
from condensery_catalogue.points import points
from condensery_catalogue.reproduction import Reproduction
from condensery_catalogue.results import stored_results
from condensery_catalogue.site.pictures import picture
from condensery_catalogue.site.result_pages import index, recipes, sections
from condensery_catalogue.wording import counted, measured

REGISTRY = Registry.open()


def stored(key: str, tier: str = "desk") -> dict[str, Any]:
    return next(found for found in stored_results(REGISTRY, key) if found["tier"] == tier)


def page_of(result: Mapping[str, Any]) -> str:
    return "\n".join(f"## {title}\n\n{text}" for title, text in sections(result).items())


def merged(shared: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with what another adds to it, at any depth."""
    for name, value in own.items():
        shared[name] = merged(shared[name], value) if name in shared else value
    return shared


def test_a_page_tells_claims_arms_and_recipes() -> None:
    made = stored("deep-compression", "paper")
    page = page_of(made)
    (row,) = re.findall(r"^\| `lenet-300-100-error` .*$", page, flags=re.MULTILINE)
    (error,) = (c for c in made["comparisons"] if c["claim"]["id"] == "lenet-300-100-error")
    for said in ("1.64 -> 1.58 %", "read: Table 1", measured(error), "no loss claimed (+0.06 printed), "):
        assert said in row
    assert "LeNet-300-100, MNIST" in row
    (row,) = re.findall(r"^\| `lenet-300-100` \| \d.*$", page, flags=re.MULTILINE)
    arm = made["arms"]["lenet-300-100"]
    # Masks leave the MACs as they are.
    assert f"| {counted(arm['nonzeros'])} of 266,610 | 1.00x | {fmean(arm['storage']['file']):,.0f} | " in row
    assert f"x | {fmean(arm['storage_rate']):.2f}x | " in row
    shared, own = recipes(made)
    whole = {arm: merged(yaml.safe_load(shared), yaml.safe_load(text)) for arm, text in own.items()}
    assert whole == made["recipes"]
    assert "mnist" in shared
    assert all("mnist" not in text for text in own.values())
    assert made["commit"] in page
    assert f"torch {made['versions']['torch']}" in page


def test_a_recalled_claim_is_marked_and_unknown_columns_are_left_out() -> None:
    known = stored("magnitude")
    for arm in known["arms"].values():
        for name in ("macs_ratio", "storage", "collapsed"):
            arm.pop(name, None)
    page = page_of(known)
    assert "1.59 (recalled, not read) %" in page
    assert "recalled: Table 1" in page
    assert "MACs, before over after" not in page
    assert "file (bytes)" not in page
    assert "| collapsed |" not in page
    whole = stored("hinton-kd")
    whole["arms"]["alone"]["macs_ratio"] = [2.0, 2.5, 3.0]
    whole["arms"]["distilled"]["macs_ratio"] = [None, None, None]
    page = page_of(whole)
    assert re.search(r"^\| `alone` .* \| 2.50x \| ", page, flags=re.MULTILINE)
    assert re.search(r"^\| `distilled` .* \| - \| ", page, flags=re.MULTILINE)


def test_a_collapsed_arm_says_how() -> None:
    page = page_of(result("paper", {"plain": [6.0, 6.2], "better": [4.6, 4.8]}, collapsed=("better",)))
    (claim,) = re.findall(r"^\| `error` .*$", page, flags=re.MULTILINE)
    assert claim.endswith("| not reproduced: the net collapsed; better collapsed in 1 of 2 seeds |")
    (arm,) = re.findall(r"^\| `better` .*$", page, flags=re.MULTILINE)
    assert "| collapsed in 1 of 2 seeds; collapsed in stage s (ssl): conv1 |" in arm


def test_a_result_without_claims_or_picture_has_a_page() -> None:
    bare = {**stored("hinton-kd"), "comparisons": [], "seeds": [0], "note": ""}
    assert "Claims" not in sections(bare)
    assert "Arms" in sections(bare)
    assert picture(bare) == ""
    assert '<code>mnist-student</code><svg class="dumbbell"' in picture(stored("hinton-kd"))


def test_a_picture_shows_every_point_of_its_figure() -> None:
    for key in ("gradient-codes", "haq", "structured-magnitude-vit", "pruning-at-2x"):
        made = stored(key)
        drawn = picture(made)
        for point in points(made):
            shown = escape(f"{point.label}: {point.height}")
            assert shown in drawn or (point.kind == "baseline" and f">{point.label}</text>" in drawn)
    assert drawn.count('<circle class="paper"') == 5
    assert "Hollow: published, with other training, from another base. 93.77 at 2.13: DepGraph" in drawn


def test_a_page_tells_how_alike_figures_rank_the_arms() -> None:
    made = stored("diswot-similarity")
    (row,) = re.findall(r"^\| `diswot-similarity.score` .*$", page_of(made), flags=re.MULTILINE)
    alike = made["figure"]["ranks"]["reported.diswot-similarity.score"]
    assert f"Kendall's tau {alike['kendall']:.2f}, Spearman's rho {alike['spearman']:.2f} |" in row
    made["figure"]["ranks"] = {"after.macs": {"kendall": None, "spearman": None}}
    assert "| `macs` | Kendall's tau -, Spearman's rho - |" in page_of(made)
    assert "Ranked alike" not in page_of(stored("haq"))


def test_a_page_tells_what_each_arm_tried_and_chose() -> None:
    tried = [{"values": {"lr": 0.1}, "score": 91.5}, {"values": {"lr": 9}, "score": None}]
    grid = {"alone": {"metric": "accuracy", "tried": tried, "chosen": {"lr": 0.1}}}
    page = page_of({**stored("hinton-kd"), "grid": grid})
    assert "| `alone` | `lr` 0.1 | 91.50 accuracy | yes, at the grid's end |" in page
    assert "| `alone` | `lr` 9 | diverged |  |" in page
    assert "have seen the held-out data" not in page
    started = {"alone": {"model": {"key": "mlp", "weights": "w.safetensors"}}}
    assert "have seen the held-out data too." in page_of({**stored("hinton-kd"), "recipes": started})
    assert "Settings tried" not in page_of(result("paper", {"plain": [6.0], "better": [4.6]}))


def test_the_index_counts_verdicts_and_tells_effects() -> None:
    errors = {"plain": [6.0, 6.2, 6.1], "better": [4.4, 4.6, 4.5]}
    arm = {"model": "mlp", "task": "digits", "stages": []}
    tiers = {name: {"seeds": [0, 1, 2], "arms": {"plain": arm}} for name in ("paper", "desk")}
    plan = Reproduction.model_validate({"key": "made-up", "card": "made-up", "tiers": tiers})
    table = index([result("paper", errors), result("desk", errors)], {"made-up": plan})
    gains = "`error` +1.6 claimed, +1.6 here (+1.37 to +1.83)"
    assert "| [made-up](r/made-up-paper.html) | paper | paper | 3 | 1 partly reproduced, 1 reproduced | " in table
    assert (
        f"| [made-up](r/made-up-desk.html) | desk | scaled-down | 3 | 1 scaled-down (gains) | {gains} | cpu, C |"
        in table
    )
    assert ", recipe changed since |" in table


def test_a_cell_ends_where_it_should() -> None:
    assert markdown_table(("a", "b"), [("x|y", "two\nlines")]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
