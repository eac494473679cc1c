"""Reading YAML as plain data. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from condensery.errors import UsageError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-4``, without a point, as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Read YAML as plain data; ``1e-4`` is a number.

    :raises yaml.YAMLError: if it is broken.
    """
    return yaml.load(text, Loader=_Loader)


def load_yaml(path: Path) -> Any:
    """Read one YAML file.

    :raises UsageError: if it is missing or broken, with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UsageError(f"no such file: {path}" + (f"; there are {', '.join(near[:5])}" if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from None
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UsageError(f"{path}:{line} not YAML: {getattr(error, 'problem', None) or error}") from None
