from __future__ import annotations

import json
import os
import posixpath
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import urlopen

import pytest
from tests.catalogue.made_up import CARD
from tests.catalogue.site.addresses import promised

from condensery import Registry
from condensery.contract import hookimpl
from condensery.errors import UsageError
from condensery.files import SEAL
from condensery.recipe import parse
from condensery_catalogue.browsing import chinese
from condensery_catalogue.claims_list import claim_rows
from condensery_catalogue.listing import own_registry, rows
from condensery_catalogue.results import recipe_file
from condensery_catalogue.site.building import STATIC, build_site, pages, serve
from condensery_catalogue.site.gathering import bibtex
from condensery_catalogue.site.prose import html, slug
from condensery_catalogue.wording import spread

WHOLE, PAGE, FRONT = 3_000_000, 400_000, 120_000
"""Bytes that the site, one page of it and its front may have."""
LOADS = {"src", "srcset", "poster", "data", "action", "formaction", "background"}
"""Attributes whose address a browser asks for by itself."""


class Read(HTMLParser):
    """What a page is made of: ids, links, what it loads, rows and cells with data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.data: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [said["id"]] if "id" in said else []
        self.links += [said["href"]] if tag == "a" and "href" in said else []
        # A link element, a use in a picture: whatever is no anchor fetches what it refers to.
        self.loads += [value for name, value in said.items() if name in LOADS]
        self.loads += [said[name] for name in ("href", "xlink:href") if name in said and tag != "a"]
        if any(name.startswith("data-") for name in said):
            self.data.append({"tag": tag, **said})


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    return pages(own_registry())


@pytest.fixture(scope="module")
def read(site: Mapping[str, str]) -> dict[str, Read]:
    return {path: Read(text) for path, text in site.items() if path.endswith(".html")}


def stored() -> dict[str, Any]:
    """Return the stored results by the name of their page, from their files."""
    registry = own_registry()
    found = {}
    for key in registry.keys("recipes"):
        for path in recipe_file(registry, key).parent.glob("*.json"):
            found[f"{key}-{path.stem}"] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_method_result_citation_and_claim_is_there(read: Mapping[str, Read]) -> None:
    registry = own_registry()
    keys = [row["key"] for row in rows(registry)]
    assert len(keys) >= 60
    assert {f"m/{key}.html" for key in keys} == {path for path in read if path.startswith("m/")}
    assert {f"r/{name}.html" for name in stored()} == {path for path in read if path.startswith("r/")}
    assert [row["data-key"] for row in read["index.html"].data if row["tag"] == "tr"].count("qkd") == 1
    assert {row["data-key"] for row in read["index.html"].data if row["tag"] == "tr"} == set(keys)
    assert {f"ref-{number}" for number in range(1, 93)} <= set(read["coverage.html"].ids)
    assert {"loss_terms", "register_methods", "exchange"} <= set(read["hooks.html"].ids)
    for key, claim, *_ in claim_rows(registry):
        assert f"claim-{claim.strip('`')}" in read[f"m/{key.split('`')[1]}.html"].ids


def test_figures_are_those_of_the_stored_results(read: Mapping[str, Read]) -> None:
    results = stored()
    assert results
    shown: dict[tuple[str, str, str], list[float]] = {}
    for path, page in read.items():
        for cell in page.data:
            if cell.get("class") == "measured":
                place = (path, cell["data-page"], cell["data-claim"])
                shown.setdefault(place, []).append(float(cell["data-v"]))
    expected: dict[tuple[str, str, str], list[float]] = {}
    for name, result in results.items():
        for comparison in result["comparisons"]:
            # A claim of another card stands on that one's page, with the result that answers it.
            whose, _, claim = comparison["claim"]["id"].rpartition(":")
            if comparison["verdict"]:
                place = (f"m/{whose or result['card']}.html", name, claim)
                expected.setdefault(place, []).append(comparison["measured"]["mean"])
    assert shown == expected


def test_each_link_and_anchor_leads_somewhere(site: Mapping[str, str], read: Mapping[str, Read]) -> None:
    words = {(box["name"], box["value"]) for box in _boxes(site["index.html"])}
    assert ("family", "pruning") in words
    keys = {row["key"] for row in rows(own_registry())}
    links = 0
    for path, page in read.items():
        assert len(set(page.ids)) == len(page.ids), path
        for address in page.links:
            parts = urlsplit(address)
            if parts.scheme:
                assert parts.scheme == "https", (path, address)
                continue
            links += 1
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), parts.path)) if parts.path else path
            assert target in site, (path, address)
            assert not parts.fragment or unquote(parts.fragment) in read[target].ids, (path, address)
            asked = parse_qsl(parts.query)
            if target == "compare.html":
                assert {key for _, chosen in asked for key in chosen.split(",")} <= keys, (path, address)
            elif target == "build.html":
                assert all(name == "c" and parse(line) for name, line in asked), (path, address)
            else:
                assert set(asked) <= words, (path, address)
    assert links > 1000


def _boxes(text: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    class Boxes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            said = {name: value or "" for name, value in attrs}
            if said.get("type") == "checkbox":
                found.append(said)

    Boxes().feed(text)
    return found


def test_promised_addresses_still_lead_somewhere(site: Mapping[str, str], read: Mapping[str, Read]) -> None:
    known = promised()
    assert {"m/qkd.html#claim-best-gain", "coverage.html#ref-25", "hooks.html#loss_terms", "404.html"} <= set(known)
    for address in known:
        path, _, anchor = address.partition("#")
        assert path in site, f"{address}: leave a page that links on"
        assert not anchor or anchor in read[path].ids, address


def test_nothing_is_asked_of_another_place(site: Mapping[str, str], read: Mapping[str, Read]) -> None:
    for path, page in read.items():
        for address in page.loads:
            local = not urlsplit(address).scheme and not address.startswith("//")
            assert local or address == "data:,", (path, address)
    for path in STATIC:
        asking = ("url(", "@import") if path.endswith(".css") else ("fetch(", "XMLHttpRequest", "import(", "http")
        assert not [word for word in asking if word in site[path]], path


def test_each_page_keeps_its_rows_words_whole(read: Mapping[str, Read]) -> None:
    rows = {path: [row["data-facets"] for row in page.data if "data-facets" in row] for path, page in read.items()}
    assert {"index.html", "build.html", "results.html"} <= {path for path, found in rows.items() if found}
    assert all(json.loads(words) for found in rows.values() for words in found)


def test_it_is_small(site: Mapping[str, str]) -> None:
    sizes = {path: len(text.encode()) for path, text in site.items()}
    assert sum(sizes.values()) < WHOLE
    assert max(size for path, size in sizes.items() if path.endswith(".html")) < PAGE
    assert sizes["index.html"] < FRONT


def test_rows_are_found_by_what_the_survey_calls_them(read: Mapping[str, Read]) -> None:
    found = {row["data-key"]: row for row in read["index.html"].data if row["tag"] == "tr"}
    assert "滤波器剪枝" in found["l1-filter-pruning"]["data-search"]
    assert "[36]" in found["lsq"]["data-search"]
    assert "[36]" in found["pact"]["data-search"]
    assert "Kim" in found["qkd"]["data-search"]
    assert json.loads(found["qkd"]["data-facets"])["combination"] == ["KD+Q"]
    assert "滤波器剪枝" in chinese()["granularity: filter"]


def test_a_method_s_page_holds_formula_pitfalls_source_and_the_survey_s_words(site: Mapping[str, str]) -> None:
    page = site["m/ssl.html"]
    assert '<math display="block">' in page.split('id="run"')[0]
    assert "There is no factor for a group&#39;s size" in page.split('id="pitfalls"')[1].split("<h2")[0]
    source = page.split('id="source"')[1].split("<h2")[0]
    assert "condensery_plugins/pruning/ssl.py" in source
    assert "StructuredSparsityLearning" in source
    assert "滤波器剪枝</span> (granularity: filter)" in page.split('id="survey"')[1].split("<h2")[0]


def test_accuracy_over_compression_colours_the_method_and_leads_to_results(site: Mapping[str, str]) -> None:
    drawn = site["m/obd.html"].split('id="curves"')[1].split("<h2")[0]
    result = stored()["obs-paper"]
    own = [name for name, recipe in result["recipes"].items() if "'key': 'obd'" in str(recipe["stages"])]
    assert len(own) >= 4
    for name in own:
        spoken = f"<title>{name}: {spread(result['arms'][name]['quality']['accuracy'])} at "
        assert f'<a class="own" href="../r/obs-paper.html#arms">{spoken}' in drawn
    assert '<path class="other"' in drawn
    assert '<path class="dense"' in drawn
    assert 'id="curves"' not in site["m/bnn.html"]


def test_a_method_says_what_may_not_follow_it(site: Mapping[str, str]) -> None:
    said = site["m/kmeans-sharing.html"].split('id="partners"')[1].split("<h2")[0]
    assert "m/lsq.html" in said.split("Not after it, as they need float-weights")[1]
    assert "any method" in site["m/magnitude.html"].split('id="partners"')[1].split("<h2")[0]


@pytest.mark.slow
def test_another_process_builds_the_same_bytes(site: Mapping[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "condensery_catalogue.cli", "site", "build", "--out", str(tmp_path / "site")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}, check=True)
    built = {str(p.relative_to(tmp_path / "site")): p for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert built.keys() == site.keys()
    for path, text in site.items():
        assert built[path].read_bytes() == text.encode(), path


# ---------------------------------------------------------------- what a stranger brings


class Stranger:
    condensery_api = 1

    def __init__(self, **changed: Any) -> None:
        self.card = {**CARD, **changed}

    @hookimpl
    def register_papers(self, register: Any) -> None:
        register(self.card["key"], self.card)


def brought(**changed: Any) -> Registry:
    return Registry.open([("stranger", Stranger(**changed))], entry_points=False)


def test_what_a_stranger_writes_stays_text() -> None:
    evil = "<script>alert(1)</script><img src=//a.b/c>"
    paper = {**CARD["paper"], "title": evil, "authors": evil}
    cited = [{"section": "1", "role": evil, "slip": evil}]
    written = {
        "name": evil,
        "summary": evil,
        "departures": [evil],
        "pitfalls": [evil],
        "paper": paper,
        "cited_as": cited,
    }
    site = pages(brought(**written))
    assert "m/made-up.html" in site
    for path, text in site.items():
        if path.endswith(".html"):
            page = Read(text)
            assert page.tags.count("script") == {"build.html": 4, "matrix.html": 3}.get(path, 1), path
            assert "img" not in page.tags, path
    assert "its card doesn't say why" in site["m/made-up.html"]
    assert site == pages(brought(**written))


def test_prose_holds_no_foreign_elements() -> None:
    assert html("# A `b` c!\n\n## d\n\n## d").count("<h") == 3
    assert 'id="a-b-c"' in html("# A `b` c!")
    assert 'id="d-1"' in html("## d\n\n## d")
    assert slug("On a phone: 360 px") == "on-a-phone-360-px"
    for text in ("![x](https://a.b/c.png)", "<img src=x>", "[x](javascript:alert)"):
        assert Read(html(text)).loads == []
        assert Read(html(text)).links in ([], ["https://a.b/c.png"])


def test_a_bibliography_names_each_author() -> None:
    paper = {"title": "T", "authors": "Han, Mao and others", "year": 2016, "venue": "ICLR", "arxiv": "1510.00149"}
    assert "author = {Han and Mao and others}" in bibtex(paper, "deep-compression")
    assert bibtex(paper, "deep-compression").startswith("@misc{deep-compression,")


def test_no_page_lies_outside_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_catalogue.site.building.pages", lambda registry: {"../x.html": "x"})
    with pytest.raises(UsageError, match=r"'\.\./x\.html'"):
        build_site(brought(), tmp_path / "site")
    assert not (tmp_path / "x.html").exists()


def test_it_is_served_to_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("condensery_catalogue.site.building.pages", lambda registry: {"index.html": "Hello"})
    serves, said = ThreadingHTTPServer.serve_forever, []

    def visited(server: ThreadingHTTPServer) -> None:
        thread = Thread(target=serves, args=(server,))
        thread.start()
        try:
            said.append(urlopen(f"http://127.0.0.1:{server.server_port}/").read())
        finally:
            server.shutdown()
            thread.join()
        assert server.server_address[0] == "127.0.0.1"

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", visited)
    serve(tmp_path / "site", 0)
    assert said == [b"Hello"]
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_rows_of_results_and_of_the_best_hold_the_stored_figures(read: Mapping[str, Read]) -> None:
    results = stored()
    answers = [cell for cell in read["results.html"].data if "data-v" in cell]
    assert len(answers) == sum(bool(c["verdict"]) for result in results.values() for c in result["comparisons"])
    for cell in answers:
        means = [
            comparison["measured"]["mean"]
            for comparison in results[cell["data-page"]]["comparisons"]
            if comparison["claim"]["id"] == cell["data-claim"]
        ]
        assert float(cell["data-v"]) in means, cell

    ranked = [cell for cell in read["best.html"].data if cell.get("class") == "figure"]
    assert len(ranked) >= 40
    for cell in ranked:
        arm = results[cell["data-page"]]["arms"][cell["data-arm"]]
        assert float(cell["data-v"]) == arm["quality"][cell["data-metric"]]["mean"], cell


def test_all_views_are_there_without_the_script(site: Mapping[str, str], read: Mapping[str, Read]) -> None:
    keys = {row["data-key"] for row in read["index.html"].data if row["tag"] == "tr"}
    tree = site["index.html"].split('<section id="tree"')[1].split("</section>")[0]
    assert {row["data-row"] for row in Read(tree).data if "data-row" in row} == keys
    assert 'href="build.html?c=magnitude%20-%3E%20hinton-kd%7Bteacher%3Doriginal%7D"' in site["figures.html"]
    assert {row["data-key"] for row in read["compare.html"].data if "data-key" in row} == keys
    assert " hidden" not in tree
    counts = Read(site["index.html"].split('<ul class="counts">')[1].split("</ul>")[0]).links
    assert counts == ["index.html", "results.html#claims", "matrix.html", "coverage.html"]


def rounded(values: list[float | None] | None) -> Any:
    """Return each seed's figure to one in a million."""
    return None if values is None else [value if value is None else pytest.approx(value, rel=1e-5) for value in values]


def told_once(values: list[float | None] | None) -> Any:
    """Return each seed's figure to one in a million, or the one that several seeds share."""
    alike = values is not None and len(values) > 1 and all(value == values[0] for value in values)
    return rounded(values)[0] if alike else rounded(values)


def test_the_file_with_everything_holds_cards_and_results(site: Mapping[str, str]) -> None:
    whole = json.loads(site["data/catalogue.json"])
    files = stored()
    claims = {(m["key"], claim["id"]) for m in whole["methods"] for claim in m["card"].get("claims", [])}
    assert {f"{result['key']}-{result['tier']}" for result in whole["results"]} == files.keys()
    for result in whole["results"]:
        own = files[f"{result['key']}-{result['tier']}"]
        # Recipes stand on the result's page, what is empty says nothing, and six digits are enough.
        assert {name for name, value in own.items() if value} - {SEAL, "recipes"} == set(result)
        for arm, figures in own["arms"].items():
            told = result["arms"][arm]
            for metric, said in figures["quality"].items():
                assert told["quality"][metric]["values"] == told_once(said["values"])
            for name in ("macs", "nonzeros", "wall_s"):
                assert told.get(name) == told_once(figures.get(name))
            storage = figures.get("storage") or {}
            assert told.get("storage", {}) == {part: told_once(sizes) for part, sizes in storage.items()}
        for comparison in result.get("comparisons", []):
            whose, _, claim = comparison["claim"].rpartition(":")
            assert (whose or result["card"], claim) in claims
        measured = [rounded(c["measured"]["values"]) for c in own["comparisons"]]
        assert [c["measured"]["values"] for c in result.get("comparisons", [])] == measured
    assert next(m for m in whole["methods"] if m["key"] == "qkd")["card"]["claims"]
    assert site["data/catalogue.bib"].count("@misc{") == len(whole["methods"])
