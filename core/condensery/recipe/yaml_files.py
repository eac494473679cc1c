"""Reading YAML as plain data. Imports no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from condensery.errors import UsageError

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML was built without libyaml; its own parser takes nine times as long.
    from yaml import SafeLoader  # type: ignore[assignment]


class _Loader(SafeLoader):
    """YAML 1.1 reads ``1e-4``, without a point, as a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Read YAML as plain data, such as JSON can hold; ``1e-4`` is a number.

    :raises UsageError: in one line, with the number of the line where it is broken.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        # YAML knows dates, sets and circles, which no recipe, card or artifact can hold.
        json.dumps(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"{line}not plain YAML: {reason}") from None
    return value


def load_yaml(path: Path) -> Any:
    """Read one YAML file.

    :raises UsageError: naming the file, if it is missing or broken.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UsageError(f"no such file: {path}" + (f"; there are {', '.join(near[:5])}" if near else "")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
