"""``models``, ``tasks``, ``data`` and ``cache``: what there is to run on, what it needs, and what is kept."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import CondenseryError, UnknownKey, UsageError
from condensery.files import cache_dir
from condensery_catalogue.app import waited_for
from condensery_catalogue.inputs import published, recipes_weights
from condensery_catalogue.listing import console, open_registry, table

KINDS = {
    "nets": "nets that were trained before a recipe's first stage",
    "answers": "what teachers answered to examples",
    "quality": "quality that was measured on test data",
    "decoded": "data sets, unpacked",
    "cards": "cards that were read and found valid",
    "data": "data sets' own files, put there by a user",
}
"""What the cache folder's folders hold."""


def say(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], last: str, *, as_json: bool) -> None:
    """Print rows as a table or as JSON.

    :param columns: heading by the name of what stands in it.
    :param last: what is said below.
    """
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    from rich.text import Text

    said = table(*columns.values())
    for row in rows:
        values = [row[name] for name in columns]
        said.add_row(*[Text(", ".join(map(str, v)) if isinstance(v, list) else str(v)) for v in values])
    console().print(said)
    console().print(last, markup=False, highlight=False)


def first_line(thing: Any) -> str:
    """Return the first line of what a class or a function says of itself, less what it refers to in the code."""
    return re.sub(r"; see :class:.*", ".", inspect.cleandoc(thing.__doc__ or "").partition("\n")[0])


def loaded(registry: Registry, kind: str) -> dict[str, Any]:
    """Return all that is offered of one kind, without what can't be imported, which is said on stderr."""
    found, wrong = {}, []
    with waited_for(f"loading {kind}"):
        for key in registry.keys(kind):
            try:
                found[key] = registry.load(kind, key)
            except CondenseryError as error:
                wrong.append(error)
    for fault in wrong:
        print(f"warning: {fault}", file=sys.stderr)
    return found


def list_models(*, as_json: bool) -> None:
    """Print the models, what they are and their settings."""
    rows = []
    for key, build in loaded(open_registry(), "models").items():
        settings = [
            name for name, p in inspect.signature(build).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        rows.append({"key": key, "what": first_line(build), "settings": settings})
    last = "condensery measure MODEL tells its size, condensery fit MODEL which methods it can take."
    say(rows, {"key": "model", "what": "what it is", "settings": "settings"}, last, as_json=as_json)


def list_tasks(*, as_json: bool) -> None:
    """Print the tasks, their main figure, the net that is tried on them, and what data they need."""
    rows = []
    for key, cls in loaded(open_registry(), "tasks").items():
        data = "none" if cls.data_set is None else cls.data_set.name
        figures = [metric.name for metric in cls.metrics]
        row = {"key": key, "what": first_line(cls), "metrics": figures, "model": cls.default_model, "data": data}
        rows.append({**row, "figure": figures[0]})
    columns = {"key": "task", "figure": "figure", "model": "model", "data": "data", "what": "what it is"}
    last = "figure: the main one. data: what is needed beside the package; condensery data tells whether it is there."
    say(rows, columns, last, as_json=as_json)


def list_data(*, as_json: bool) -> None:
    """Print which data tasks and recipes need, where they were looked for, whether they are there, and who has them."""
    rows, registry = [], open_registry()
    for key, cls in loaded(registry, "tasks").items():
        data = cls.data_set
        if data is None:
            continue
        folder = data.find()
        places = [{"folder": str(place), "absent": data.absent(place)} for place in data.folders()]
        kept = _decoded(key, data.name)
        row = {"task": key, "data": data.name, "files": dict(data.files), "source": data.source}
        row["hub"] = data.hub and dataclasses.asdict(data.hub)
        rows.append({**row, "there": folder and str(folder), "looked": places, "decoded": kept})
    for row in rows:
        row["state"] = "here" if row["there"] else "kept" if row["decoded"] else "absent"
        row["where"] = "\n".join(_places(row))
    rows += [trained(source, keys) for source, keys in recipes_weights(registry).items()]

    last = (
        "here: a folder has all files. kept: the unpacked copy in the cache is enough. absent: put the files into one "
        "of the folders, or pip install 'condensery[hub]', which fetches the hub's copy when a task first needs it. "
        "$CONDENSERY_DATA is looked in first. Tasks that aren't named need no data. The files of weights are trained "
        "nets that recipes start from."
    )
    say(rows, {"task": "task or weights", "state": "state", "where": "where"}, last, as_json=as_json)


def trained(source: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return what is said of a file of trained weights.

    :param source: as recipes write it.
    :param keys: of the reproductions that start from it.
    """
    from condensery.storage import weights_file

    folder, _, name = source.rpartition("/")
    origin = published(source).origin
    row = {"task": name.partition(".")[0], "weights": source, "origin": origin, "needed_by": list(keys)}
    try:
        where = str(weights_file(source))
        return {**row, "state": "here", "there": where, "where": where}
    except UsageError:
        few = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if keys[3:] else "")
        lines = [f"no {name} in {folder}", origin, f"for the reproductions of {few}"]
        return {**row, "state": "absent", "there": None, "where": "\n".join(filter(None, lines))}


def _decoded(task: str, data: str) -> list[str]:
    """Return the cache's folders of a task's unpacked data; they are named after the task, the data, or both."""
    name = re.compile(rf"({re.escape(task)}|({re.escape(data)}-)?{re.escape(task)}-.*)")
    folder = cache_dir() / "decoded"
    return sorted(str(p) for p in (folder.iterdir() if folder.is_dir() else ()) if name.fullmatch(p.name))


def _places(row: Mapping[str, Any]) -> list[str]:
    """Return what is said of one task's data, line by line."""
    if row["there"]:
        return [row["there"]]
    lines = [f"files: {', '.join(row['files'])}"]
    for place in row["looked"]:
        lacks = "no file of them" if len(place["absent"]) == len(row["files"]) else f"without {place['absent'][0]}"
        lines.append(f"looked in {place['folder']}: {lacks}")
    lines += [f"unpacked before: {folder}" for folder in row["decoded"]]
    if row["hub"]:
        lines.append(f"from: Hugging Face Hub, {row['hub']['name']}, revision {row['hub']['revision'][:12]}, pinned")
    if row["source"]:
        lines.append(f"files from: {row['source']}")
    return lines


# ------------------------------------------------------------------ the cache


def kept() -> list[dict[str, Any]]:
    """Return what the cache holds, kind by kind: files, bytes, and days since the oldest and the newest was written."""
    rows, now = [], time.time()
    for kind, what in KINDS.items():
        found = [path.stat() for path in (cache_dir() / kind).rglob("*") if path.is_file()]
        ages = [(now - stat.st_mtime) / 86400 for stat in found]
        row = {"kind": kind, "what": what, "files": len(found), "bytes": sum(stat.st_size for stat in found)}
        rows.append({**row, "newest_days": min(ages, default=None), "oldest_days": max(ages, default=None)})
    return rows


def list_cache(*, as_json: bool) -> None:
    """Print what is kept, how much it is and how old."""
    rows = kept()
    for row in () if as_json else rows:
        row["size"] = f"{row['bytes'] / 1e6:,.1f}"
        new, old = row["newest_days"], row["oldest_days"]
        row["age"] = "-" if old is None else f"{new:.0f} to {old:.0f}" if round(new) < round(old) else f"{old:.0f}"
    columns = {"kind": "kind", "files": "files", "size": "MB", "age": "days old", "what": "what it is"}
    last = f"in {cache_dir()} ($CONDENSERY_CACHE says where). condensery cache clear KIND removes a kind."
    say(rows, columns, last, as_json=as_json)


def clear_cache(kinds: Sequence[str], *, sure: bool) -> None:
    """Remove some kinds of what is kept, once it was said how much that is.

    :param sure: don't ask.
    :raises UnknownKey: for a kind that there isn't.
    :raises UsageError: if none is named, or there is nobody to ask.
    """
    if not kinds:
        raise UsageError(f"say what to remove: condensery cache clear {' '.join(k for k in KINDS if k != 'data')}")
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownKey("kind", kind, KINDS, where="cache clear")

    rows = [row for row in kept() if row["kind"] in kinds and row["files"]]
    for row in rows:
        print(f"{row['kind']}: {row['files']} files, {row['bytes'] / 1e6:,.1f} MB, {row['what']}")
    if not rows:
        print("nothing to remove")
        return
    if not sure:
        if not sys.stdin.isatty():
            raise UsageError("nothing was removed; say --yes to remove it without being asked")
        if input("remove it? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return
    for row in rows:
        _remove(cache_dir() / row["kind"])
    print("removed")


def _remove(folder: Path) -> None:
    """Remove a folder; one that is a link stays, and what it leads to."""
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link; remove what it leads to yourself")
    shutil.rmtree(folder)
