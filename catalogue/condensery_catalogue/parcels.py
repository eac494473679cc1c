"""``results export`` and ``results import``: carry what a queue has finished from one machine to another.

An export is one zip file of the reports and results below a folder, with the SHA-256 of each. An import checks every
name before it reads a file, every hash, and the checksum that each file brings, before it writes anything, and
overwrites nothing.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path, PurePosixPath

from condensery.errors import ArtifactError, UsageError, in_line
from condensery.files import read_json, unsealed, write_atomic

LIST = "contents.json"
CARRIED = ("report.json", "result.json", "recipe.json", "estimates.json")
LARGEST = 32 * 2**20
"""Bytes of one carried file at most: reports are far smaller."""
ALL = 256 * 2**20
"""Bytes of all files of an export at most, as they are held to their hashes in memory."""
NAME = 255
"""Bytes of a file's name at most, as file systems have it."""


def export_results(folder: Path, target: Path) -> int:
    """Pack the reports and results below a folder; return how many files.

    :raises UsageError: if there are none, or one is damaged.
    """
    files = sorted(path for path in folder.rglob("*.json") if path.name in CARRIED)
    if not files:
        raise UsageError(f"{folder} holds no reports or results")

    for path in files:
        read_json(path, "remove it, or run it again")
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    listed = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(LIST, json.dumps(listed, indent=1))
            for name, data in contents.items():
                packed.writestr(name, data)

    write_atomic(target, write)
    return len(files)


def import_results(source: Path, folder: Path) -> tuple[int, int]:
    """Unpack an export; return how many files are new, and how many were there already, byte for byte.

    :raises ArtifactError: for a file that is damaged, or holds what no export does.
    :raises UsageError: naming a file that is there already with other content; nothing is written then.
    """
    contents = _checked(source)
    known = {name for name in contents if (folder / name).exists()}
    for name in sorted(known):
        if (folder / name).read_bytes() != contents[name]:
            raise UsageError(f"{folder / name} is there already and differs; import into another folder")

    for name in contents.keys() - known:
        write_atomic(folder / name, lambda temporary, data=contents[name]: temporary.write_bytes(data))  # type: ignore[misc]
    return len(contents) - len(known), len(known)


def _checked(source: Path) -> dict[str, bytes]:
    """Return the files of an export by name, each held to its hash."""
    try:
        with zipfile.ZipFile(source) as packed:
            listed = json.loads(_read(packed, LIST, source))
            names = set(packed.namelist()) - {LIST}
            if not isinstance(listed, dict) or names != set(listed):
                raise ArtifactError(f"{source}: damaged: its files are not those that it lists")
            _check_names(names, source)
            if sum(entry.file_size for entry in packed.infolist()) > ALL:
                raise ArtifactError(f"{source}: its files have more than {ALL} bytes")
            contents = {name: _read(packed, name, source) for name in sorted(names)}
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ArtifactError(f"{source}: not an export of results, or damaged ({in_line(error)})") from None

    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != listed[name]:
            raise ArtifactError(f"{source}: damaged: {name!r} has changed")
        try:
            unsealed(data)
        except ValueError as error:
            raise ArtifactError(f"{source}: damaged: {name!r}: {in_line(error)}") from None
    return contents


def _check_names(names: set[str], source: Path) -> None:
    """Refuse names that no export has: beyond its folder, too long, or of a file that is a folder of others too."""
    for name in names:
        path = PurePosixPath(name)
        beyond = path.is_absolute() or ".." in path.parts or "\\" in name or path.name not in CARRIED
        long = any(len(part.encode()) > NAME for part in path.parts)
        if beyond or long or any(str(parent) in names for parent in path.parents):
            raise ArtifactError(f"{source}: {name!r} is no file of an export")


def _read(packed: zipfile.ZipFile, name: str, source: Path) -> bytes:
    """Return one file, up to :data:`LARGEST`: a small zip may claim to hold any size."""
    with packed.open(name) as handle:
        data = handle.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ArtifactError(f"{source}: {name!r} is larger than {LARGEST} bytes")
    return data


def print_export(folder: Path, target: Path) -> None:
    """Export, and say how much."""
    print(f"{export_results(folder, target)} files in {target}")


def print_import(source: Path, folder: Path) -> None:
    """Import, and say how much was new."""
    new, known = import_results(source, folder)
    print(f"{new} files are new in {folder}, {known} were there already")
