"""The generated index of all cards: read without YAML, pydantic or torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
INDEX = FOLDER / "index.json"


@cache
def load_index() -> dict[str, dict[str, Any]]:
    """Return every card by key, as plain data."""
    return json.loads(INDEX.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
