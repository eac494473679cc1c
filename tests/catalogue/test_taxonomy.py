"""The published taxonomy and glossary say what the schema and the catalogue do."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from condensery import Registry, Run
from condensery.contract import Card, Taxonomy
from condensery.recipe import parse, parse_recipe

DOCS = Path(__file__).parents[2] / "catalogue" / "docs"
TAXONOMY = (DOCS / "taxonomy.md").read_text(encoding="utf-8")
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")


def words(hint: Any) -> set[str]:
    if get_origin(hint) is Literal:
        return set(get_args(hint))
    return {word for part in get_args(hint) for word in words(part)}


SCHEMA = {n: words(f.annotation) for n, f in (Taxonomy.model_fields | Card.model_fields).items()}


def rows(text: str, section: str) -> list[list[str]]:
    """Return the cells of one section's table, without its head."""
    body = text.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def described() -> dict[str, set[str]]:
    """Return the words of each field as the page tells them; an empty first cell goes on with the field above."""
    found: dict[str, set[str]] = defaultdict(set)
    field = ""
    for section in ("Every card", "Pruning", "Quantization", "Distillation", "Joint"):
        for first, second, *_ in rows(TAXONOMY, section):
            field = first.strip("`") or field
            found[field] |= set(re.findall(r"`([^`]+)`", second))
    return found


def test_the_page_has_every_word_of_the_schema_and_no_other() -> None:
    told = described()
    assert set(Taxonomy.model_fields) <= set(told)
    assert {f: told[f] for f in told} == {f: SCHEMA[f] for f in told}


def test_the_glossary_uses_words_of_the_schema() -> None:
    used = re.findall(r"`(\w+): ([^`{]+)`", GLOSSARY)
    assert len(used) > 40
    for field, given in used:
        assert set(given.split(", ")) <= SCHEMA[field], f"{field}: {given}"


def test_every_term_of_the_glossary_has_its_chinese_and_its_place() -> None:
    lines = [line for line in GLOSSARY.splitlines() if re.match(r"\| (?!English|---)", line)]
    terms = [line.split("|")[1].strip() for line in lines]
    assert len(terms) == len(set(terms)) > 80
    for line in lines:
        _, english, chinese, _, place, _, _ = line.split("|")
        assert english.strip()
        assert re.search(r"[\u4e00-\u9fff]", chinese), line
        assert re.search(r"\d", place), line


CELLS = [row[3].strip("`") for row in rows(TAXONOMY, "Cells of the survey's figures")]


def test_each_figure_has_its_cells() -> None:
    assert len(CELLS) == 19  # 3 + 2 + 2 + 3 + 1 + 5 + 3 in figures 6 to 12


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.open()


@pytest.mark.parametrize("composition", [c for c in CELLS if c != "-"])
def test_compositions_run_dry(composition: str, registry: Registry, tmp_path: Path) -> None:
    net = {"key": "resnet8", "width": 0.5}
    recipe = parse_recipe({"model": net, "task": "digits", "base": "none", "stages": parse(composition)})
    stages = Run(recipe, registry, out=tmp_path / "run", device="cpu").explain()["stages"]
    assert stages
    assert not (tmp_path / "run").exists()
