from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.padding import Padding
from tests.catalogue.commands import condensery

from condensery import Registry
from condensery.errors import UsageError
from condensery_catalogue.browser import HINT, Browser, card_text
from condensery_catalogue.browsing import asked, browsed, counts, kept
from condensery_catalogue.listing import own_registry, rows
from condensery_catalogue.showing import read_card, show_card

Play = Callable[[Browser, Any], Awaitable[None]]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return own_registry()


def play(registry: Registry, played: Play, size: tuple[int, int] = (140, 40), **given: Any) -> Browser:
    """Let something be done in a browser without a terminal, and return it as it is then."""
    app = Browser(registry, given.pop("chosen", {}), **given)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await played(app, pilot)

    asyncio.run(run())
    return app


def shown(app: Browser) -> list[str]:
    return [str(key.value) for key in app.table.rows]


async def choose(app: Browser, pilot: Any, facet: str, word: str) -> None:
    """Choose a word of a facet with the keyboard alone."""
    (leaf,) = [leaf for node in app.facets.root.children for leaf in node.children if leaf.data == (facet, word)]
    assert leaf.parent is not None
    leaf.parent.expand()
    await pilot.pause()
    app.facets.focus()
    app.facets.move_cursor(leaf)
    await pilot.press("enter")


def test_a_facet_leaves_the_rows_that_list_prints(registry: Registry) -> None:
    pruning = json.loads(condensery("list", "--family", "pruning", "--json").stdout)
    filters = json.loads(condensery("list", "--family", "pruning", "--granularity", "filter", "--json").stdout)
    assert len(pruning) > len(filters) > 2

    async def played(app: Browser, pilot: Any) -> None:
        assert len(shown(app)) == len(rows(registry))
        await choose(app, pilot, "family", "pruning")
        assert sorted(shown(app)) == sorted(row["key"] for row in pruning)
        assert app.table.border_title == f"{len(pruning)} of {len(rows(registry))}"

        labels = {leaf.data: str(leaf.label) for node in app.facets.root.children for leaf in node.children}
        assert labels["granularity", "filter"] == f"○ filter {len(filters)}"
        assert labels["family", "pruning"] == f"● pruning {len(pruning)}"
        await choose(app, pilot, "granularity", "filter")
        assert sorted(shown(app)) == sorted(row["key"] for row in filters)
        await choose(app, pilot, "family", "pruning")
        await choose(app, pilot, "granularity", "filter")
        assert len(shown(app)) == len(rows(registry))

    play(registry, played)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("fragnet", None),
        ("剪枝", "magnitude"),
        ("[36]", "lsq"),
        ("kim qkd", "qkd"),
        ("1989", "obd"),
        ("slimming", "network-slimming"),
    ],
)
def test_search_finds_what_the_web_page_finds(registry: Registry, typed: str, found: str | None) -> None:
    keys = [entry["key"] for entry in kept(browsed(registry), {}, typed)]
    assert keys == [] if found is None else found in keys
    assert len(keys) < len(rows(registry))


def test_words_of_a_facet_mean_or_and_facets_mean_and(registry: Registry) -> None:
    entries = browsed(registry)
    both = kept(entries, {"family": {"pruning", "quantization"}})
    assert len(both) == len(kept(entries, {"family": {"pruning"}})) + len(kept(entries, {"family": {"quantization"}}))
    narrow = kept(entries, {"family": {"pruning", "quantization"}, "network": {"ViT"}})
    assert 0 < len(narrow) < len(both)
    # A count is what its word alone would leave: the other word of its own facet doesn't lower it.
    assert counts(entries, {"family": {"joint"}, "network": {"ViT"}})["family"]["pruning"] == len(
        kept(entries, {"family": {"pruning"}, "network": {"ViT"}})
    )


def test_typing_searches_and_enter_goes_to_what_was_found(registry: Registry) -> None:
    async def played(app: Browser, pilot: Any) -> None:
        await pilot.press("slash", *"qkd", "enter")
        assert shown(app) == ["qkd"]
        assert app.key == "qkd"
        assert app.focused is app.table
        await pilot.press("slash", *"zzz")
        await pilot.pause()
        assert shown(app) == []
        assert app.key is None
        await pilot.press("enter", "a", "c")
        assert len(shown(app)) == len(rows(registry))
        assert app.draft.command == ""

    play(registry, played)


def test_a_card_has_what_any_reproduction_measured_for_its_claims(registry: Registry) -> None:
    """few-bits is a reproduction of LSQ's card, and answers claims of others too."""
    entries = {entry["key"]: entry for entry in browsed(registry)}
    for key, claim in (("xnor-net", "resnet18"), ("lsq", "resnet18-w4a4")):
        (made,) = (result for result in read_card(registry, key)["results"] if result["key"] == "few-bits")
        said = [c["claim"]["id"] for c in made["comparisons"]]
        assert claim in said
        assert not [one for one in said if ":" in one]
        assert made in entries[key]["results"]
    with pytest.raises(UsageError, match="'few-bits' is a reproduction, of 'lsq': condensery show lsq"):
        show_card("few-bits", as_json=False)


def test_a_card_shows_claims_beside_results_and_how_to_run_it(registry: Registry) -> None:
    async def played(app: Browser, pilot: Any) -> None:
        assert app.key == "hinton-kd"
        assert "Knowledge distillation with temperature" in app.export_screenshot().replace("&#160;", " ")
        assert app.query_one("#card").virtual_size.height > app.query_one("#card").size.height

        entry = app.entries["hinton-kd"]
        card = {**read_card(registry, "hinton-kd"), "results": entry["results"]}
        lines = [str(part.renderable) for part in card_text(card).renderables if isinstance(part, Padding)]
        assert "reproduce: condensery reproduce hinton-kd --tier desk" in lines

        # What was measured stands right below its claim of three lines.
        claim = next(c["claim"]["id"] for result in entry["results"] for c in result["comparisons"])
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{claim}: "))
        assert lines[place + 3].startswith(f"{claim}: ")
        assert lines[place + 4].startswith("measured ")

    play(registry, played, search="hinton-kd", size=(160, 50))


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
def test_everything_fits_the_terminal(registry: Registry, size: tuple[int, int]) -> None:
    async def played(app: Browser, pilot: Any) -> None:
        for widget in (app.table, app.facets, app.query_one("#card"), app.query_one("#draft")):
            assert widget.region.width > 20
            assert widget.region.right <= size[0]
            assert widget.region.bottom <= size[1]
        assert app.table.size.height >= 5
        wide = app.table.region.y == app.query_one("#card").region.y
        assert wide == (size[0] >= 130)

    play(registry, played, size=size)


def test_methods_are_composed_by_the_rules_of_compose(registry: Registry) -> None:
    async def add(app: Browser, pilot: Any, key: str, how: str) -> None:
        app.table.move_cursor(row=app.table.get_row_index(key))
        await pilot.pause()
        await pilot.press(how)
        await app.workers.wait_for_complete()
        await pilot.pause()

    async def played(app: Browser, pilot: Any) -> None:
        app.table.focus()
        assert HINT in str(app.query_one("#draft").render())
        await add(app, pilot, "magnitude", "a")
        await add(app, pilot, "lsq", "a")
        await add(app, pilot, "hinton-kd", "w")
        assert app.draft.command == 'condensery compose "magnitude -> lsq + hinton-kd{teacher=original}"'
        assert app.said.startswith("legal")

        await add(app, pilot, "kmeans-sharing", "a")
        assert app.said == (
            "refused: kmeans-sharing is not applicable: stage 'kmeans-sharing' lacks weights that may take any value: "
            "no quantizer holds them (lsq in stage 'lsq+hinton-kd' took them away)"
        )
        await pilot.press("u")
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.said.startswith("legal")

        await add(app, pilot, "deep-compression", "w")
        assert app.said == "not added: deep-compression has stages of its own: add it behind the others"
        await pilot.press("y")
        assert app.clipboard == app.draft.command

    app = play(registry, played)
    assert app.draft.line == "magnitude -> lsq + hinton-kd{teacher=original}"


def test_facets_are_given_on_the_command_line_as_to_list(registry: Registry) -> None:
    years = asked(registry, {"family": "pruning", "year": "2015-2016", "network": None})
    assert years == {"family": {"pruning"}, "year": {"2015", "2016"}}

    async def played(app: Browser, pilot: Any) -> None:
        listed = rows(registry, {"family": "pruning", "year": "2015-2016"})
        assert 0 < len(listed) < 10
        assert sorted(shown(app)) == sorted(row["key"] for row in listed)

    play(registry, played, chosen=years)


def test_without_a_terminal_it_says_so() -> None:
    done = condensery("browse")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: browse needs a terminal; condensery list and condensery show print the same\n"


def test_without_textual_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_catalogue.browsing.sys", SimpleNamespace(stdin=Terminal, stdout=Terminal))
    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.delitem(sys.modules, "condensery_catalogue.browser")
    done = condensery("browse")
    assert (done.returncode, done.stderr) == (
        2,
        "error: browse needs the package 'textual': pip install 'condensery[browse]'\n",
    )


class Terminal:
    @staticmethod
    def isatty() -> bool:
        return True


def test_the_command_is_printed_at_the_end(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from condensery_catalogue import browsing

    def run(app: Browser) -> None:
        app.draft.then("magnitude")
        app.said = "legal"

    monkeypatch.setattr(Browser, "run", run)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    browsing.browse({}, "")
    assert capsys.readouterr() == ('condensery compose "magnitude"\n', "legal\n")


def test_it_opens_without_torch() -> None:
    code = (
        "import asyncio, sys\n"
        "from condensery_catalogue.browser import Browser\n"
        "from condensery_catalogue.listing import own_registry\n"
        "async def run():\n"
        "    app = Browser(own_registry(), {})\n"
        "    async with app.run_test() as pilot:\n"
        "        await pilot.pause()\n"
        "        print(app.table.row_count, [m for m in ('torch', 'timm', 'transformers') if m in sys.modules])\n"
        "asyncio.run(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1)[1] == "[]\n"
    assert int(done.stdout.split()[0]) >= 60
