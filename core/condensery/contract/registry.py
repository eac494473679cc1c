"""What the installed plugins offer, found through the entry point group ``condensery``. Imports no torch."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pluggy

from condensery.contract.hookspecs import API, OFFERING_HOOKS, PROJECT, OfferingSpecs, check_marked
from condensery.contract.named import load_named, named_plugins
from condensery.contract.papers import ValidCard
from condensery.errors import CRASH, CondenseryError, PluginError, UnknownKey, UsageError, in_line

KINDS = tuple(name.removeprefix("register_") for name in OFFERING_HOOKS)
SINGULAR = {"searches": "search"}
KEYED = ("methods", "tasks", "layers", "codecs", "searches")
"""Kinds whose classes say their own key."""
CORE_CODECS = {"dense": "Dense", "bitpack": "BitPack"}
"""What the other codecs end in unless told otherwise."""
LONGEST = 240
"""Characters of a problem, which with the plugin's name and source is still one line of a terminal or a log."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One offered thing: its target (``"module:Name"``, a class, or a card's data) and the plugin that offers it."""

    key: str
    target: Any
    plugin: str


@dataclasses.dataclass(frozen=True)
class Plugin:
    """One installed plugin: name, the distribution it came with, and what is wrong with it, if anything."""

    name: str
    source: str
    problems: tuple[str, ...] = ()


class Registry:
    """All offers of all plugins. An object that is passed around, never a global.

    A broken plugin doesn't stop the others: its problems are kept in :attr:`plugins` and in :attr:`problems`.
    """

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.entries["codecs"] = {k: Entry(k, f"condensery.nets:{name}", "core") for k, name in CORE_CODECS.items()}
        self._plugins: dict[str, Plugin] = {}

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, extra: Iterable[tuple[str, object]] = (), *, entry_points: bool = True) -> Registry:
        """Open the registry of this environment.

        :param extra: ``(name, plugin)`` pairs to add after the installed ones.
        :param entry_points: whether to take what is installed, and what ``$CONDENSERY_PLUGINS`` names.
        """
        registry = cls()
        found = importlib.metadata.entry_points(group=PROJECT) if entry_points else ()

        # The built-in plugin comes first, so that a stranger who offers one of its keys is the one that is refused.
        for point in sorted(found, key=lambda point: (point.name != "builtin", point.name)):
            source = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
            try:
                plugin = point.load()
            except CRASH as error:  # A plugin's import may fail in any way; it is reported, not hidden.
                registry._note(point.name, source, f"can't be imported: {type(error).__name__}: {error}")
            else:
                registry.add(point.name, plugin, source)

        installed = {point.module for point in found}
        for word in named_plugins() if entry_points else ():
            try:
                named = load_named(word)
            except CondenseryError as error:
                registry._note(word, "named", str(error))
            else:
                if named.name not in installed:
                    registry.add(named.name, named.plugin, named.source)

        for name, plugin in extra:
            registry.add(name, plugin, "given")
        return registry

    def extended(self, name: str, plugin: object) -> Registry:
        """Return a registry with one more plugin; this one stays as it is."""
        other = Registry()
        other.entries = {kind: dict(entries) for kind, entries in self.entries.items()}
        other._plugins = dict(self._plugins)
        other.add(name, plugin, "given")
        return other

    def add(self, name: str, plugin: object, source: str) -> None:
        """Take one plugin's offers; what is wrong with it is noted and the rest still counts."""
        if name in self._plugins:
            self._note(f"{name} ({source})", source, f"a plugin named {name!r} is already there")
            return

        self._plugins[name] = Plugin(name, source)
        try:
            hooks = _hooks_of(name, plugin)
        except (PluginError, pluggy.PluginValidationError) as error:
            self._note(name, source, str(error))
            return

        for kind in KINDS:
            try:
                getattr(hooks, f"register_{kind}")(register=self._register(kind, name, source))
            except ExceptionGroup as errors:
                for one in errors.exceptions:
                    self._note(name, source, str(one))
            except CRASH as error:  # Whatever a stranger's hook raises is reported with the plugin's name.
                self._note(name, source, f"register_{kind} failed: {type(error).__name__}: {error}")

    def _register(self, kind: str, plugin: str, source: str) -> Callable[[str, Any], None]:
        """Return the callback with which a plugin offers its things of one kind."""
        taken = self.entries[kind]

        def register(key: str, target: Any) -> None:
            what = f"{_singular(kind)} {key!r}"

            try:
                if key in taken:
                    raise PluginError(f"{what} is already offered by {taken[key].plugin!r}; kept that one")
                if kind == "papers":
                    target = valid_card(key, target)
                elif kind == "weighted":
                    check_axes(what, target)
                elif not (callable(target) or (isinstance(target, str) and ":" in target)):
                    raise PluginError(f"{what}: target must be 'module:Name' or a class, got {target!r}")
            except (PluginError, UsageError) as error:
                self._note(plugin, source, str(error))
            else:
                taken[key] = Entry(key, target, plugin)

        return register

    def _note(self, name: str, source: str, problem: str) -> None:
        """Keep one problem of a plugin, as one line; of a long one the beginning and the end, which say most."""
        line = " ".join(problem.split())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2 - 5]} ... {line[-LONGEST // 2 :]}"
        old = self._plugins.get(name, Plugin(name, source))
        self._plugins[name] = dataclasses.replace(old, problems=(*old.problems, line))

    # ---------------------------------------------------------------- looking up

    @property
    def plugins(self) -> list[Plugin]:
        """All plugins that were found, broken ones included."""
        return list(self._plugins.values())

    @property
    def problems(self) -> list[str]:
        """One line per problem, naming the plugin."""
        return [f"plugin {p.name!r} ({p.source}): {problem}" for p in self.plugins for problem in p.problems]

    def keys(self, kind: str) -> list[str]:
        """Return all keys of one kind, sorted."""
        return sorted(self.entries[kind])

    def find(self, kind: str, key: str) -> Entry:
        """Return one entry; ``timm/resnet18`` finds the family ``timm/*``.

        :raises UnknownKey: naming the nearest known key.
        :raises UsageError: for what is a composition of methods, saying how it is spelt.
        """
        entries = self.entries[kind]
        family, slash, _ = key.partition("/")
        found = entries.get(key) or entries.get(f"{family}{slash}*")
        if found is None:
            spelt = (self.card(key) or {}).get("composition") if kind == "methods" else None
            if spelt:
                raise UsageError(f"{key!r} is made of several methods; it is spelt: {spelt}")
            raise UnknownKey(_singular(kind), key, entries)
        return found

    def load(self, kind: str, key: str) -> Any:
        """Import and return what an entry points at.

        :raises UnknownKey: naming the nearest known key.
        :raises PluginError: naming the plugin, if the target can't be imported or says another key.
        """
        entry = self.find(kind, key)
        what = f"plugin {entry.plugin!r}: {_singular(kind)} {key!r}"
        loaded = entry.target if callable(entry.target) else _imported(entry.target, what)

        mine = getattr(loaded, "key", None)
        if kind in KEYED and mine != entry.key:
            says = f"says that its key is {mine!r}" if mine else "says no key"
            name = getattr(loaded, "__name__", loaded)
            raise PluginError(f"{what}: {name} {says}; write key = {entry.key!r} in the class")
        return loaded

    def card(self, key: str) -> Mapping[str, Any] | None:
        """Return the card of a paper or method as plain data, or ``None`` if it has none."""
        entry = self.entries["papers"].get(key)
        return None if entry is None else entry.target


def valid_card(key: str, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a card as it will be shown, validated unless it was before.

    :raises UsageError: naming the card and the field that is wrong.
    """
    if isinstance(card, ValidCard):
        return card

    # Here, because it loads pydantic: a list of installed papers comes from the cache and needs none.
    from condensery.contract.cards import card_data, checked_card

    found = checked_card(card, f"card {key!r}")
    if found.key != key:
        raise UsageError(f"card {key!r}: its own key is {found.key!r}")
    return ValidCard(card_data(found))


def check_axes(what: str, target: Any) -> None:
    """Refuse what doesn't say which tensors of a class are weights.

    :raises PluginError: beginning with ``what``, and showing how it is said.
    """
    rows = target if isinstance(target, Mapping) else {}
    if not rows or any(not isinstance(name, str) or axes not in ((0, 1), (1, 0)) for name, axes in rows.items()):
        raise PluginError(f"{what}: say each weight's axes of outputs and inputs, {{'weight': (0, 1)}}, not {target!r}")


def _hooks_of(name: str, plugin: object) -> pluggy.HookRelay:
    """Return the offering hooks, which call this plugin alone.

    :raises PluginError: for a plugin whose hooks would not be called, or were written for another version.
    :raises pluggy.PluginValidationError: for a hook that isn't there, or that takes other arguments.
    """
    check_api(name, plugin)
    check_marked(name, plugin, OFFERING_HOOKS)

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(OfferingSpecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    if not manager.get_hookcallers(plugin):
        raise PluginError(f"{name}: it implements no hook, so it offers nothing")
    return manager.hook


def check_api(name: str, plugin: object) -> None:
    """Refuse a plugin that was written for other hooks than these, or doesn't say for which.

    :raises PluginError: saying what to write, or which versions differ.
    """
    stated = getattr(plugin, "condensery_api", None)
    if stated is None:
        raise PluginError(f"{name}: it doesn't state the hooks it was written for; write condensery_api = {API} in it")
    if stated != API:
        raise PluginError(f"{name}: written for version {stated!r} of the hooks; this condensery has version {API}")


def _imported(target: str, what: str) -> Any:
    """Return what ``module:Name`` names.

    :raises PluginError: beginning with ``what``, if it can't be imported.
    """
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except CRASH as error:  # whatever a plugin's own file does wrong is said of the plugin
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise PluginError(f"{what} can't be loaded from {target}: {kind}{in_line(error)}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """Return where in a plugin's file an error arose, if it isn't in the error itself."""
    if isinstance(error, SyntaxError | ImportError | AttributeError):
        return ""
    last = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"][-1:]
    return "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)


def _singular(kind: str) -> str:
    return SINGULAR.get(kind, kind.removesuffix("s"))
