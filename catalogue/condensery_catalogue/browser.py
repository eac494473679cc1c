"""``browse``: the catalogue in a terminal, with the web page's facets, search and cards, and a line that composes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static, Tree
from textual.widgets.tree import TreeNode

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery_catalogue.browsing import Entry, browsed, counts, kept
from condensery_catalogue.drafting import Draft, refusal
from condensery_catalogue.listing import LETTERS
from condensery_catalogue.showing import about, claim_lines, read_card, result_lines, settings_table, title, usage

COLUMNS = ("key", "ref", "year", "on", "name", "answered")
OPEN = 3
"""How many facets are unfolded at the start."""
HINT = "a: compose with the method that is shown; w: let it act in the same stage as the last one"
LEGAL = "legal, on a net and a task that each of its methods can take"

Leaf = tuple[str, str]
"""A facet and one of its words; none for the facet itself."""


class Browser(App[None]):
    """Facets on the left; a table of methods and the card of one of them; the composition below.

    :param chosen: words by facet that are chosen at the start.
    :param search: what the search field holds then.
    """

    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (130, "-wide")]
    BINDINGS: ClassVar[list[BindingType]] = [
        ("slash", "focus('search')", "search"),
        ("c", "clear", "clear filters"),
        ("a", "add('then')", "add, then"),
        ("w", "add('beside')", "add, with"),
        ("u", "undo", "undo"),
        ("y", "copy", "copy"),
        ("q", "quit", "quit"),
    ]
    CSS = """
    Input, Input:focus { height: 1; border: none; padding: 0 1; }
    #body { height: 1fr; }
    #facets { width: 30; border: solid $panel; scrollbar-size: 1 1; }
    #found { width: 1fr; layout: vertical; }
    .-wide #found { layout: horizontal; }
    DataTable, #card { height: 1fr; width: 1fr; border: solid $panel; scrollbar-size: 1 1; }
    DataTable:focus, #card:focus, #facets:focus { border: solid $accent; }
    #draft { height: auto; max-height: 6; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self, registry: Registry, chosen: Mapping[str, set[str]], search: str = "") -> None:
        super().__init__()
        self.registry = registry
        self.entries = {entry["key"]: entry for entry in browsed(registry)}
        self.chosen = {facet: set(words) for facet, words in chosen.items()}
        self.words = search
        cards = {
            key: {**entry["card"], "runs": entry["runs"], "method": key in registry.entries["methods"]}
            for key, entry in self.entries.items()
        }
        self.draft = Draft(cards)
        self.said = ""
        """What there is to say of the draft: whether it is legal, or why something can't be added."""

    # ------------------------------------------------------------ what is there

    def compose(self) -> ComposeResult:
        """Return the widgets."""
        yield Input(self.words, placeholder='name, author, year, 剪枝, "[36]"', id="search", select_on_focus=False)
        with Horizontal(id="body"):
            yield Tree[Leaf]("facets", id="facets")
            with Container(id="found"):
                yield DataTable[Text](cursor_type="row", id="methods")
                with VerticalScroll(id="card"):
                    yield Static(id="text")
        yield Static(id="draft", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Fill what stays as it is, then what depends on the filters."""
        tree = self.facets
        tree.show_root, tree.guide_depth = False, 2
        for number, (facet, words) in enumerate(counts(list(self.entries.values()), {}).items()):
            node = tree.root.add(facet, (facet, ""), expand=number < OPEN or bool(self.chosen.get(facet)))
            for word in words:
                node.add_leaf(word, (facet, word))

        self.table.add_columns(*COLUMNS)
        self.show()
        self.show_draft()
        self.table.focus()

    @property
    def table(self) -> DataTable[Text]:
        """The table of methods."""
        return self.query_one("#methods", DataTable)

    @property
    def facets(self) -> Tree[Leaf]:
        """The tree of facets and their words."""
        return self.query_one("#facets", Tree)

    @property
    def key(self) -> str | None:
        """The key of the method whose card is shown."""
        if not self.table.row_count:
            return None
        return self.table.coordinate_to_cell_key(self.table.cursor_coordinate).row_key.value

    # ------------------------------------------------------------ filters

    def show(self) -> None:
        """Show the methods that are left, the method shown before among them where it is, and the counts."""
        before, table = self.key, self.table
        found = kept(self.entries.values(), self.chosen, self.words)
        table.clear()
        for entry in found:
            table.add_row(*cells(entry), key=entry["key"])
        if any(entry["key"] == before for entry in found):
            table.move_cursor(row=table.get_row_index(str(before)))
        table.border_title = f"{len(found)} of {len(self.entries)}"

        here = counts(list(self.entries.values()), self.chosen, self.words)
        for node in self.facets.root.children:
            for leaf in node.children:
                leaf.set_label(self.label(leaf, here))
            facet, _ = node.data or ("", "")
            number = len(self.chosen.get(facet, ()))
            node.set_label(f"{facet} ({number})" if number else facet)
        self.show_card()

    def label(self, leaf: TreeNode[Leaf], here: Mapping[str, Mapping[str, int]]) -> Text:
        """Return a word of a facet with its count, and a mark that says without colour whether it is chosen."""
        facet, word = leaf.data or ("", "")
        mark = "●" if word in self.chosen.get(facet, ()) else "○"
        return Text(f"{mark} {word} {here[facet][word]}")

    @on(Input.Changed, "#search")
    def search(self, event: Input.Changed) -> None:
        """Search for what is typed, as it is typed."""
        if event.value != self.words:
            self.words = event.value
            self.show()

    @on(Input.Submitted, "#search")
    def found(self) -> None:
        """Go from the search to what it found."""
        self.table.focus()

    @on(Tree.NodeSelected)
    def choose(self, event: Tree.NodeSelected[Leaf]) -> None:
        """Choose a word of a facet, or no longer; facets mean "and", their words "or"."""
        facet, word = event.node.data or ("", "")
        if word:
            self.chosen.setdefault(facet, set()).symmetric_difference_update({word})
            self.show()

    def action_clear(self) -> None:
        """Show everything again."""
        self.chosen, self.words = {}, ""
        self.query_one("#search", Input).value = ""
        self.show()

    # ------------------------------------------------------------ the card

    @on(DataTable.RowHighlighted)
    def show_card(self) -> None:
        """Show the card of the method under the cursor."""
        text, key = self.query_one("#text", Static), self.key
        if key is None:
            text.update("Nothing has all of this; c clears the filters.")
        else:
            text.update(card_text(read_card(self.registry, key, self.entries[key]["results"])))
            self.query_one("#card").scroll_home(animate=False)

    # ------------------------------------------------------------ the composition

    def action_add(self, how: str) -> None:
        """Add the method that is shown to the composition.

        :param how: ``then``, in a stage of its own, or ``beside``, in the last one.
        """
        if self.key is None:
            return
        try:
            getattr(self.draft, how)(self.key)
        except UsageError as error:
            self.show_draft(f"not added: {error}")
        else:
            self.check_draft()

    def action_undo(self) -> None:
        """Take back the last addition to the composition."""
        self.draft.undo()
        self.check_draft()

    def action_copy(self) -> None:
        """Copy the command, where the terminal lets a program do so."""
        self.copy_to_clipboard(self.draft.command)
        self.notify(self.draft.command or "nothing to copy yet", title="copied", markup=False)

    def check_draft(self) -> None:
        """Say whether the composition is legal; the first time this imports torch, beside what one does meanwhile."""
        self.show_draft("checking..." if self.draft.stages else "")
        if self.draft.stages:
            self.judge(self.draft.stages)

    @work(thread=True, exclusive=True)
    def judge(self, stages: list[Any]) -> None:
        """Ask core's rules, and show their answer unless the composition has changed since."""
        why = refusal(stages, self.registry)
        self.call_from_thread(self.judged, stages, why)

    def judged(self, stages: list[Any], why: str) -> None:
        """Show an answer to the composition that it was given to."""
        if stages is self.draft.stages:
            self.show_draft(
                f"refused: {why}" if why else "legal, on a net and a task that each of its methods can take"
            )

    def show_draft(self, said: str = "") -> None:
        """Show the command, and what there is to say of it."""
        self.said = said
        self.query_one("#draft", Static).update(f"{self.draft.command or HINT}\n{said}".strip())


def cells(entry: Entry) -> list[Text]:
    """Return an entry's row of the table."""
    on = "".join(LETTERS[kind] for kind in entry["network"])
    name = entry["name"] if entry["runs"] else f"{entry['name']} (card only)"
    said = (entry["key"], entry["reference"], entry["year"] or "", on, name, ", ".join(entry["verdict"]))
    return [Text(str(word)) for word in said]


def card_text(card: Mapping[str, Any]) -> Group:
    """Return a card: what it is, what each claim came to, settings, how to run it."""
    claims = []
    for claim in card.get("claims") or []:
        claims += claim_lines(claim)
        for result in card["results"]:
            own = [c for c in result["comparisons"] if c["claim"]["id"] == claim["id"]]
            claims += [f"   {line}" for c in own for line in result_lines(result, c)]

    parts: list[RenderableType] = [title(card), *map(indented, about(card))]
    for name, lines in (("Claims beside what was measured here", claims), ("Use", list(usage(card)))):
        if lines:
            parts += [Text(f"\n{name}", "bold"), *map(indented, lines)]
    if card.get("hyperparameters"):
        parts += [Text(), settings_table(card["hyperparameters"])]
    return Group(*parts)


def indented(line: str) -> Padding:
    """Return a line that keeps its indent where it is folded."""
    bare = line.lstrip(" ")
    return Padding(Text(bare), (0, 0, 0, len(line) - len(bare)))
