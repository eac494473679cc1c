"""One pluggy manager per stage, which refuses any method that would silently do nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from condensery.contract.hookspecs import FIRST_RESULT_HOOKS, PER_PLAYER_HOOKS, PROJECT, STAGE_HOOKS, StageSpecs
from condensery.contract.methods import Method
from condensery.errors import CondenseryError, MethodError, PluginError, nearest

DEFAULTS = "core"


class StageManager:
    """The methods of one running stage, in recipe order.

    pluggy calls the last registered first, so the methods are registered in reverse.

    :param stage: name of the stage, for messages.
    :param methods: ``(name, method)`` pairs in recipe order; a second copy of a key is named ``key#2``.
    :param defaults: core's own implementations, asked last.
    """

    def __init__(self, stage: str, methods: Sequence[tuple[str, Method]], defaults: object | None = None) -> None:
        self.stage = stage
        self.methods: dict[str, Method] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(StageSpecs)
        if defaults is not None:
            self._manager.register(defaults, name=DEFAULTS)
        for name, method in reversed(methods):
            self.add_method(name, method)
        self.methods = {name: self.methods[name] for name, _ in methods}
        self._calls = {name: _Caller(self, name, method) for name, method in self.methods.items()}
        self._refuse_rivals()

    def add_method(self, name: str, method: object) -> None:
        """Register one method.

        :raises PluginError: for a class instead of an instance, a misspelt or unmarked hook, a default argument on a
            hook, a method without hooks, or one that is compared by value.
        """
        if inspect.isclass(method):
            raise PluginError(f"{name}: register an instance, not the class {method.__name__}")
        if not isinstance(method, Method):
            raise PluginError(f"{name}: {type(method).__name__} must extend condensery.Method")
        cls = type(method)
        if cls.__eq__ is not object.__eq__:
            raise PluginError(f"{name}: {cls.__name__} is compared by value; write @dataclass(eq=False, kw_only=True)")
        marked = []
        for attribute, function in inspect.getmembers(cls, callable):
            is_hook = hasattr(function, f"{PROJECT}_impl")
            if is_hook and attribute not in STAGE_HOOKS:
                near = nearest(attribute, STAGE_HOOKS)
                raise PluginError(
                    f"{name}: no hook is called {attribute!r}" + (f"; did you mean {near!r}?" if near else "")
                )
            if attribute in STAGE_HOOKS and not is_hook:
                raise PluginError(f"{name}: {attribute} lacks @hookimpl and would never run")
            if is_hook:
                marked.append(attribute)
                for parameter in inspect.signature(function).parameters.values():
                    if parameter.default is not inspect.Parameter.empty:
                        raise PluginError(
                            f"{name}: {attribute} has a default for {parameter.name!r}, which hides the call's value"
                        )
        if not marked:
            raise PluginError(f"{name}: {cls.__name__} implements no hook, so it would do nothing")
        if name in self.methods:
            raise PluginError(f"stage {self.stage!r}: two methods are named {name!r}")
        try:
            self._manager.register(method, name=name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{name}: {' '.join(str(error).split())}") from error
        self.methods[name] = method

    def _refuse_rivals(self) -> None:
        for hook in FIRST_RESULT_HOOKS:
            who = [n for n in self.order(hook) if n != DEFAULTS]
            if len(who) > 1:
                raise PluginError(f"stage {self.stage!r}: {' and '.join(who)} both implement {hook}; only one may")

    def order(self, hook: str) -> list[str]:
        """Return the names of those who implement a hook, in call order."""
        impls = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return [impl.plugin_name for impl in impls]

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook on all methods in recipe order; returns a list, or the first result.

        :raises MethodError: naming stage and hook, if an implementation raises something unexpected.
        """
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        except (CondenseryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise self._named(hook, error) from error

    def each(self, hook: str, player: str | None = None) -> list[tuple[str, Callable[..., Any]]]:
        """Return ``(method name, bound call)`` of those who implement a hook, in recipe order.

        pluggy's result lists don't say who answered, so core asks one by one where the name matters.

        :param player: only methods that act on this player.
        """
        found = []
        for name, caller in self._calls.items():
            if player is not None and hook in PER_PLAYER_HOOKS and not acts_on(self.methods[name], player):
                continue
            if hook in caller.hooks:
                found.append((name, caller.hooks[hook]))
        return found

    def _named(self, hook: str, error: Exception) -> MethodError:
        culprit, trace = "", error.__traceback__
        while trace is not None:
            owner = trace.tb_frame.f_locals.get("self")
            for name, method in self.methods.items():
                if owner is method:
                    culprit = name
            trace = trace.tb_next
        return MethodError(f"stage {self.stage!r}, {culprit or 'core'}, {hook}: {type(error).__name__}: {error}")


class _Caller:
    """One method's own hooks, each wrapped so that an error names stage and method."""

    def __init__(self, manager: StageManager, name: str, method: Method) -> None:
        self.hooks: dict[str, Callable[..., Any]] = {}
        others = [m for n, m in manager.methods.items() if n != name]
        raw = manager._manager
        skipped = [*others, *[p for n, p in raw.list_name_plugin() if n == DEFAULTS]]
        for hook in STAGE_HOOKS:
            if name in manager.order(hook):
                self.hooks[hook] = _wrap(manager, name, hook, raw.subset_hook_caller(hook, skipped))


def _wrap(manager: StageManager, name: str, hook: str, caller: Any) -> Callable[..., Any]:
    first = hook in FIRST_RESULT_HOOKS

    def call(**arguments: Any) -> Any:
        try:
            result = caller(**arguments)
        except (CondenseryError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise MethodError(f"stage {manager.stage!r}, {name}, {hook}: {type(error).__name__}: {error}") from error
        if first:
            return result
        return result[0] if result else None

    return call


def acts_on(method: Method, player: str) -> bool:
    """Tell whether a method's per-player hooks are called for a player."""
    return "all" in method.acts_on or player in method.acts_on
