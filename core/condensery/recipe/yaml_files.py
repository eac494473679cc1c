"""Reading YAML as plain data, which a stranger may have written: aliases, merges and sizes are bounded. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from condensery.errors import UsageError
from condensery.files import text_limit

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml; its own parser takes nine times as long.
    from yaml import SafeLoader  # type: ignore[assignment]


MOST = 100_000
"""Entries of a document, those that an alias stands for counted each time."""
WIDE = 100
"""Characters of a number: YAML 1.1 has ways to write one that take forever to work out, ``1:1:1:1``."""


class _Loader(SafeLoader):
    """YAML 1.1 reads ``1e-4``, without a point, as a text; its merges are bounded, and so is what a number may be."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Bound ``<<``: each level of merges may copy the one below it many times."""
        super().flatten_mapping(node)
        if len(node.value) > MOST:
            raise yaml.YAMLError(f"its merges make more than {MOST:,} entries")

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Refuse a number that takes longer to work out than any that is meant."""
        if node.tag.endswith((":int", ":float")) and len(node.value) > WIDE:
            raise yaml.YAMLError(f"a number of {len(node.value)} characters")
        return super().construct_scalar(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Read YAML as plain data, such as JSON can hold; ``1e-4`` is a number.

    :raises UsageError: in one line, with the number of the line where it is broken.
    """
    if len(text) > text_limit():
        raise UsageError(f"not plain YAML: {len(text):,} characters, more than {text_limit():,}")
    try:
        value = yaml.load(text, Loader=_Loader)
        _count(value, {})
        # YAML knows dates, sets and infinity, which no recipe, card or artifact can hold.
        json.dumps(value, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"{line}not plain YAML: {reason[:160]}") from None
    return value


def line_of(text: str, place: Iterable[int | str]) -> int:
    """Return the number of the line where a place of a YAML text stands, or what is around it.

    :param text: that :func:`parse_yaml` could read.
    :param place: keys and numbers of entries, from the outside in; a part that isn't there is passed over.
    """
    node = yaml.compose(text, Loader=_Loader)
    line = 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
        else:
            found = [(entry, entry) for number, entry in enumerate(getattr(node, "value", ())) if number == part]
        if found:
            (key, node), *_ = found
            line = key.start_mark.line
    return line + 1


def _count(value: Any, known: dict[int, int]) -> int:
    """Return how many entries a value has once aliases are written out, without writing them out.

    :param known: of lists and mappings by identity, 0 for those that are being counted.
    :raises ValueError: if there are more than :data:`MOST`, or a value holds itself.
    """
    if not isinstance(value, (list, dict)):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(one, known) for one in inner)
    if not 0 < known[id(value)] <= MOST:
        what = f"it stands for more than {MOST:,} entries" if known[id(value)] else "a value holds itself"
        raise ValueError(what)
    return known[id(value)]


def load_yaml(path: Path) -> Any:
    """Read one YAML file, see :func:`load_text`."""
    return load_text(path)[0]


def load_text(path: Path) -> tuple[Any, str]:
    """Read one YAML file, and return its text too, in which :func:`line_of` finds the places that are wrong.

    :raises UsageError: naming the file, if it is missing or broken.
    """
    try:
        if path.stat().st_size > 4 * text_limit():
            raise UsageError(f"{path.stat().st_size:,} bytes, more than {4 * text_limit():,}")
        text = path.read_text(encoding="utf-8")
        return parse_yaml(text), text
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UsageError(f"no such file: {path}" + (f"; there are {', '.join(near[:5])}" if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
