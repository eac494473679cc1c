"""Which layers a user means: the one spelling that every setting which chooses layers is read by.

A name is

- a layer's path, ``layer1.0.conv1``, or the path of a module above it, ``layer1``: all layers in it;
- a pattern of paths, ``*.conv2``, as in a shell; ``*`` alone is every layer;
- a word: ``first`` and ``last`` (called in a forward pass), ``shortcuts`` (projections in residual connections).

Where several names of one setting fit a layer, the most exact one counts: its own path, then ``first`` and ``last``,
then the nearest module above it, then ``shortcuts`` and patterns, the longest first, and ``*`` at last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from condensery.errors import UnknownKey

FIRST, LAST, SHORTCUTS, ALL = "first", "last", "shortcuts", "*"
WORDS = (FIRST, LAST, SHORTCUTS, ALL)
SHORTCUT_PARTS = ("downsample", "shortcut")
"""Parts of a path that mark the projection of a residual connection."""


def choose_layers(
    names: Iterable[str], paths: Sequence[str], edges: Callable[[], tuple[str, str]], setting: str
) -> dict[str, str]:
    """Return the layers that some names mean: by path, the name that counts for it, in the order of ``paths``.

    :param paths: of the layers there are.
    :param edges: returns the paths of the first and the last layer; called only where a name asks for one of them.
    :param setting: names the setting in errors, ``"ssl.factors"``.
    :raises UnknownKey: for a name that no layer has, with the nearest one.
    """
    chosen: dict[str, tuple[tuple[int, int], str]] = {}
    for name in names:
        fits = _fitting(name, paths, edges)
        if not fits and name not in WORDS:
            raise UnknownKey("layer", name, [*paths, *_above(paths), *WORDS], where=setting)
        for path, rank in fits.items():
            if path not in chosen or chosen[path][0] < rank:
                chosen[path] = (rank, name)
    return {path: chosen[path][1] for path in paths if path in chosen}


def _fitting(name: str, paths: Sequence[str], edges: Callable[[], tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return the layers that one name means, each with how exactly it does."""
    size = len(name)
    if name == ALL:
        return dict.fromkeys(paths, (0, 0))
    if name in (FIRST, LAST) and name not in paths:
        edge = edges()[name == LAST]
        return {edge: (3, 0)} if edge in paths else {}
    if name == SHORTCUTS:
        return {p: (1, 0) for p in paths if set(p.split(".")) & set(SHORTCUT_PARTS)}
    if "*" in name or "?" in name:
        return {p: (1, size) for p in paths if fnmatchcase(p, name)}
    return {p: (4, 0) if p == name else (2, size) for p in paths if p == name or p.startswith(f"{name}.")}


def _above(paths: Iterable[str]) -> set[str]:
    """Return the paths of the modules above some layers."""
    return {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 1)}
