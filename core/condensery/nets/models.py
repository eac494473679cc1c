"""Nets from specs: builder, width, depth, initial weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import PluginError, UsageError
from condensery.nets.cloning import clone, lent, note_owners
from condensery.nets.codecs import DTYPES
from condensery.nets.roles import resolve
from condensery.nets.transforms import Transform
from condensery.nets.unfilled import Unfilled
from condensery.recipe import ModelSpec, derive_seed
from condensery.tasks import TaskFacts, map_tensors

TENSORS = 8_000
"""That a net may be made of; each takes a while, however small it is, and the largest of timm has 3,000."""


def build_net(spec: ModelSpec, facts: TaskFacts, registry: Registry, seed: int) -> nn.Module:
    """Build a net with random weights, or its builder's published ones; a file of weights isn't read here.

    The initial weights depend on the seed and the spec alone.

    :raises UsageError: for an unknown model, a setting it doesn't have, or weights that don't fit.
    """
    net = clone(_typed(_built(spec, facts, registry, seed), spec))
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
    net = lent(_typed(net, spec))
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
    # A builder may list what each layer gets before it makes the first one.
    if isinstance(depth := config.get("depth"), int) and depth > TENSORS:
        raise UsageError(
            f"model {spec.key!r}: depth {depth:,} is more than the {TENSORS:,} tensors that a net may have"
        )
    if spec.weights == "hub":
        config["pretrained"] = True

    # Forked, so that building a net leaves no trace in the run's own draws.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("init", seed, spec.seed, spec.key))
        try:
            model = builder(facts, name, **config)
        except TypeError as error:
            raise UsageError(f"model {spec.key!r}: {error}") from None
        except SystemExit as error:
            raise PluginError(f"model {spec.key!r}: its builder ends the process, SystemExit: {error}") from error
    assert isinstance(model, nn.Module)
    return model


def _typed(net: nn.Module, spec: ModelSpec) -> nn.Module:
    """Put a net into the type that its spec says, and let it take inputs of other types."""
    if spec.dtype is not None:
        net.to(DTYPES[spec.dtype])
    if _dtype(net) is torch.float64:
        net.register_forward_pre_hook(_fit, with_kwargs=True)
    return net


def _fit(net: nn.Module, args: Any, kwargs: Any) -> Any:
    """Give a net's inputs its own type: tasks make float32, and a proof may run a copy in another type."""
    wanted = _dtype(net)
    return map_tensors(lambda value: value.to(wanted) if value.is_floating_point() else value, (args, kwargs))


def _dtype(net: nn.Module) -> torch.dtype | None:
    """Return the type of a net's own floats, whatever that of its transforms; ``None`` for a net without any."""
    own = (p for m in net.modules() if not isinstance(m, Transform) for p in m._parameters.values() if p is not None)
    return next((p.dtype for p in own if p.is_floating_point()), None)


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
