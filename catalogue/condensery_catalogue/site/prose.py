"""Markdown and docstrings as HTML: the guide, the tables of results, the reference of the hooks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from condensery.contract import OfferingSpecs, StageSpecs
from condensery.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs"
"""The guide's pages; they lie in a checkout of the project, not in the installed package."""
ELSEWHERE = {"results": ("../results.html", "all results"), "claims": ("../results.html#claims", "all claims answered")}
"""Pages of the guide that the site has in a form of its own: their names only lead on."""
FIELD = re.compile(r"^:(?:(param|raises|returns)) ?([^:]*):\s*", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One page of the guide.

    :param name: of its file, less the suffix.
    """

    name: str
    title: str
    body: Markup


@dataclass(frozen=True)
class Hook:
    """One hook in the reference.

    :param fields: name and meaning of parameters, results and errors.
    """

    name: str
    signature: str
    body: Markup
    fields: Sequence[tuple[str, Markup]]


def guide() -> list[Page]:
    """Return the pages of the guide.

    :raises UsageError: where they aren't, as in an installed package.
    """
    paths = sorted(DOCS.glob("*.md"))
    if not paths:
        raise UsageError(f"the site is built from a checkout of the project: there is no {DOCS}")
    pages = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        # A generated page says so in a comment, which is for those who edit it.
        body = html(re.sub(r"\A<!--.*?-->\s*", "", text), among_guides=True)
        if path.stem in ELSEWHERE:
            body = Markup('<h1>{}</h1>\n<p><a href="{}">{}</a></p>').format(title and title[1], *ELSEWHERE[path.stem])
        pages.append(Page(path.stem, title[1] if title else path.stem, body))
    return pages


def html(text: str, *, among_guides: bool = False) -> Markup:
    """Return Markdown as HTML: headings are anchors, tables scroll by themselves, raw HTML and pictures are text.

    :param among_guides: it is a page of the guide, so links to files of the guide become links to their pages.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    parser.add_render_rule("table_open", lambda *_: '<div class="wide" tabindex="0" role="group"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(text)
    _anchor(tokens)
    for token in tokens if among_guides else ():
        _lead(token.children or [])
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def inline(text: str) -> Markup:
    """Return one line of Markdown as HTML, without a paragraph around it."""
    parser = MarkdownIt("commonmark", {"html": False}).disable(["image", "link", "autolink"])
    return Markup(parser.renderInline(text))


def slug(text: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _anchor(tokens: Sequence[Token]) -> None:
    """Give each heading an id; a second one of the same words gets a number."""
    seen: dict[str, int] = {}
    for token, words in pairwise(tokens):
        if token.type == "heading_open":
            name = slug("".join(child.content for child in words.children or []))
            count = seen[name] = seen.get(name, -1) + 1
            token.attrSet("id", f"{name}-{count}" if count else name)


def _lead(children: Sequence[Token]) -> None:
    """Turn links between the guide's files into links between its pages; what lies outside of it is no link."""
    gone = False
    for token in children:
        if token.type == "link_open":
            address = str(token.attrGet("href"))
            path, mark, anchor = address.partition("#")
            inside = not path or path in {other.name for other in DOCS.glob("*.md")}
            gone = not inside and "://" not in address
            if gone:
                token.type, token.tag, token.attrs = "em_open", "em", {}
            elif inside:
                token.attrSet("href", f"{path.removesuffix('.md')}.html{mark}{anchor}" if path else address)
        elif token.type == "link_close" and gone:
            token.type, token.tag, gone = "em_close", "em", False


# ---------------------------------------------------------------- the hooks


def hooks() -> list[tuple[str, Markup, list[Hook]]]:
    """Return both contracts: title, what it is, its hooks in the order of their calls."""
    both = (("What a plugin may offer", OfferingSpecs), ("How a method may act", StageSpecs))
    return [(title, _said(inspect.getdoc(specs) or ""), list(_hooks(specs))) for title, specs in both]


def _hooks(specs: type) -> Iterator[Hook]:
    for name, function in vars(specs).items():
        if not name.startswith("_"):
            words = inspect.getdoc(function) or ""
            # The pieces are: text, then kind, name and meaning of each field.
            text, *pieces = FIELD.split(words)
            fields = [
                (f"{kind} {what}".strip().removeprefix("param "), _said(said))
                for kind, what, said in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
            ]
            yield Hook(name, _signature(function), _said(text), fields)


def _signature(function: Any) -> str:
    found = inspect.signature(function)
    kept = [parameter for name, parameter in found.parameters.items() if name != "self"]
    return f"{function.__name__}{found.replace(parameters=kept)}".replace("'", "")


def _said(text: str) -> Markup:
    """Return a docstring's text as HTML; its roles are plain code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return html(text.replace("``", "`").strip())
