"""``fit``: which methods a net can take, why not the others, what goes with what, and what it has come to here."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condensery.contract import Contract, Method, Registry, build_method
from condensery.errors import CondenseryError, UnknownKey
from condensery.recipe import format_stages, parse_model, parse_recipe, parse_task
from condensery.testing import Case
from condensery_catalogue.app import waited_for
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.matrix import Kind, Matrix, stored_matrix
from condensery_catalogue.results import stored_results

if TYPE_CHECKING:
    from torch import nn

SAVES = (
    ("dense-shape", "removes", "parameters, MACs, memory"),
    ("mask", "leaves", "bytes"),
    ("palette", "leaves", "bytes"),
    ("quantized-weights", "leaves", "bytes"),
    ("quantized-activations", "leaves", "bit operations"),
)
"""What a method saves that leaves or removes a word."""
BEST = ("reproduced", "partly", "scaled-down", "inconclusive", "not")
"""Verdicts, what says most for a method first."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """How one method fits one net.

    :param applies: whether it can be run; ``why`` says why not, in the words of the method or of core.
    :param before: what must come before it, as a composition; its partners are after that.
    :param saves: what it makes smaller, or what it is for.
    :param then: methods that may come after it.
    :param beside: methods that may act in the same stage.
    :param worked: those of both, as ``then lsq`` or ``with lsq``, that came out no worse in the matrix than the better
        of the two alone.
    :param results: verdicts on stored comparisons of the method, with how often each stands.
    :param line: a composition that runs it.
    """

    key: str
    family: str
    applies: bool
    why: str
    before: str
    saves: tuple[str, ...]
    then: tuple[str, ...]
    beside: tuple[str, ...]
    worked: tuple[str, ...]
    results: Mapping[str, int]
    line: str


def fit(
    net: nn.Module | str,
    train: Iterable[Any] | None = None,
    *,
    task: str | None = None,
    registry: Registry | None = None,
    told: Callable[[str], object] = lambda key: None,
    **how: Any,
) -> list[Fit]:
    """Try every method on a net, dry, and return how each fits: those that apply first, what is known best first.

    :param net: your own, with ``train`` and what else :func:`condensery.compress` takes of ``loss`` and ``rows``; or a
        model of the catalogue, with a ``task`` of it.
    :param told: is told each method's key before it is tried.
    :raises CondenseryError: if there is no such net or task, or the net doesn't fit its data.
    """
    registry = registry or Registry.open()
    if isinstance(net, str):
        made: dict[str, Any] = {"model": parse_model(net), "task": parse_task(task or "digits")}
    else:
        from condensery.front import given_recipe

        made, registry = given_recipe(net, registry, train=train or (), **how)

    # The net alone comes first: what is wrong with it is no method's fault.
    _play(made, [{"name": "fit", "epochs": 1}], registry)
    found = {}
    for key in registry.keys("methods"):
        told(key)
        found[key] = tried(key, made, registry)
    methods = {key: method for key, (_, method) in found.items()}
    partners = Partners(methods, [key for key, (why, _) in found.items() if not why], stored_matrix(registry))
    results = verdicts(registry)
    fits = [_fit(key, why, registry, partners, results.get(key, {})) for key, (why, _) in found.items()]
    return sorted(fits, key=_rank)


def _play(made: Mapping[str, Any], stages: Sequence[Any], registry: Registry) -> None:
    """Play stages dry on a net."""
    from condensery.run import Run

    recipe = parse_recipe({**made, "base": "none", "stages": list(stages)})
    with tempfile.TemporaryDirectory() as folder:
        Run(recipe, registry, out=Path(folder) / "fit", device="cpu").check()


def tried(key: str, made: Mapping[str, Any], registry: Registry) -> tuple[str, Method | None]:
    """Play one method dry on a net; returns why it can't be run, empty where it can, and the method."""
    card = registry.card(key) or {}
    try:
        method = build_method(key, registry.load("methods", key), {}, card)
        stages = Case(key, "CNN", card).stages(registry, name="fit", epochs=1)
        _play(made, stages, registry)
    except CondenseryError as error:
        return str(error).removeprefix(f"{key} is not applicable: "), None
    return "", method


class Partners:
    """Which methods may follow each other, and act together, by the words that they need, leave and remove.

    What was run counts for more: a pair that every net of the matrix has refused may not.

    :param methods: by key; ``None`` for those that can't be built.
    :param applying: keys of those that can be run on the net.
    """

    def __init__(
        self, methods: Mapping[str, Method | None], applying: Sequence[str], matrix: Matrix | None = None
    ) -> None:
        self.matrix = matrix or Matrix()
        self.words = {key: method.words() for key, method in methods.items() if method is not None}
        self.applying = [key for key in applying if key in self.words]
        # What one that runs by itself needs must be there at the start; words that nobody needs make no difference.
        self.start = {word for key in self.applying for word in self.words[key].needs} - {"teacher"}

    def lacks(self, key: str, other: str) -> frozenset[str]:
        """Return the words that another method needs and doesn't find in the stage after a method's."""
        words = self.words[key]
        here = ((self.start | words.needs) - words.removes) | words.leaves
        return frozenset(self.words[other].needs - {"teacher"} - here)

    def then(self, key: str) -> tuple[str, ...]:
        """Return the methods that may come in the stage after a method's."""
        return tuple(
            o for o in self.applying if not self.lacks(key, o) and self.outcomes("then", key, o) != {"refused"}
        )

    def beside(self, key: str) -> tuple[str, ...]:
        """Return the methods that may act in the same stage, behind it or before it."""
        after = (o for o in self.applying if o != key and not self.lacks(key, o))
        free = (o for o in sorted(after) if not self.words[o].removes & self.words[key].needs)
        return tuple(o for o in free if self.outcomes("with", key, o) != {"refused"})

    def outcomes(self, kind: Kind, key: str, other: str) -> set[str]:
        """Return what a pair came to on the nets of the matrix that both can be run on."""
        cells = [self.matrix.cell(net, kind, key, other) for net in self.matrix.nets]
        return {cell.outcome for cell in cells if cell.made is not None}

    def worked(self, key: str) -> tuple[str, ...]:
        """Return the partners that came out well somewhere, each with how it is a partner."""
        found: dict[Kind, tuple[str, ...]] = {"then": self.then(key), "with": self.beside(key)}
        return tuple(
            f"{kind} {other}"
            for kind, some in found.items()
            for other in some
            if "works" in self.outcomes(kind, key, other)
        )


def _fit(key: str, why: str, registry: Registry, partners: Partners, results: Mapping[str, int]) -> Fit:
    from condensery_catalogue.showing import spelling

    card = registry.card(key) or {"key": key}
    words, applies = partners.words.get(key), not why
    saves = () if words is None else tuple(dict.fromkeys(s for w, side, s in SAVES if w in getattr(words, side)))
    if words is not None and "teacher" in words.needs:
        saves = (*saves, "errors of a small student")
    before = parse_recipe({"model": "any", "task": "any", "stages": Contract(**card.get("contract", {})).before}).stages
    return Fit(
        key,
        card.get("family", ""),
        applies,
        why,
        format_stages(before) if before else "",
        saves,
        partners.then(key) if applies else (),
        partners.beside(key) if applies else (),
        partners.worked(key) if applies else (),
        results,
        spelling(card),
    )


def verdicts(registry: Registry) -> dict[str, dict[str, int]]:
    """Return by card the verdicts on the stored comparisons of its claims, with how often each stands, best first."""
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for name in registry.keys("recipes"):
        for result in stored_results(registry, name):
            words[result["card"]].update(c["verdict"]["word"] for c in result["comparisons"] if c["verdict"])
    return {card: {word: counted[word] for word in BEST if counted[word]} for card, counted in words.items()}


def _rank(one: Fit) -> tuple[bool, int, int, str]:
    best = next(iter(one.results), None)
    return (not one.applies, BEST.index(best) if best else len(BEST), -one.results.get(best or "", 0), one.key)


# ------------------------------------------------------------------ the command


def print_fit(model: str, task: str | None, method: str | None, *, as_json: bool) -> None:
    """Print how the methods fit a model of the catalogue.

    :param method: say all of this one alone.
    """
    registry = open_registry()
    if method is not None and method not in registry.entries["methods"]:
        raise UnknownKey("method", method, registry.keys("methods"))
    with waited_for("starting"):
        from condensery.run import Progress

    with Progress(quiet=as_json) as show:
        show.start(f"trying {len(registry.keys('methods'))} methods, dry", len(registry.keys("methods")))
        found = fit(model, task=task, registry=registry, told=lambda key: show.advance())
    chosen = [one for one in found if method in (None, one.key)]

    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in chosen], indent=1))
    elif method is not None:
        _print_one(chosen[0], model, task)
    else:
        _print_all(found, model, task)


def _print_all(found: Sequence[Fit], model: str, task: str | None) -> None:
    out = console()
    said = table("key", "saves", "results here", "then", title=f"{model}: what applies")
    said.columns[-1].justify = "right"
    for one in (one for one in found if one.applies):
        results = ", ".join(f"{count} {word}" for word, count in one.results.items())
        said.add_row(one.key, ", ".join(one.saves) or "-", results or "-", str(len(one.then)))
    out.print(said)
    out.print(
        "'then': how many methods may come after it. Verdicts are of stored results, on whichever net.", markup=False
    )

    rest = table("key", "why not", title="what doesn't")
    for one in (one for one in found if not one.applies):
        rest.add_row(one.key, one.why)
    if rest.row_count:
        out.print(rest, markup=False)
    where = f"--model {model}" + (f" --task {task}" if task else "")
    out.print(f'next: condensery fit {model} --method KEY, or condensery compose "KEY -> KEY" {where}', markup=False)


def _print_one(one: Fit, model: str, task: str | None) -> None:
    out = console()
    out.print(f"{one.key} on {model}: " + ("applies" if one.applies else one.why), markup=False)
    if not one.applies:
        return
    where = f"--model {model}" + (f" --task {task}" if task else "")

    def shown(kind: str, keys: Sequence[str]) -> list[str]:
        return [f"{key} (works)" if f"{kind} {key}" in one.worked else key for key in keys]

    for title, words in (
        ("comes after", [one.before] if one.before else []),
        ("saves", one.saves),
        ("then", shown("then", one.then)),
        ("in the same stage", shown("with", one.beside)),
        ("run it", [f'condensery compose "{one.line}" {where}']),
    ):
        out.print(f"{title}: {', '.join(words) or '-'}", markup=False, highlight=False)
    if one.worked:
        out.print("works: it was run on a small net, see catalogue/docs/matrix.md", markup=False, highlight=False)
