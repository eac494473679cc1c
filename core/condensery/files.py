"""Where files of ours go: the cache folder, and writing each file whole or not at all. Imports no torch."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for decoded data and trained nets: ``$CONDENSERY_CACHE``, or the user's cache folder."""
    given = os.environ.get("CONDENSERY_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condensery"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; on an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")
    temporary.touch(exist_ok=False)  # the mode of any new file; tempfile's is for the owner alone
    mode = temporary.stat().st_mode
    try:
        write(temporary)
        temporary.chmod(mode)  # safetensors puts a new file there, which only its owner may read
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
