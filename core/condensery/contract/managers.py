"""One pluggy manager per stage, which refuses any method that would silently do nothing."""

from __future__ import annotations

import inspect
import itertools
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from condensery.contract.hookspecs import (
    FIRST_RESULT_HOOKS,
    MARK,
    PER_PLAYER_HOOKS,
    PROJECT,
    STAGE_HOOKS,
    StageSpecs,
    check_marked,
)
from condensery.contract.methods import Method
from condensery.errors import CRASH, CondenseryError, MethodError, Misuse, PluginError, UnknownKey

DEFAULTS = "core"


class StageManager:
    """The methods of one running stage, in recipe order.

    pluggy calls the last registered first, so the methods are registered in reverse. ``acting`` names the method whose
    hook runs.

    :param stage: name of the stage, for messages.
    :param methods: ``(name, method)`` pairs in recipe order; a second copy of a key is named ``key#2``.
    :param defaults: core's own implementations, asked last.
    :raises PluginError: for a method that would do nothing, see :meth:`add_method`, and for two methods that both
        implement a hook of which only the first result counts.
    """

    def __init__(self, stage: str, methods: Sequence[tuple[str, Method]], defaults: object | None = None) -> None:
        self.stage, self.acting = stage, DEFAULTS
        self.methods: dict[str, Method] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(StageSpecs)

        if defaults is not None:
            self._manager.register(defaults, name=DEFAULTS)
        for name, method in reversed(methods):
            self.add_method(name, method)

        self.methods = {name: self.methods[name] for name, _ in methods}
        self._calls = {name: self._calls_of(name) for name, _ in self._manager.list_name_plugin()}
        self._refuse_rivals()

    def add_method(self, name: str, method: object) -> None:
        """Register one method.

        :raises PluginError: for a class instead of an instance, a misspelt or unmarked hook, a default argument on a
            hook, a method without hooks, or one that is compared by value.
        """
        check_marked(name, method, STAGE_HOOKS)
        if not isinstance(method, Method):
            raise PluginError(f"{name}: {type(method).__name__} must extend condensery.Method")

        cls = type(method)
        if cls.__eq__ is not object.__eq__:
            raise PluginError(f"{name}: {cls.__name__} is compared by value; write @dataclass(eq=False, kw_only=True)")

        marked = [attribute for attribute, function in inspect.getmembers(cls, callable) if hasattr(function, MARK)]
        for attribute in marked:
            if attribute not in STAGE_HOOKS:
                raise PluginError(str(UnknownKey("hook", attribute, STAGE_HOOKS, where=name)))
        if not marked:
            raise PluginError(f"{name}: {cls.__name__} implements no hook, so it would do nothing")

        if name in self.methods:
            raise PluginError(f"stage {self.stage!r}: two methods are named {name!r}")
        try:
            self._manager.register(method, name=name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:  # An argument that the hook doesn't have.
            raise PluginError(f"{name}: {' '.join(str(error).split())}") from error
        self.methods[name] = method

    def _refuse_rivals(self) -> None:
        for hook in FIRST_RESULT_HOOKS:
            for (one, _), (two, _) in itertools.combinations(self.each(hook), 2):
                # Where each player is asked for, two methods may answer for different ones.
                if hook not in PER_PLAYER_HOOKS or _meet(self.methods[one], self.methods[two]):
                    raise PluginError(f"stage {self.stage!r}: {one} and {two} both implement {hook}; only one may")

    def order(self, hook: str) -> list[str]:
        """Return the names of those who implement a hook, in call order."""
        return [found.plugin_name for found in reversed(getattr(self._manager.hook, hook).get_hookimpls())]

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook on all methods in recipe order.

        :raises MethodError: naming stage, method and hook, if an implementation raises something unexpected.
        """
        for _, call in self.each(hook):
            call(**arguments)

    def each(self, hook: str, player: str | None = None) -> list[tuple[str, Callable[..., Any]]]:
        """Return ``(method name, bound call)`` of those who implement a hook, in recipe order.

        pluggy's result lists don't say who answered, so core asks one by one where the name matters.

        :param player: only methods that act on this player.
        """
        return [
            (name, self._calls[name][hook])
            for name, method in self.methods.items()
            if hook in self._calls[name] and (player is None or hook not in PER_PLAYER_HOOKS or acts_on(method, player))
        ]

    def chosen(self, hook: str, player: str | None = None) -> tuple[str, Callable[..., Any]]:
        """Return who answers a hook of which the first result counts, with the call: a method, or else core.

        :param player: only a method that acts on this player.
        """
        found = self.each(hook, player)
        return found[0] if found else (DEFAULTS, self.default(hook))

    def default(self, hook: str) -> Callable[..., Any]:
        """Return core's own answer to a hook, which also stands in for a method that answers ``None``."""
        return self._calls[DEFAULTS][hook]

    def _calls_of(self, name: str) -> dict[str, Callable[..., Any]]:
        """Return one method's own hooks, each wrapped so that an error names stage and method."""
        others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name]
        return {
            hook: self._named_call(name, hook, self._manager.subset_hook_caller(hook, others))
            for hook in STAGE_HOOKS
            if name in self.order(hook)
        }

    def _named_call(self, name: str, hook: str, caller: Callable[..., Any]) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            before, self.acting = self.acting, name
            try:
                result = caller(**arguments)
            except CondenseryError:
                raise
            except CRASH as error:
                raise self.error(name, hook, error) from error
            finally:
                self.acting = before

            # Where results are collected, pluggy returns a list: of one here, or none for an answer of None.
            if hook in FIRST_RESULT_HOOKS:
                return result
            return result[0] if result else None

        return call

    def error(self, name: str, hook: str, error: BaseException) -> MethodError:
        """Return what to raise for an error in a method's hook: it says which, and the line that it came from."""
        said = str(error) if isinstance(error, Misuse) else f"{type(error).__name__}: {error}"
        return MethodError(f"stage {self.stage!r}, {name}, {hook}: {said}{self.line(name, hook, error)}")

    def line(self, name: str, hook: str, error: BaseException | None = None) -> str:
        """Return, for the end of a message, a line of a method's own package: of its hook, or where an error arose.

        :param error: went through the hook; the innermost line counts.
        """
        if name not in self.methods:
            return ""
        kind = type(self.methods[name])
        code = getattr(kind, hook).__code__
        place = f"{code.co_filename}:{code.co_firstlineno}"
        for frame, number in traceback.walk_tb(None if error is None else error.__traceback__):
            if _package(frame.f_globals.get("__name__", "")) == _package(kind.__module__):
                place = f"{frame.f_code.co_filename}:{number}"
        return f" ({place})"


def _package(module: str) -> str:
    """Return the package that a module belongs to, the outermost one."""
    return module.partition(".")[0]


def acts_on(method: Method, player: str) -> bool:
    """Tell whether a method's per-player hooks are called for a player."""
    return "all" in method.acts_on or player in method.acts_on


def _meet(one: Method, two: Method) -> bool:
    """Tell whether there may be a player that both methods act on."""
    return "all" in (*one.acts_on, *two.acts_on) or bool({*one.acts_on} & {*two.acts_on})
