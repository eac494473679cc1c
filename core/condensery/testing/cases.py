"""Which method the suite tries on which network, and with which recipe: read from cards and classes."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.contract import Contract, Network, Registry, Words, build_method
from condensery.errors import PluginError, UnknownKey
from condensery.recipe import Recipe, parse_recipe

NETWORKS: dict[Network, dict[str, Any]] = {
    "CNN": {"model": {"key": "resnet8", "width": 0.5}, "task": "digits"},
    "ViT": {"model": {"key": "vit", "dim": 24, "depth": 2, "patch_size": 4}, "task": "digits"},
    "Transformer": {"model": {"key": "transformer", "hidden": 24, "depth": 2}, "task": "word-language"},
}
"""A small net and its task for each kind of network, in the words of a card's ``network``."""
STAGE = "m"
"""Name of the stage that holds the method which is tried."""


def small_recipe(network: Network, stages: Sequence[Any], net: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe on a small untrained net: two steps an epoch, with momentum, so that an optimizer has a state.

    :param stages: plain data, as in a recipe's file.
    :param net: model and task in place of those of the network.
    """
    data = {"base": "none", "data": {"subset": {"size": 32}}, "stages": list(stages)}
    train = {"batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
    return parse_recipe({**(net or NETWORKS[network]), **data, "train": train})


@dataclasses.dataclass(frozen=True)
class Case:
    """One method on one kind of network.

    :param card: the method's; empty where it has none, so that it must refuse every network.
    """

    key: str
    network: Network
    card: Mapping[str, Any]

    @property
    def contract(self) -> Contract:
        """What the card says of the method for this suite alone."""
        return Contract(**self.card.get("contract", {}))

    @property
    def applies(self) -> bool:
        """Whether the method must run here; else it must raise ``NotApplicable``."""
        return self.network in self.card.get("network", ()) and self.network not in self.contract.refuses

    def words(self, registry: Registry) -> Words:
        """Return what the method needs, leaves and removes with its default settings."""
        return build_method(self.key, registry.load("methods", self.key), {}, self.card).words()

    def refuses_itself(self, registry: Registry) -> bool:
        """Tell whether the method takes away what it needs, so that a second copy of it can't act in one stage."""
        words = self.words(registry)
        return bool(words.needs & words.removes)

    def recipe(self, registry: Registry, *beside: str) -> Recipe:
        """Return a recipe with two epochs of the method.

        :param beside: methods that act in the same stage.
        """
        return small_recipe(self.network, self.stages(registry, *beside), self.contract.nets.get(self.network))

    def stages(self, registry: Registry, *beside: str, name: str = STAGE, epochs: int = 2) -> list[dict[str, Any]]:
        """Return the method's stage, as its card says for this suite, behind those that must come first.

        :param beside: methods that act in the same stage.
        :param name: of the stage.
        """
        contract = self.contract
        roles = {"teacher": "original"} if "teacher" in self.words(registry).needs else {}
        methods = [{self.key: contract.settings}, *beside]
        return [*contract.before, {"name": name, "methods": methods, "epochs": epochs, **roles, **contract.stage}]


def chosen_methods(registry: Registry, plugins: Sequence[str] = (), keys: Sequence[str] = ()) -> list[str]:
    """Return the keys of the methods to try: those of some plugins and some by key, or all that are installed.

    :raises UnknownKey: for a plugin or a method that isn't installed.
    :raises PluginError: for a plugin with a problem, which may be why one of its methods is missing.
    """
    methods = registry.entries["methods"]
    installed = {plugin.name: plugin for plugin in registry.plugins}

    for name in plugins:
        if name not in installed:
            raise UnknownKey("plugin", name, installed)
        if installed[name].problems:
            raise PluginError(f"plugin {name!r}: {'; '.join(installed[name].problems)}")
    for key in keys:
        registry.find("methods", key)

    everything = not (plugins or keys)
    return [key for key in sorted(methods) if everything or key in keys or methods[key].plugin in plugins]


def one_each(cases: Sequence[Case]) -> list[Case]:
    """Return one case of each method, on a network that its key decides: together the methods are on all of them."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.key, []).append(case)
    return [some[zlib.crc32(key.encode()) % len(some)] for key, some in found.items()]


def cases_of(registry: Registry, keys: Sequence[str]) -> list[Case]:
    """Return a case for each of some methods on each kind of network."""
    cases = []
    for key in keys:
        card = registry.card(key) or {}
        networks = dict.fromkeys([*NETWORKS, *Case(key, "CNN", card).contract.nets])
        cases += [Case(key, network, card) for network in networks]
    return cases
