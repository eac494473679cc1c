"""The three views of the front, and the pages that compare: trees, the survey's figures, answers, ranks."""

from __future__ import annotations

from tests.catalogue.site.test_svg import RESULT, arms

from condensery_catalogue.site.answers import answered, caveats
from condensery_catalogue.site.arms import against, best_of, ranking
from condensery_catalogue.site.survey import figures, tree


def entry(key: str, family: str, **facets: list[str]) -> dict[str, object]:
    return {"key": key, "family": family, "ref": None, "facets": {"granularity": [], "schedule": [], **facets}}


def test_a_method_stands_in_each_branch_of_its_words_and_is_counted_once() -> None:
    both = entry("both", "pruning", granularity=["weight", "filter"], schedule=["one-shot", "iterative"])
    bare = entry("bare", "pruning")
    other = entry("other", "odd", granularity=["weight"])
    top = tree([both, bare, other], {"pruning": ("granularity", "schedule")})
    assert [(node.word, [m["key"] for m in node.members]) for node in top] == [
        ("pruning", ["both", "bare"]),
        ("odd", ["other"]),
    ]
    below = top[0].below
    assert {word: [m["key"] for m in node.members] for word, node in below.items()} == {
        "weight": ["both"],
        "filter": ["both"],
        "not said": ["bare"],
    }
    assert set(below["weight"].below) == {"one-shot", "iterative"}
    assert set(below["not said"].below) == {"not said"}
    assert top[1].below == {}


def test_the_survey_s_figures_are_read_with_their_works_and_compositions() -> None:
    found = {figure.number: figure for figure in figures([{"key": "distilled", "ref": 58}])}
    assert list(found) == [6, 7, 8, 9, 10, 11, 12]
    assert found[6].title == "prune, then distil"
    assert [cell.refs for cell in found[6].cells] == [(50, 51, 52, 53, 55, 56, 65), (54,), (57, 58)]
    assert [[m["key"] for m in cell.members] for cell in found[6].cells] == [[], [], ["distilled"]]
    assert found[6].cells[0].line == "magnitude -> hinton-kd{teacher=original}"
    assert len(found[12].cells) == 3
    assert {cell.line for cell in found[12].cells} == {None}
    assert sum(len(figure.cells) for figure in found.values()) == 19


def test_a_table_of_the_best_says_rank_noise_and_marks() -> None:
    (place,) = ranking(arms(), {"b"})
    told = [(row["arm"].name, row["rank"], row["against"], row["marks"]) for row in place["rows"]]
    assert told == [
        ("dense", None, "-", []),
        ("good", 1, "worse", []),
        ("both", 2, "worse", ["simulated"]),
        ("bad", 3, "worse", ["simulated"]),
    ]
    assert [arm.name for arm in best_of(arms(), "b")] == ["both"]
    assert [arm.name for arm in best_of(arms(), "c", ["a", "b"])] == ["both"]


def test_what_is_within_noise_is_neither_better_nor_worse() -> None:
    dense, good, *_ = arms()
    assert against(dense, good) == "better"
    assert against(good, dense) == "worse"
    assert against(arms(spread=0.5)[3], arms(spread=0.5)[1]) == "within noise"
    assert against(arms(spread=None)[1], dense) == "unknown"


def test_an_answer_says_what_weakens_it() -> None:
    claim = {"value": {"source": "recalled"}, "by": "third party"}
    one, two = ({"values": [1.0] * seeds} for seeds in (1, 2))
    assert caveats({"claim": claim, "measured": one}) == ["claim recalled", "by a third party", "1 seed"]
    assert caveats({"claim": {"value": {"source": "read"}}, "measured": two}) == []
    assert answered([{**RESULT, "comparisons": [{"verdict": None}]}]) == {"rows": [], "facets": {}}
