"""``site build`` and ``site serve``: every page of the site as text, written into a folder."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery_catalogue.browsing import BROWSED
from condensery_catalogue.generated import write_text
from condensery_catalogue.listing import open_registry
from condensery_catalogue.outgrown import in_words, outgrown
from condensery_catalogue.results import commit, commit_date
from condensery_catalogue.showing import setting_words
from condensery_catalogue.site.builder import as_files, rules
from condensery_catalogue.site.formulas import mathml
from condensery_catalogue.site.gathering import bibtex, gather
from condensery_catalogue.site.matrix_page import Page
from condensery_catalogue.site.pictures import picture
from condensery_catalogue.site.prose import guide, hooks, html, inline
from condensery_catalogue.site.result_pages import WORDS, index, page_name, recipes, sections
from condensery_catalogue.site.svg import chart, dumbbell
from condensery_catalogue.wording import DOUBT, EFFECT, EXPLAINED, VERDICTS, heading, spread

STATIC = ("site.css", "site.js", "builder.css", "builder.js", "builder_page.js", "matrix.css", "matrix.js")
STATES = {
    "covered": "with a method that runs",
    "card only": "with a card, but no method",
    "missing": "not here yet",
    "background": "background: another survey",
    "unseen": "not in the text that we have",
}
"""How the catalogue stands to a work that the survey cites."""
COMPARED = tuple(facet for facet in BROWSED if facet not in ("verdict", "year", "status", "identity"))
"""Facets that two methods are compared by."""
DATA = ("key", "ref", "name", "plugin", "runs", "line", "card", "cell", "partners")
"""What of a method goes into the file with everything in it."""


def build_site(registry: Registry, folder: Path) -> int:
    """Write the whole site, whatever packages bring what it shows, and return the number of its files.

    :raises UsageError: for a damaged result, or a name that would lie outside of the folder; nothing is written then.
    """
    made = pages(registry)
    for path in made:
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{path!r} can't be the name of a page")
    for path, text in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)
    return len(made)


def pages(registry: Registry) -> dict[str, str]:
    """Return the texts of all files of the site by path; the same for the same catalogue and commit."""
    shown = gather(registry)
    write = Writer(shown)
    for entry in shown["methods"]:
        write.page(f"m/{entry['key']}.html", "method.html", m=entry)
    for result in shown["results"]:
        said = {title: html(text) for title, text in sections(result).items()}
        shared, own = recipes(result)
        drawn = {"picture": picture(result), "heading": heading(result), "shared": shared, "recipes": own}
        plan = shown["plans"][result["key"]]
        drawn |= {"notes": plan.notes, "changed": in_words(outgrown(result, plan))}
        write.page(f"r/{page_name(result)}.html", "result.html", result=result, sections=said, **drawn)

    prose = guide()
    write.page("guide/index.html", "guides.html", pages=prose)
    for page in prose:
        write.page(f"guide/{page.name}.html", "guide.html", page=page)
    write.page("hooks.html", "hooks.html", contracts=hooks())

    write.page("results.html", "results.html", index=html(index(shown["results"], shown["plans"])))
    write.page("best.html", "best.html")
    write.page("figures.html", "figures.html")
    write.page("compare.html", "compare.html", compared=[facet for facet in shown["facets"] if facet in COMPARED])
    write.page("coverage.html", "coverage.html", states=STATES)
    words = {"effect": EFFECT, "explained": EXPLAINED, "verdict_names": VERDICTS, "committed": commit_date()}
    write.page("about.html", "about.html", **words)
    write.page("404.html", "404.html")
    write.page("index.html", "index.html")

    known = rules(registry, shown["results"])
    write.page("build.html", "build.html", rules=known)

    matrix = Page.of(registry)
    write.page("matrix.html", "matrix.html", page=matrix)

    methods = [
        {**{name: entry[name] for name in DATA}, "card": _said(_card(entry["card"]))} for entry in shown["methods"]
    ]
    results = [_said(_told(result)) for result in shown["results"]]
    whole = {"methods": methods, "results": results}
    data = json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    static = {name: (Path(__file__).parent / "static" / name).read_text(encoding="utf-8") for name in STATIC}
    papers = "\n\n".join(bibtex(entry["paper"], entry["key"]) for entry in shown["methods"] if entry["paper"])
    made = {"data/matrix.js": matrix.data, "data/catalogue.json": data + "\n", "data/catalogue.bib": papers + "\n"}
    return {**write.written, **as_files(known), **made, **static}


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card whose claims say only what isn't understood: who claims it where it isn't the authors.

    Baselines say of their source what isn't said of the claim's value.
    """
    claims = []
    for claim in card["claims"]:
        value, base = claim.get("value") or {}, claim.get("baseline") or {}
        own = {name: said for name, said in base.items() if name == "value" or value.get(name) != said}
        told = {name: said for name, said in claim.items() if (name, said) != ("by", "authors")}
        claims.append({**told, "baseline": own})
    return {**card, "claims": claims}


def _told(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without what stands elsewhere: recipes on its page, points of a figure in arms, claims in cards.

    A comparison names its claim, and whose it is if it is another card's. What all seeds of an arm share is told once.
    """
    arms = {
        arm: {name: _once(value) for name, value in figures.items() if name != "figure"}
        for arm, figures in result["arms"].items()
    }
    comparisons = [{**comparison, "claim": comparison["claim"]["id"]} for comparison in result["comparisons"]]
    told = {name: value for name, value in result.items() if name != "recipes"}
    return {**told, "arms": arms, "comparisons": comparisons}


def _once(value: Any) -> Any:
    """Return a list of seeds' numbers as the one number that all of them are, if they are; also inside of a mapping."""
    if isinstance(value, Mapping):
        return {name: _once(each) for name, each in value.items()}
    alike = isinstance(value, list) and len(value) > 1 and all(each == value[0] for each in value)
    return value[0] if alike else value


def _said(value: Any) -> Any:
    """Return plain data without the fields that say nothing, of no seed either, and fractions to six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        kept = {name: _said(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if not _empty(each)}
    return [_said(each) for each in value] if isinstance(value, list) else value


def _empty(value: Any) -> bool:
    return value in (None, "", {}) or (isinstance(value, list) and all(map(_empty, value)))


UNNEEDED = re.compile(r"</(?:td|th|tr)>\s*|</li>")
"""What HTML lets go: the next cell, row or item ends the one before. It is a thirtieth of the site."""


class Unsaid(Undefined):
    """What isn't there: a template may ask whether it is, but not write it, for an empty word hides a wrong name."""

    __str__ = StrictUndefined.__str__


class Writer:
    """Fills templates.

    :param shown: what every page may use.
    """

    def __init__(self, shown: Mapping[str, Any]) -> None:
        loader = PackageLoader("condensery_catalogue.site")
        self.environment = Environment(
            loader=loader, undefined=Unsaid, autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        own = (bibtex, inline, setting_words, chosen_words, mathml, dumbbell, chart, spread)
        self.environment.filters |= {filled.__name__: filled for filled in own}
        said = {"words": WORDS, "doubt": DOUBT, "version": version("condensery"), "commit": commit()}
        self.environment.globals |= {**shown, **said}
        self.written: dict[str, str] = {}

    def page(self, path: str, template: str, **more: Any) -> None:
        """Fill a template; links lead from the page's own place, so that the site works wherever it lies."""
        filled = self.environment.get_template(template).render(root="../" * path.count("/"), here=path, **more)
        self.written[path] = UNNEEDED.sub("", filled) + "\n"


def chosen_words(facets: Mapping[str, Sequence[str]]) -> Markup:
    """Return a row's words by facet, for the script and within single quotes; facets without words are left out."""
    return htmlsafe_json_dumps({facet: words for facet, words in facets.items() if words})


# ---------------------------------------------------------------- the commands


def print_build(folder: Path) -> None:
    """Build the site, and say where it is."""
    print(f"{build_site(open_registry(), folder)} files: {folder / 'index.html'}")


class Handler(SimpleHTTPRequestHandler):
    """Serves files; where there is none, the site's own page says so."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with the site's page if nothing was found, otherwise as any server does."""
        page = Path(self.directory) / "404.html"
        if code == HTTPStatus.NOT_FOUND and page.is_file():
            self.error_message_format = page.read_text(encoding="utf-8").replace("%", "%%")
        super().send_error(code, message, explain)


def serve(folder: Path, port: int) -> None:
    """Build the site, and serve it to this machine alone, until Ctrl-C."""
    print_build(folder)
    handler = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
