"""Which cells there are, in which order, and the recipe of each."""

from __future__ import annotations

import pytest

from condensery import Registry
from condensery.recipe import flat
from condensery_catalogue.drafting import refused_by_words
from condensery_catalogue.matrix.plan import (
    FIRST,
    NETS,
    PAIR_SEEDS,
    PAIRED,
    SEEDS,
    Planned,
    cell_recipe,
    chosen,
    facts_of,
    in_one_line,
    pairs,
    planned,
    representatives,
    taxonomy_cell,
)

REGISTRY = Registry.open()


def line(cell: Planned) -> str:
    return in_one_line(cell_recipe(cell, REGISTRY))


def test_all_methods_alone_then_the_representatives_then_the_rest_once_each() -> None:
    """n methods: n cells a net alone; of r representatives r (r - 1) ordered pairs and half as many in one stage."""
    cells, keys = planned(REGISTRY), REGISTRY.keys("methods")
    some = representatives(REGISTRY, keys)
    n, r = len(keys), len(some)
    alone, first = n * len(NETS), r * (r - 1) * 3 // 2
    assert {cell.kind for cell in cells[:alone]} == {"alone"}
    assert {cell.seeds for cell in cells[:alone]} == {SEEDS}
    assert {(cell.net, cell.seeds) for cell in cells[alone : alone + first]} == {(FIRST, PAIR_SEEDS)}
    others = cells[alone + first : alone + len(PAIRED) * first]
    assert {cell.net for cell in others} == set(PAIRED) - {FIRST}
    assert {method for cell in others for method in cell.methods} == set(some)

    assert len(cells) == alone + len(PAIRED) * n * (n - 1) * 3 // 2
    assert len({(cell.net, cell.kind, cell.methods) for cell in cells}) == len(cells)


def test_a_seed_decides_the_order_of_the_rest() -> None:
    first, again, other = planned(REGISTRY, 0), planned(REGISTRY, 0), planned(REGISTRY, 1)
    assert first == again != other
    assert set(first) == set(other)


def test_one_representative_for_each_cell_of_the_taxonomy() -> None:
    keys = REGISTRY.keys("methods")
    cells = [taxonomy_cell(REGISTRY.card(key) or {}) for key in representatives(REGISTRY, keys)]
    assert sorted(cells) == sorted({taxonomy_cell(REGISTRY.card(key) or {}) for key in keys})
    card = {"family": "pruning", "taxonomy": {"granularity": ["head", "layer"], "schedule": ["one-shot"]}}
    assert taxonomy_cell(card) == ("pruning", "head")
    card = {"family": "quantization", "taxonomy": {"target": ["weight", "activation"], "bits": "8"}}
    assert taxonomy_cell(card) == ("quantization", "weight+activation", "8")


def test_two_methods_have_two_ordered_pairs_and_one_of_both_at_once() -> None:
    assert [cell.title for cell in pairs(["a", "b"], ["CNN"])] == ["CNN: a -> b", "CNN: b -> a", "CNN: a + b"]


def test_a_pattern_takes_the_halves_along() -> None:
    cells = [*(Planned("CNN", "alone", (key,)) for key in "abc"), *pairs("abc", ["CNN"])]
    titles = [cell.title for cell in chosen(cells, "CNN: a -> *")]
    assert titles == ["CNN: a", "CNN: b", "CNN: c", "CNN: a -> b", "CNN: a -> c"]
    assert [cell.title for cell in chosen(cells, "b + c")] == ["CNN: b", "CNN: c", "CNN: b + c"]
    assert chosen(cells, "nothing") == []


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Planned("CNN", "alone", ("huffman",)), "magnitude -> huffman"),
        (Planned("CNN", "then", ("lsq", "huffman")), "lsq -> huffman"),
        (Planned("CNN", "then", ("huffman", "lsq")), "magnitude -> huffman -> lsq"),
        (Planned("CNN", "with", ("lsq", "hinton-kd")), "lsq + hinton-kd{teacher=original}"),
        (
            Planned("CNN", "then", ("ssl", "prune-then-distill")),
            "ssl{name=pruned} -> prune-then-distill{teacher=pruned}",
        ),
    ],
)
def test_the_line_of_a_cell(cell: Planned, expected: str) -> None:
    """What must come before a method alone comes before the first of two; the second has what the first leaves."""
    assert line(cell) == expected


def test_all_cells_have_recipes_that_begin_with_the_same_net() -> None:
    keys = representatives(REGISTRY, REGISTRY.keys("methods"))
    recipes = [cell_recipe(cell, REGISTRY) for cell in pairs(keys, [FIRST])]
    assert len({str(recipe.base) for recipe in recipes}) == 1
    assert cell_recipe(Planned(FIRST, "alone", (keys[0],)), REGISTRY, 2).seed == 2
    assert all(recipe.train_of(next(flat(recipe.stages))).max_steps for recipe in recipes)


def test_words_refuse_in_the_sentence_of_a_run() -> None:
    def why(kind: str, *methods: str) -> str:
        return refused_by_words(cell_recipe(Planned("CNN", kind, methods), REGISTRY), REGISTRY)  # type: ignore[arg-type]

    taken = "lsq is not applicable: stage 'lsq' lacks weights that may take any value: no quantizer holds them "
    assert why("then", "kmeans-sharing", "lsq") == taken + "(kmeans-sharing in stage 'kmeans-sharing' took them away)"
    assert why("then", "magnitude", "lsq") == ""
    assert why("with", "lsq", "hinton-kd") == ""


def test_what_is_known_of_a_net_before_it_is_run() -> None:
    facts = facts_of("CNN", REGISTRY)
    assert (facts.metric, facts.unit, facts.higher, facts.chance) == ("accuracy", "%", True, 10.0)
    assert (facts.model["key"], facts.before) == ("resnet8", None)
