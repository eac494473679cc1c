"""The rules of the composition builder: what ``build.html`` knows of methods, models, tasks and stored results.

Its script answers as Python does, because it reads here what each method says of itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_type_hints

from condensery.contract import WORDS, Method, Registry, Words, build_method
from condensery.errors import CondenseryError
from condensery.nets import BATCH_NORMS, build_unfilled, is_attention
from condensery.recipe import ModelSpec, TaskSpec, flat, format_stages, parse_recipe
from condensery.tasks import Task, TaskFacts, build_task
from condensery_catalogue.matrix import KINDS, Kind, Matrix, stored_matrix
from condensery_catalogue.running import training_of
from condensery_catalogue.site.result_pages import page_name
from condensery_catalogue.wording import spread

LIMITS = ("type", "default", "choices", "gt", "ge", "lt", "le", "amount")
"""What the page has to know of a setting: what may be typed, and whether a target may set it."""
LETTERS: dict[str, str] = {"w": "works", "h": "worse", "r": "refused", "f": "fails", ".": "not run"}
"""What stands for the outcome of a cell of the matrix, since there are some ten thousand of them."""
MOST = 200
"""Choices of settings that are looked at for one method."""

Case = dict[str, Any]


def rules(registry: Registry, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return all that the page's script knows, as plain data.

    :param results: the stored ones.
    """
    tasks = {key: task for key in registry.keys("tasks") if (task := _task(key, registry)) is not None}
    # One task of each kind is enough to tell which models take that kind.
    facts = {task.facts.kind: task.facts for task in tasks.values()}
    return {
        "words": WORDS,
        "methods": {key: method_rules(key, registry) for key in registry.keys("methods")},
        "models": {key: model_rules(key, facts, registry) for key in registry.keys("models")},
        "tasks": {key: task_rules(task) for key, task in tasks.items()},
        "known": [arm for result in results for arm in known_arms(result)],
        "cells": cell_rules(stored_matrix(registry), registry.keys("methods")),
        "outcomes": LETTERS,
    }


BEFORE_RULES = "window.RULES = "
"""What stands before the JSON of the rules; a semicolon stands behind it."""


def as_files(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the rules as a script of JSON: a page that lies on a disk can read no other file."""
    text = json.dumps(found, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return {"data/rules.js": f"{BEFORE_RULES}{text};\n"}


# ---------------------------------------------------------------- methods


def method_rules(key: str, registry: Registry) -> dict[str, Any]:
    """Return a method's settings, the players that it acts on, and its words in each case.

    ``by`` holds the defaults of the settings that decide on the words, and ``cases`` the words by those settings.
    """
    card = registry.card(key) or {}
    settings = {
        name: {limit: setting[limit] for limit in LIMITS if setting.get(limit) is not None or limit == "default"}
        for name, setting in (card.get("hyperparameters") or {}).items()
    }
    try:
        cls = registry.load("methods", key)
        found = words_by_choice(key, cls, card)
    except CondenseryError as error:
        # It has no defaults, or needs a package that isn't here: nothing can be said of it.
        return {"settings": settings, "problem": str(error)}

    deciding = _deciding(found)
    cases = {tuple((name, choice[name]) for name in deciding): words for choice, words in found}
    said = [{"when": dict(when), **_listed(words)} for when, words in cases.items()]
    return {
        "settings": settings,
        "acts_on": list(cls.acts_on),
        "by": {name: found[0][0][name] for name in deciding},
        "cases": said,
        "roles": sorted({"teacher"} & {word for case in said for word in case["needs"]}),
    }


def words_by_choice(key: str, cls: type[Method], card: Mapping[str, Any]) -> list[tuple[Case, Words]]:
    """Return the words of a method for each choice of its settings that have few values, the defaults first.

    :raises CondenseryError: if it can't be built with its defaults.
    """
    default = build_method(key, cls, {}, card)
    choices = {} if cls.words is Method.words else _choices(cls, card)
    found = [({name: getattr(default, name) for name in choices}, default.words())]

    for values in itertools.islice(itertools.product(*choices.values()), MOST):
        choice = dict(zip(choices, values, strict=True))
        try:
            words = build_method(key, cls, choice, card).words()
        except CondenseryError:
            continue  # Settings that exclude each other.
        if choice != found[0][0]:
            found.append((choice, words))
    return found


def _choices(cls: type[Method], card: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of each setting that has few: switches, and those whose card lists them."""
    hints = get_type_hints(cls)
    found = {}
    for name, setting in (card.get("hyperparameters") or {}).items():
        values = [False, True] if hints[name] is bool else setting.get("choices")
        if values:
            found[name] = list(values)
    return found


def _deciding(found: Sequence[tuple[Case, Words]]) -> list[str]:
    """Return the settings on which the words depend: of two choices that differ in nothing else, they differ."""

    def decides(name: str) -> bool:
        """Tell whether a setting alone changes the words anywhere."""
        seen: dict[str, Words] = {}
        for choice, words in found:
            others = repr([value for other, value in choice.items() if other != name])
            if seen.setdefault(others, words) != words:
                return True
        return False

    return [name for name in found[0][0] if decides(name)]


def _listed(words: Words) -> dict[str, list[str]]:
    return {side: sorted(said) for side, said in words._asdict().items()}


# ---------------------------------------------------------------- models and tasks


def _task(key: str, registry: Registry) -> Task | None:
    """Return a task with its default settings, none where it can't be had."""
    try:
        return build_task(TaskSpec(key=key), registry)
    except CondenseryError:
        return None


def task_rules(task: Task) -> dict[str, Any]:
    """Return a task's usual net, how a stage trains on it by default, and the word that holds on it."""
    # As the task itself decides: a loss of its own has no class scores, unless the task says which they are.
    softened = type(task).rows is not Task.rows or type(task).loss is Task.loss
    words = ["classifier-logits"] if softened and task.facts.outputs > 1 else []
    made = {"model": task.default_model, "kind": task.facts.kind, "words": words}
    return {**made, "train": training_of(type(task), None)}


def model_rules(key: str, facts: Mapping[str, TaskFacts], registry: Registry) -> dict[str, Any]:
    """Return which kinds of tasks a model takes, and the words that hold for it; nothing of a whole family of models.

    :param facts: of one task of each kind.
    """
    found: dict[str, Any] = {"kinds": []}
    for kind in sorted(facts) if "*" not in key else ():
        try:
            net = build_unfilled(ModelSpec(key=key), facts[kind], registry)
        except CondenseryError:
            continue
        modules = list(net.modules())
        words = {"float-weights", "dense-shape"}
        words |= {"batch-norm"} if any(isinstance(m, BATCH_NORMS) and m.affine for m in modules) else set()
        words |= {"attention"} if any(is_attention(m) for m in modules) else set()
        found = {"kinds": [*found["kinds"], kind], "words": sorted(words)}
    return found


# ---------------------------------------------------------------- what was measured


def known_arms(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the arms of a stored result that methods act in: where they are shown, and what came out."""
    for arm, recipe in result["recipes"].items():
        stages = parse_recipe(recipe).stages
        methods = [[method.key for method in stage.methods] for stage in flat(stages) if stage.methods]
        if not methods:
            continue

        figures = result["arms"][arm]
        named = [f"{name} {spread(figure)}" for name, figure in itertools.islice(figures["quality"].items(), 1)]
        try:
            line = format_stages(stages)
        except CondenseryError:
            line = ""  # One line can't say it all; its page has the recipe.
        on = {"model": recipe["model"]["key"], "task": recipe["task"]["key"]}
        yield {"page": page_name(result), "arm": arm, "methods": methods, "line": line, "figures": named, **on}


def cell_rules(matrix: Matrix, keys: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Return what the cells of the matrix came to, by net and kind: a letter for each method, or a row for each first.

    :param keys: of the methods, in the order of rows and of letters.
    """
    letters = {outcome: letter for letter, outcome in LETTERS.items()}

    def row(net: str, kind: Kind, *first: str) -> str:
        return "".join(letters[matrix.cell(net, kind, *first, key).outcome] for key in keys)

    return {
        net: {
            kind: [row(net, kind)] if kind == "alone" else [row(net, kind, first) for first in keys]
            for kind in KINDS
            if matrix.some(net, kind)
        }
        for net in matrix.nets
    }
