"""Seeded damage: to bytes, to text, and to plain data."""

from __future__ import annotations

import copy
import random
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, -0.0, 10**9, 10**30, 1e308, "", "x", "x" * 500, "../../x", "evil:x.safetensors",
    "hub", "hf/./evil", "__class__", "\x00", "\n", "é" * 40, [], {}, [[]], [None], {"": None}, {"key": "bert"},
    [0] * 300, {"$tuple": []}, "=round*9**9**9", "stage:a@epoch=99", [1e9, -1e9], [[[[[[[[[[[[1]]]]]]]]]]]],
]  # fmt: skip
"""Values that something may stumble over."""
PIECES = [
    *"(){}[]+*=,:|#@%/ \n\t\x00é",
    "->", "&a ", "*a", "<<: ", "- ", "? ", "!!", "'", '"', "9" * 40, "1e999", ".nan", "..",
]  # fmt: skip
"""Bits of syntax."""


def bytes_of(rng: random.Random, content: bytes) -> bytes:
    """Return damaged bytes: some flipped, cut, repeated, put in or zeroed."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        place, length = rng.randrange(len(found) + 1), rng.choice([1, 1, 4, 8, 64])
        how = rng.randrange(6)
        if how == 0 and found:
            found[min(place, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del found[place : place + length]
        elif how == 2:
            found[place:place] = rng.randbytes(length)
        elif how == 3:
            found[place : place + length] = bytes(len(found[place : place + length]))
        elif how == 4:
            found[place:place] = found[place : place + length]
        else:
            found[place : place + length] = b"\xff" * len(found[place : place + length])
    return bytes(found[: rng.randrange(len(found) + 1)] if rng.random() < 0.1 else found)


def text_of(rng: random.Random, text: str) -> str:
    """Return a damaged text."""
    for _ in range(rng.choice([1, 1, 2, 4, 10])):
        place, length = rng.randrange(len(text) + 1), rng.choice([1, 1, 3, 10, 40])
        how = rng.randrange(5)
        if how == 0:
            text = text[:place] + text[place + length :]
        elif how == 1:
            text = text[:place] + rng.choice(PIECES) * rng.choice([1, 1, 1, 3, 200]) + text[place:]
        elif how == 2:
            text = text[:place] + text[place : place + length] * 2 + text[place + length :]
        elif how == 3:
            other = rng.randrange(len(text) + 1)
            text = text[:place] + text[other : other + length] + text[place:]
        else:
            text = text[:place] + str(rng.choice(ODD))[:600] + text[place + length :]
    return text


def tree_of(rng: random.Random, data: Any) -> Any:
    """Return damaged plain data: values replaced, left out, moved, renamed."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        node, key = _place(rng, data)
        if node is None:
            continue
        how = rng.randrange(6)
        if how == 0:
            del node[key]
        elif how == 1 and isinstance(node, dict):
            node[str(rng.choice(ODD))[:600]] = node.pop(key)
        elif how == 2:
            other, name = _place(rng, data)
            node[key] = copy.deepcopy(other[name])
        elif how == 3 and isinstance(node[key], (int, float)):
            node[key] = rng.choice([-1, 0, 1, 2, 7, 10**5, 10**9, 2**62, 10**30, 0.5, 1e300]) * (node[key] or 1)
        else:
            node[key] = copy.deepcopy(rng.choice(ODD))
    return data


def like_of(rng: random.Random, data: Any) -> Any:
    """Return plain data in which values are others of the same kind: a schema lets them through, what follows may not.

    Numbers change a little or a lot, words and parts become those that stand under the same key elsewhere, shapes are
    turned, and entries change names.
    """
    data = copy.deepcopy(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        node, key = _place(rng, data)
        if node is None:
            continue
        value, alike = node[key], _alike(data, node, key)
        if isinstance(value, bool):
            node[key] = not value
        elif isinstance(value, int):
            node[key] = rng.choice([value + 1, max(value - 1, 0), 0, 2 * value, value // 2, 2**20, 2**31, *alike[:5]])
        elif isinstance(value, float):
            node[key] = value * rng.choice([0.0, 0.5, 2.0, -1.0, 1e6, 1e-30])
        elif isinstance(value, list) and rng.random() < 0.7:
            node[key] = rng.choice(
                [value[::-1], value[:-1], value[1:], value + value[:1], rng.sample(value, len(value))]
            )
        elif isinstance(node, dict) and rng.random() < 0.2:
            node[rng.choice([*node, key + "0", key.rpartition(".")[0]])] = node.pop(key)
        elif alike:
            node[key] = copy.deepcopy(rng.choice(alike))
    return data


def _alike(data: Any, node: Any, key: Any) -> list[Any]:
    """Return the values of the same type that stand under the same key elsewhere, or beside it."""
    everywhere = [other[key] for other in _nodes(data) if isinstance(other, dict) and key in other]
    beside = list(node.values() if isinstance(node, dict) else node)
    return [value for value in everywhere + beside if type(value) is type(node[key]) and value is not node[key]]


def _place(rng: random.Random, data: Any) -> tuple[Any, Any]:
    """Return a random entry of nested data, as what holds it and its key."""
    places = [(node, key) for node in _nodes(data) for key in (node if isinstance(node, dict) else range(len(node)))]
    return rng.choice(places) if places else (None, None)


def _nodes(data: Any) -> list[Any]:
    """Return all lists and mappings inside some data."""
    found, todo = [], [data]
    while todo:
        node = todo.pop()
        if isinstance(node, (dict, list)):
            found.append(node)
            todo += node.values() if isinstance(node, dict) else node
    return found
