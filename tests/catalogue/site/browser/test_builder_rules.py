"""The builder's script answers as Python does: the same lines, the same refusals, in the same words."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pytest
from tests.catalogue.site.browser.conftest import Visits

from condensery import Registry
from condensery.contract import Facts, methods
from condensery.errors import NotApplicable, UsageError
from condensery.recipe import ModelSpec, Recipe, parse, parse_recipe, parse_yaml, unroll
from condensery.run import Run, opening
from condensery.run.cast import give_teachers
from condensery_catalogue.listing import own_registry
from condensery_catalogue.running import training_of
from condensery_catalogue.site.builder import BEFORE_RULES

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

CHAINS = 500
NETS = (("", ""), ("resnet20", "cifar10"), ("vit", "digits"), ("mlp", "xor"), ("", "digits-keypoints"), ("lstm", ""))
"""Models and tasks, each of another set of words at the start."""
ANSWERS = """([asked, nets]) => asked.map(([line, net]) => {
  try {
    const items = Builder.parse(line);
    const words = Builder.start(...nets[net], RULES);
    const found = Builder.legal(items, words, RULES, nets[net][1]);
    const spelt = Builder.spell(items);
    return {
      spelt, words, legal: found.legal, why: found.refused?.text || "", states: found.states,
      again: Builder.spell(Builder.parse(spelt)) === spelt,
      doubts: Builder.problems(items, RULES, nearest).map(({ text }) => text),
      recipe: Builder.recipe(items, ...nets[net], RULES), command: Builder.command(line, ...nets[net]),
    };
  } catch (error) {
    if (!(error instanceof Builder.SpellingError)) throw error;
    return { error: error.message };
  }
})"""
"""What the page says of lines: each with the number of its net."""

Asked = tuple[str, int]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return own_registry()


@pytest.fixture(scope="module")
def rules(site: Path) -> dict[str, Any]:
    text = (site / "data" / "rules.js").read_text(encoding="utf-8")
    return dict(json.loads(text.removeprefix(BEFORE_RULES).removesuffix(";\n")))


@pytest.fixture(autouse=True)
def hints_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the types of a class once: they are asked for at each of some ten thousand methods."""
    once = functools.cache(get_type_hints)
    monkeypatch.setattr(opening, "get_type_hints", once)
    monkeypatch.setattr(methods, "get_type_hints", once)


@pytest.fixture
def page(visit: Visits) -> Page:
    opened = visit("disk")
    opened.goto("build.html")
    return opened


def ask(page: Page, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return what the page says of many lines, in one call."""
    return list(page.evaluate(ANSWERS, [list(map(list, asked)), list(map(list, NETS))]))


def stages_of(line: str) -> Recipe:
    return parse_recipe({"model": "any", "task": "any", "stages": parse(line)})


def words_of(rules: Mapping[str, Any], model: str, task: str) -> set[str]:
    """Return the words at the start, from the rules as they were dumped: all that may be where a choice is open."""
    given = rules["tasks"].get(task)
    net = rules["models"].get(model or (given or {}).get("model"), {})
    nets = [net] if "words" in net else rules["models"].values()
    tasks = [given] if given else rules["tasks"].values()
    return {word for thing in [*nets, *tasks] for word in thing.get("words", ())}


def judged(line: str, rules: Mapping[str, Any], model: str, task: str, registry: Registry) -> dict[str, Any]:
    """Return what core's own rules say of a line, met as a dry run meets its stages, without building a net."""
    recipe, _ = give_teachers(stages_of(line), registry)
    facts = Facts(words_of(rules, model, task))
    states: dict[str, Any] = {}
    met = set()
    for unit in unroll(recipe.stages, decide=lambda _, asked: asked(), layers=list, holds=lambda _: False):
        passed = f"{unit.spec.name}:{min(unit.round, 1)}"
        if passed in met:
            continue
        met.add(passed)
        if isinstance(unit.spec.student, ModelSpec):
            facts = Facts(words_of(rules, unit.spec.student.key, task))
        try:
            own = opening.methods_of(unit, registry)
            facts.enter(unit.spec.name, own, ["teacher"] if unit.spec.teachers else [])
        except NotApplicable as error:
            return {"legal": False, "why": str(error), "states": [list(state) for state in states.items()]}
        states[unit.spec.name] = sorted(facts.words)
    return {"legal": True, "why": "", "states": [list(state) for state in states.items()]}


def check(page: Page, asked: Sequence[Asked], rules: Mapping[str, Any], registry: Registry) -> list[dict[str, Any]]:
    """Hold page and Python to the same answer for each line, and return the page's."""
    answers = ask(page, asked)
    for (line, net), said in zip(asked, answers, strict=True):
        assert "error" not in said, (line, said)
        expected = judged(line, rules, *NETS[net], registry)
        assert {name: said[name] for name in expected} == expected, line
        assert set(said["words"]) == words_of(rules, *NETS[net])
        # What the page writes means to Python what was asked.
        assert said["again"], line
        assert stages_of(said["spelt"]).stages == stages_of(line).stages, (line, said["spelt"])
    return answers


def test_all_ordered_pairs_in_both_modes(page: Page, rules: Mapping[str, Any], registry: Registry) -> None:
    keys = registry.keys("methods")
    assert set(keys) == set(rules["methods"])
    asked = [(f"{one} {sign} {other}", 0) for one in keys for other in keys for sign in ("->", "+")]
    answers = check(page, asked, rules, registry)
    refused = sum(not said["legal"] for said in answers)
    assert len(asked) == 2 * len(keys) ** 2
    assert len(asked) // 20 < refused < len(asked) // 2
    assert not any(said["doubts"] for said in answers)
    print(f"{len(asked)} pairs equal, {refused} of them refused")


# ---------------------------------------------------------------- chains


def chains(rules: Mapping[str, Any], registry: Registry) -> Iterator[Asked]:
    """Yield random compositions that can be built: rounds, roles, names, settings, odd values."""
    draw = random.Random(31)
    while True:
        names: list[str] = []
        items = [_item(draw, rules, names, 0) for _ in range(draw.randint(1, 4))]
        line = draw.choice([" -> ", " then ", "->"]).join(items)
        # Settings of a method may exclude each other.
        with contextlib.suppress(UsageError):
            opening.check_settings(stages_of(line).stages, registry)
            yield line, draw.randrange(len(NETS))


def _item(draw: random.Random, rules: Mapping[str, Any], names: list[str], depth: int) -> str:
    if depth < 2 and draw.random() < 0.2:
        inner = [_item(draw, rules, names, depth + 1) for _ in range(draw.randint(1, 3))]
        return f"({' -> '.join(inner)})" + draw.choice(["", " * 1", " * 2", "*007"])
    keys = draw.sample(sorted(rules["methods"]), draw.choice([1, 1, 1, 2, 3]))
    if draw.random() < 0.1:
        keys.append(keys[0])  # the same method twice in a stage
    said = [key + _settings(draw, rules["methods"][key]) for key in keys]
    said[draw.randrange(len(said))] += _fields(draw, rules, names)
    return draw.choice([" + ", " with ", "+"]).join(said)


def _settings(draw: random.Random, method: Mapping[str, Any]) -> str:
    found = []
    for name, setting in method["settings"].items():
        if draw.random() > (0.7 if name in method["by"] else 0.2):
            continue
        if "choices" in setting:
            value = draw.choice(setting["choices"])
            found.append(f"{name}={json.dumps(value) if draw.random() < 0.3 else value}")
        elif setting["type"] == "bool":
            found.append(f"{name}={draw.choice(['true', 'false'])}")
        elif setting["type"] in ("int", "float") and setting["default"] is not None:
            formula = draw.choice([f"={setting['default']}", f"={setting['default']} + 0 * (round + 1)"])
            found.append(f"{name}={draw.choice([json.dumps(setting['default']), formula])}")
    return f"({draw.choice([', ', ',']).join(found)})" if found else draw.choice(["", "", "()"])


def _fields(draw: random.Random, rules: Mapping[str, Any], names: list[str]) -> str:
    found = {}
    if draw.random() < 0.4:
        roles = ["original", "input", "previous", "resnet32", "vit(dim=24)", "[original, resnet20]", *names[-2:]]
        found["teacher"] = draw.choice(roles)
    if draw.random() < 0.1:
        found["student"] = draw.choice(["mlp(hidden=[8, 8])", "resnet8", "transformer", "previous"])
    if draw.random() < 0.3:
        found["epochs"] = draw.choice(["0", "3"])
    if draw.random() < 0.1:
        found["players"] = '{teacher={train=true, every="1/5"}}'
    if draw.random() < 0.4:
        name = f"{draw.choice('abc')}{len(names)}_{draw.randrange(10**6)}"
        names.append(name)
        found["name"] = draw.choice([name, json.dumps(name)])
    if not found:
        return ""
    return "{" + ", ".join(f"{name}={value}" for name, value in found.items()) + "}"


def test_random_chains(page: Page, rules: Mapping[str, Any], registry: Registry) -> None:
    asked = list(itertools.islice(chains(rules, registry), CHAINS))
    answers = check(page, asked, rules, registry)
    refused = [said for said in answers if not said["legal"]]
    assert CHAINS // 5 < len(refused) < CHAINS * 4 // 5
    assert len({said["why"].partition(" lacks ")[2].partition(" (")[0] for said in refused}) >= 4
    for (line, net), said in zip(asked, answers, strict=True):
        model, task = NETS[net]
        assert shlex.split(said["command"])[:3] == ["condensery", "compose", line]
        assert said["doubts"] == []

        # The recipe file holds what the command runs.
        on = registry.load("tasks", task or "digits")
        made = {"model": model or on.default_model, "task": task or "digits", "train": training_of(on, None)}
        assert parse_recipe(parse_yaml(said["recipe"])) == parse_recipe({**made, "stages": parse(line)}), line
    print(f"{len(asked)} chains equal, {len(refused)} of them refused")


def test_what_can_not_be_read_is_refused_in_the_same_words(
    page: Page, rules: Mapping[str, Any], registry: Registry
) -> None:
    draw = random.Random(7)
    lines = [
        *(
            "",
            " ",
            "a ->",
            "a -> -> b",
            "-> a",
            "a * 2",
            "(a) * 0",
            "(a) * 1.5",
            "(a",
            "a)",
            "(a) + b",
            "a(x)",
            "a(x=)",
        ),
        *(
            "a(x=1, x=2)",
            "a{x}",
            'a(x="',
            "a(x=1e999)",
            "a(x=007)",
            r'a(x="\q")',
            "a(x=[1",
            "a(x={b=})",
            "a & b",
            "then",
        ),
        *("a-", "a(x=" + "[" * 25, "a(x==1 + (2", "a(1=2)", "with -> a", "a(x=resnet20(key=1))", "a(__proto__=1)"),
    ]
    for line, _ in itertools.islice(chains(rules, registry), 150):
        place = draw.randrange(len(line))
        lines.append(
            line[:place] + draw.choice(["", "", "(", "}", '"', "->", "=", " ", "é", "-", "1."]) + line[place + 1 :]
        )

    refused = 0
    for line, said in zip(lines, ask(page, [(line, 0) for line in lines]), strict=True):
        found, why = read(line)
        if found is None:
            refused += 1
            # Which known word is the nearest, each side has its own way to tell.
            assert said["error"].partition(";")[0] == why.partition(";")[0], line
        else:
            assert parse(said["spelt"]) == found or stages_of(said["spelt"]).stages == stages_of(line).stages, line
    assert refused > 60


def read(line: str) -> tuple[list[dict[str, Any]] | None, str]:
    """Return the stages of a line, or none and what Python says of it."""
    try:
        return parse(line), ""
    except UsageError as error:
        return None, str(error)


DOUBTED = {
    "magnitud -> lsq": "nearest: magnitude",
    "lsq(weight_bit=4)": "nearest: weight_bits",
    "qkd(phase=costudy)": "must be one of self-study, co-study, tutor, got costudy",
    "lsq(weight_bits=4.5)": "must be a whole number, got 4.5",
    "lsq(weight_bits=99)": "must be >= 2 and <= 8, got 99",
    "lsq{teacher=stage:x}": "no net 'stage:x' at this point; there are original, input",
    "lsq{name=a} -> magnitude{name=a}": "two stages have this name",
    "magnitude{student=original}": "student must be 'previous' or a model, got original",
    "obd{teacher=resnet21}": "nearest: resnet20",
    "obd{teacher=timm/resnet18}": "",
}
"""Lines with words that mean nothing, and what is said of them."""


def test_words_of_a_line_that_mean_nothing_are_told(page: Page) -> None:
    answers = ask(page, [(line, 0) for line in DOUBTED])
    for (line, part), said in zip(DOUBTED.items(), answers, strict=True):
        assert part in " | ".join(said["doubts"]), line
        assert bool(said["doubts"]) is bool(part), line


@pytest.mark.parametrize(
    ("line", "model", "task", "word"),
    [
        ("network-slimming", "mlp(hidden=[4])", "digits", "batch normalization layers"),
        ("ternarybert{teacher=original}", "mlp(hidden=[4])", "digits", "attention layers"),
        ("hinton-kd", "mlp(hidden=[4])", "xor", "a task with class scores"),
        ("magnitude -> kmeans-sharing -> lsq", "mlp(hidden=[4])", "digits", "weights that may take any value"),
    ],
)
def test_a_dry_run_refuses_in_the_same_words(
    page: Page, registry: Registry, tmp_path: Path, line: str, model: str, task: str, word: str
) -> None:
    stages = {"base": "none", "stages": parse(line), "train": {"epochs": 1}}
    with pytest.raises(NotApplicable, match=word) as refused:
        Run(
            parse_recipe({"model": {"key": "mlp", "hidden": [4]}, "task": task, **stages}), registry, out=tmp_path
        ).check()
    said = page.evaluate(
        "([line, model, task]) => Builder.legal(Builder.parse(line), Builder.start(model, task, RULES), RULES, task)",
        [line, model.partition("(")[0], task],
    )
    assert said["refused"]["text"] == str(refused.value)
