"""Files of ours: the cache folder, writing each file whole or not at all, and one guarded reader. Imports no torch.

What is read may have been damaged, or made by a stranger: nothing here imports or runs what a file names, and nothing
grows past :func:`size_limit`.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import math
import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

from condensery.errors import ArtifactError, FileError, UsageError, short

LIMIT = "CONDENSERY_MAX_MB"
"""Environment variable: how many million bytes the tensors of a net from a file may have."""
SEAL = "checksum"
"""Key of a JSON object of ours under which the checksum of the rest stands."""
ABANDONED = 3600.0
"""Seconds after which a temporary file has been left by a process that was killed."""


def cache_dir() -> Path:
    """Return the folder for decoded data and trained nets: ``$CONDENSERY_CACHE``, or the user's cache folder."""
    given = os.environ.get("CONDENSERY_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "condensery"


def named_path(path: object, what: str) -> Path:
    """Return a path that a user gave.

    :param what: it is to name.
    :raises UsageError: for an empty name, as of a variable that isn't set, and for what is no name.
    """
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise UsageError(f"give the name of {what}, not {short(path)}")
    return Path(path)


# ---------------------------------------------------------------- limits


def size_limit() -> int:
    """Return how many bytes a net or a data file from a stranger may fill: ``$CONDENSERY_MAX_MB`` million, or 1024.

    :raises UsageError: if the variable is no positive number.
    """
    given = os.environ.get(LIMIT, "1024")
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not (limit > 0 and math.isfinite(limit)):
        raise UsageError(f"{LIMIT} must be a positive number of megabytes, got {given[:40]!r}")
    return int(limit * 1_000_000)


def text_limit() -> int:
    """Return how many characters a recipe, a card or a manifest may have: 4 million, more where nets may be larger."""
    return max(size_limit() // 256, 1_000_000)


def inflate(content: bytes, most: int) -> bytes:
    """Return what zlib or gzip packed, which may be made of several members.

    :param most: bytes that it may have; more are never made.
    :raises ValueError: if there are more, or it is damaged.
    """
    found = b""
    while True:
        # 32 more than the largest window: zlib finds out by itself which of the two headers it is.
        member = zlib.decompressobj(wbits=47)
        try:
            found += member.decompress(content, most - len(found) + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if len(found) > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes; set {LIMIT} higher if you trust it")
        if not member.eof:
            raise ValueError("it ends too early")
        content = member.unused_data.lstrip(b"\0")
        if not content:
            return found


# ---------------------------------------------------------------- packages


def package_folder(package: str) -> Path | None:
    """Return the folder of an installed package, or ``None``; nothing is imported.

    Importing runs a package, ``find_spec`` and ``importlib.resources`` import it or its parents, and any package that
    lies in the current folder would count. So only what is loaded already, or is part of a distribution, is found.
    """
    top, *below = package.split(".")
    loaded = list(getattr(sys.modules.get(top), "__path__", ()))
    if loaded:
        root = Path(loaded[0])
    else:
        distributions = importlib.metadata.packages_distributions().get(top)
        if not distributions:
            return None
        root = Path(str(importlib.metadata.distribution(distributions[0]).locate_file(top)))
    folder = root.joinpath(*below)
    return folder if folder.is_dir() else None


# ---------------------------------------------------------------- writing


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it; on an error nothing is left behind.

    What killed processes left of the same file is swept.

    :raises FileError: if the disk is full, or the folder can't be written; names the path and how to go on.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, path.name, older=ABANDONED)
        temporary.touch(exist_ok=False)  # the mode of any new file; tempfile's is for the owner alone
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # safetensors puts a new file there, which only its owner may read
        os.replace(temporary, path)
    except OSError as error:
        _drop(temporary)
        raise unwritable(path, error) from None
    except BaseException:
        _drop(temporary)
        raise


def unwritable(path: Path, error: OSError) -> FileError:
    """Return the one line that says which file can't be written, why, and how to go on."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        how = "make room on the disk"
    elif path.is_relative_to(cache_dir()):
        how = "set CONDENSERY_CACHE to another folder"
    else:
        how = "give another folder"
    reason = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return FileError(f"{path} can't be written ({reason[:120]}); {how} and run it again")


def sweep(folder: Path, name: str = "*", *, older: float = 0.0) -> None:
    """Remove temporary files that :func:`write_atomic` left when its process was killed.

    :param name: of the files that they were to become.
    :param older: seconds since they were written to last: younger ones may be another process's.
    """
    for path in folder.glob(f".{name}.{'[0-9a-f]' * 12}*"):
        try:
            if time.time() - path.stat().st_mtime >= older:
                path.unlink()
        except OSError:
            continue  # another process was faster, or the file isn't ours to remove


def _drop(path: Path) -> None:
    """Remove a file where that is possible: an error on the way to it was reported already."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def write_json(path: Path, data: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Write one JSON file, see :func:`json_text`; returns what it holds.

    :raises UsageError: for a number that JSON can't hold: a result is never infinite or not a number.
    """
    try:
        text = json_text(data, default)
    except ValueError as error:
        raise UsageError(f"{path}: not written: {error}") from None
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return text


def json_text(data: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return the text of a JSON file of ours; an object gets a checksum of what it holds.

    :param default: turns what JSON doesn't know into what it does.
    :raises ValueError: for a number that is infinite or none.
    """
    plain = json.loads(json.dumps(data, allow_nan=False, default=default))
    if isinstance(plain, dict):
        plain[SEAL] = seal(plain)
    return json.dumps(plain, indent=1) + "\n"


def append_lines(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Add JSON objects to a file, one a line, each with a checksum; they are on the disk when this returns.

    :raises FileError: if they can't be written.
    """
    plain = [json.loads(json.dumps(entry, allow_nan=False)) for entry in entries]
    text = "".join(json.dumps({**entry, SEAL: seal(entry)}, separators=(",", ":")) + "\n" for entry in plain)
    try:
        with path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error) from None


# ---------------------------------------------------------------- reading


def read_lines(path: Path, how: str) -> list[Any]:
    """Read what :func:`append_lines` wrote; a last line that a kill cut off is dropped, in the file too.

    :param how: to go on where it is damaged.
    :raises ArtifactError: one line that names the file and the line.
    """
    if not path.is_file():
        return []
    entries: list[Any] = []
    try:
        if path.stat().st_size > size_limit():
            raise ValueError(f"larger than {size_limit():,} bytes")
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            entries.append(unsealed(line, sealed=True))
        if whole < len(content):
            os.truncate(path, whole)
    except (OSError, ValueError) as error:
        raise damaged(Path(f"{path} line {len(entries) + 1}"), error, how) from None
    return entries


def read_json(path: Path, how: str, *, sealed: bool = False) -> Any:
    """Read a JSON file of ours.

    :param how: to go on where it is damaged: ``"remove it to ..."``.
    :param sealed: refuse one without a checksum; otherwise one that has none is only parsed.
    :raises ArtifactError: one line that names the file, and says how to go on.
    """
    try:
        return unsealed(path.read_bytes(), sealed=sealed)
    except (OSError, ValueError) as error:
        raise damaged(path, error, how) from None


def unsealed(content: bytes, *, sealed: bool = False) -> Any:
    """Return what a JSON text of ours holds, without its checksum.

    :raises ValueError: if it is damaged, or without a checksum where it must have one.
    """
    data = parse_json(content)
    kept = data.pop(SEAL, None) if isinstance(data, dict) else None
    if (sealed or kept is not None) and kept != seal(data):
        raise ValueError("it has no checksum" if kept is None else "its checksum doesn't fit")
    return data


def cached_json(path: Path) -> Any | None:
    """Return what a JSON file of the cache holds, or ``None`` where it is missing; a damaged one is dropped."""
    if not path.is_file():
        return None
    try:
        return read_json(path, "it is made again", sealed=True)
    except ArtifactError:
        _drop(path)
        return None


def parse_json(content: bytes | str) -> Any:
    """Read JSON strictly.

    :raises ValueError: also for ``NaN`` and ``Infinity``, and for what is nested without end.
    """
    try:
        return json.loads(content, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def seal(data: Any) -> str:
    """Return a checksum of plain data, whatever order their keys are written in."""
    return sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def damaged(path: Path, error: Exception, how: str) -> ArtifactError:
    """Return the one line that says which file is damaged, what was found, and how to go on."""
    reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return ArtifactError(f"{path}: damaged or can't be read ({reason[:120]}); {how}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
