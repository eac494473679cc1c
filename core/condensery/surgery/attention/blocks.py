"""Whole layers: which of them can go, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.draft import Draft
from condensery.surgery.attention.projections import class_of, join
from condensery.surgery.attention.rows import Block

CONTAINERS = (nn.ModuleList, nn.Sequential)
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LayerUnit:
    """One layer of a stack.

    :param container: path of the list that holds it.
    :param reason: why it can't be removed, or ``None``.
    """

    path: str
    container: str
    reason: str | None = None


def layers_of(net: nn.Module, classes: KnownClasses, run: Callable[[nn.Module], object]) -> list[LayerUnit]:
    """Return the known layers of a net, in its order; ``reason`` tells which can't be removed.

    :param run: runs the net once, to see what goes in and comes out of each layer.
    """
    stacks = _stacks(net, classes)
    shapes = _shapes(net, [path for paths in stacks.values() for path in paths], run)

    found = []
    for container, paths in stacks.items():
        most = Counter(class_of(net.get_submodule(p)) for p in paths).most_common(1)[0][0]
        masks = _masks(net, container)
        for path in paths:
            reason = None
            if class_of(net.get_submodule(path)) != most:
                reason = f"most layers of {container!r} are of another class"
            elif path not in shapes:
                reason = "the net runs without it"
            elif shapes[path][0] != shapes[path][1]:
                reason = f"it makes {shapes[path][1]} of {shapes[path][0]}"
            elif len(masks) > 1:
                reason = f"the net has a mask for each place in {container!r}: {' and '.join(masks)}"
            elif len(paths) == 1:
                reason = f"it is the only layer of {container!r}"
            found.append(LayerUnit(path, container, reason))
    return found


def _stacks(net: nn.Module, classes: KnownClasses) -> dict[str, list[str]]:
    """Return the paths of known layers by the path of the list that holds them."""
    found: dict[str, list[str]] = {}
    for path, module in net.named_modules():
        if isinstance(module, CONTAINERS):
            names = [n for n, m in module.named_children() if classes.row(m, Block) is not None]
            if names:
                found[path] = [join(path, n) for n in names]
    return found


def _masks(net: nn.Module, container: str) -> list[str]:
    """Return the kinds of attention that a net's config gives to its layers by their places, if it does."""
    config = getattr(net.get_submodule(container.rpartition(".")[0]), "config", None)
    return sorted(set(getattr(config, "layer_types", None) or ()))


def _shapes(net: nn.Module, paths: Iterable[str], run: Callable[[nn.Module], object]) -> dict[str, tuple[Shape, Shape]]:
    """Return the shapes of what comes in and goes out, by the path of each layer that is called."""
    seen: dict[str, tuple[Shape, Shape]] = {}
    handles = []
    for path in paths:

        def look(module: nn.Module, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            seen[path] = (tuple(stream(args, kwargs).shape), tuple(first(out).shape))

        handles.append(net.get_submodule(path).register_forward_hook(look, with_kwargs=True))

    try:
        with torch.no_grad():
            run(net)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def stream(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return what a layer is given to work on."""
    given = args[0] if args else kwargs["hidden_states"]
    assert isinstance(given, Tensor)
    return given


def first(out: Any) -> Tensor:
    """Return what a layer hands on, of all that it returns."""
    found = out[0] if isinstance(out, tuple) else out
    assert isinstance(found, Tensor)
    return found


def draft_layers(draft: Draft, removed: Iterable[str], units: Iterable[LayerUnit], classes: KnownClasses) -> int:
    """Draft the removal of layers; returns how many go.

    The ones that stay keep their names; a number that a layer has of its place is counted anew, because caches of keys
    and values go by it.

    :param removed: paths.
    :param units: of :func:`layers_of`.
    :raises UsageError: naming a layer that can't be removed and why.
    """
    known = {u.path: u for u in units}
    gone = set(removed)
    for path in sorted(gone):
        if path not in known:
            classes.required(draft.net, path, Block)
            raise UsageError(f"layer {path!r} can't be removed: it stands in no list of layers")
        if known[path].reason is not None:
            raise UsageError(f"layer {path!r} can't be removed: {known[path].reason}")

    for container in sorted({known[p].container for p in gone}):
        mine = [u.path for u in known.values() if u.container == container]
        left = [p for p in mine if p not in gone]
        if not left:
            raise UsageError(f"{container!r} would lose all of its {len(mine)} layers")

        names = [n for n, _ in draft.net.get_submodule(container).named_children()]
        draft.children(container, [n for n in names if join(container, n) not in gone])
        for place, path in enumerate(left):
            for name, module in draft.net.get_submodule(path).named_modules(prefix=path):
                if isinstance(getattr(module, "layer_idx", None), int):
                    draft.attribute(name, "layer_idx", place)
    return len(gone)
