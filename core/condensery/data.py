"""Where a data set comes from: one order of places, one error that names them all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from condensery.errors import UsageError


def cache_dir() -> Path:
    """Return the folder for decoded data and trained nets: ``$CONDENSERY_CACHE``, or the user's cache folder."""
    given = os.environ.get("CONDENSERY_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condensery"


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; on an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def find_data(name: str, files: Sequence[str], hub: str | None = None) -> Path | None:
    """Return the local folder that holds all of ``files`` of a data set, or ``None``.

    Looks in ``$CONDENSERY_DATA/<name>``, then in ``<cache>/data/<name>``.

    :param hub: the Hugging Face data set that a loader falls back to; only named in errors.
    """
    for root in _roots():
        folder = root / name
        if all((folder / f).is_file() for f in files):
            return folder
    return None


def _roots() -> list[Path]:
    given = os.environ.get("CONDENSERY_DATA")
    return ([Path(given)] if given else []) + [cache_dir() / "data"]


def missing_data(name: str, files: Sequence[str], hub: str | None, reason: str = "") -> UsageError:
    """Return the one error that names every place a data set was looked for."""
    places = [f"$CONDENSERY_DATA/{name}" if os.environ.get("CONDENSERY_DATA") else "$CONDENSERY_DATA (not set)"]
    places.append(str(cache_dir() / "data" / name))
    places.append(f"Hugging Face Hub {hub!r}" + (f" ({reason})" if reason else "") if hub else "(no hub copy)")
    wanted = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return UsageError(f"data set {name!r} not found ({wanted}); looked in: " + "; ".join(places))


def check_sha256(path: Path, expected: Mapping[str, str]) -> None:
    """Compare a file with its pinned digest.

    :raises UsageError: naming the file if its content is not what was pinned.
    """
    want = expected.get(path.name)
    if want is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != want:
        raise UsageError(
            f"{path}: damaged or another version (sha256 {digest.hexdigest()[:12]}..., expected {want[:12]}...)"
        )
