"""Nets from specs: builder, width, depth, initial weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.nets.cloning import clone, lent, note_owners
from condensery.nets.roles import resolve
from condensery.nets.unfilled import Unfilled
from condensery.recipe import ModelSpec, derive_seed
from condensery.tasks import TaskFacts


def build_net(spec: ModelSpec, facts: TaskFacts, registry: Registry, seed: int) -> nn.Module:
    """Build a net with random weights, or its builder's published ones; a file of weights isn't read here.

    The initial weights depend on the seed and the spec alone.

    :raises UsageError: for an unknown model, a setting it doesn't have, or weights that don't fit.
    """
    net = clone(_built(spec, facts, registry, seed))
    note_owners(net)
    return net


def build_unfilled(spec: ModelSpec, facts: TaskFacts, registry: Registry) -> nn.Module:
    """Build a net that is only looked at, or whose every parameter and saved buffer is written over.

    Its tables that no state holds are as they should be. A builder that reads the weights it draws makes its net as
    ever, and so does one that draws anything else.

    :raises UsageError: as :func:`build_net` does.
    """
    with Unfilled() as unfilled:
        net = _built(spec, facts, registry, 0)
    if not unfilled.whole:
        return build_net(spec, facts, registry, 0)
    net = lent(net)
    note_owners(net)
    return net


def _built(spec: ModelSpec, facts: TaskFacts, registry: Registry, seed: int) -> nn.Module:
    """Return what a spec's builder makes."""
    builder = registry.load("models", spec.key)
    family, _, rest = spec.key.partition("/")
    name = rest if f"{family}/*" in registry.entries["models"] and rest else spec.key

    config = spec.config
    if spec.width is not None:
        config["width"] = spec.width
    if spec.layers is not None:
        config["depth"] = len(spec.layers)
    if spec.weights == "hub":
        config["pretrained"] = True

    # Forked, so that building a net leaves no trace in the run's own draws.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("init", seed, spec.seed, spec.key))
        try:
            model = builder(facts, name, **config)
        except TypeError as error:
            raise UsageError(f"model {spec.key!r}: {error}") from None
    assert isinstance(model, nn.Module)
    return model


def copy_from(model: nn.Module, source: nn.Module, layers: list[int] | None) -> None:
    """Start a net from another one's weights, keeping some of its layers.

    :param layers: numbers of the source's stages that become the net's, in order; all where ``None``.
    :raises UsageError: naming the first tensor that doesn't fit.
    """
    have: dict[str, Tensor] = source.state_dict()
    renamed: dict[str, str] = {}
    if layers is not None:
        theirs, mine = resolve(source, "stages"), resolve(model, "stages")
        if len(mine) != len(layers) or max(layers) >= len(theirs):
            raise UsageError(f"layers {layers}: the source has {len(theirs)} layers, the net {len(mine)}")
        renamed = {m: theirs[i] for m, i in zip(mine, layers, strict=True)}

    values = model.state_dict()
    for name in values:
        origin = next((s + name[len(m) :] for m, s in renamed.items() if name.startswith(f"{m}.")), name)
        if origin not in have or have[origin].shape != values[name].shape:
            raise UsageError(f"init_from: tensor {name!r} doesn't fit the source's {origin!r}")
        values[name] = have[origin]
    model.load_state_dict(values)
