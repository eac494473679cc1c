"""A paper lands in its own files: a method, its card beside it and a folder with its recipe are found everywhere."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from tests.catalogue.sites import command, condensery

from condensery import Registry
from condensery.contract import Papers
from condensery_catalogue.readme import methods_table
from condensery_catalogue.results_table import claim_rows

FILES = {
    "toy_papers/__init__.py": """
        from condensery.contract import Papers

        plugin = Papers(__name__)
        """,
    "toy_papers/toy_rounding.py": """
        from dataclasses import dataclass

        from condensery import Method, Stage, Transform, hookimpl, straight_through


        class Rounded(Transform):
            key = "toy-rounded"

            def __init__(self, digits):
                super().__init__()
                self.digits = digits

            def forward(self, value):
                return straight_through(value.round(decimals=self.digits), value)

            def config(self):
                return {"digits": self.digits}


        @dataclass(eq=False, kw_only=True)
        class ToyRounding(Method):
            key = "toy-rounding"
            needs = frozenset({"batch-norm", "float-weights"})
            removes = frozenset({"float-weights"})

            digits: int = 2

            @hookimpl
            def prepare(self, stage: Stage) -> None:
                for weight in stage.weights():
                    stage.attach(weight.name, "toy-rounded", Rounded(self.digits))
        """,
    "toy_papers/toy_rounding.yaml": """
        key: toy-rounding
        class: ToyRounding
        layers: {toy-rounded: Rounded}
        name: Toy rounding
        summary: Weights are rounded to two digits while the net trains.
        paper: {title: A toy paper, authors: Nobody, year: 2026, venue: nowhere}
        family: quantization
        network: [CNN]
        hyperparameters:
          digits: {type: int, default: 2, ge: 0, meaning: decimal digits that stay}
        status: tested
        claims:
          - id: error
            kind: quality
            metric: error
            unit: "%"
            better: lower
            model: any
            dataset: digits
            value: {value: 5, source: recalled}
        """,
    "toy_papers/toy-rounding/recipe.yaml": """
        key: toy-rounding
        card: toy-rounding
        compare:
          - {claim: error, metric: after.quality.error, arm: rounded}
        tiers:
          smoke: &small
            arms:
              rounded:
                task: digits
                model: {key: resnet8, width: 0.5}
                base: none
                data: {subset: {size: 64}}
                train: {epochs: 1, batch_size: 16}
                stages: [{methods: [toy-rounding]}]
          desk: *small
        """,
    "toy_papers-1.0.dist-info/METADATA": """
        Metadata-Version: 2.1
        Name: toy-papers
        Version: 1.0
        """,
    "toy_papers-1.0.dist-info/entry_points.txt": """
        [condensery]
        toy-papers = toy_papers:plugin
        """,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the package where it counts as installed; no other file is made or changed."""
    folder = tmp_path_factory.mktemp("toy") / "site"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return folder


def test_it_is_listed(site: Path) -> None:
    done = condensery(site, "list", "--json")
    assert done.stderr == ""
    (mine,) = [row for row in json.loads(done.stdout) if row["key"] == "toy-rounding"]
    assert (mine["name"], mine["plugin"], mine["network"]) == ("Toy rounding", "toy-papers", ["CNN"])
    assert mine["runs"] is True


def test_it_is_shown(site: Path) -> None:
    card = json.loads(condensery(site, "show", "toy-rounding", "--json").stdout)
    assert card["runs"] is True
    assert card["reproduction"] == "desk"
    text = condensery(site, "show", "toy-rounding").stdout
    assert "Weights are rounded to two digits while the net trains." in text
    assert "condensery reproduce toy-rounding" in text


def test_it_is_reproduced(site: Path, tmp_path: Path) -> None:
    done = condensery(site, "reproduce", "toy-rounding", "--tier", "smoke", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["card"] == "toy-rounding"
    (compared,) = result["comparisons"]
    assert compared["claim"]["value"]["value"] == 5
    assert compared["measured"]["mean"] == result["arms"]["rounded"]["quality"]["error"]["mean"]


def test_the_contract_suite_tries_it(site: Path, tmp_path: Path) -> None:
    """On a CNN it runs (four tests), beside others and itself (two); a ViT and a Transformer it refuses (two)."""
    chosen = ("--pyargs", "condensery.testing", "--condensery-plugin", "toy-papers")
    done = command(site, "pytest", "-q", "-p", "condensery.testing.plugin", *chosen, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


@pytest.fixture
def registry(site: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Open what the package offers and nothing else, as the generated tables open what the project itself brings."""
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("CONDENSERY_CACHE", str(site.with_name("cache")))
    return Registry.open([("toy-papers", Papers("toy_papers"))], entry_points=False)


def test_the_readmes_table_has_its_row(registry: Registry) -> None:
    row = methods_table(registry).splitlines()[-1]
    assert row == "| `toy-rounding` | Toy rounding | quantization | CNN | tested |"


def test_the_table_of_results_has_its_row(registry: Registry) -> None:
    (row,) = claim_rows(registry)
    assert (row["reproduction"], row["tier"], row["verdict"]) == ("`toy-rounding`", "desk", "pending")
    assert row["the paper says"] == "5 (recalled, not read) %"
