"""What differs between a net and a freshly built one: what a checkpoint or an artifact notes to build it again.

One generic comparison finds everything that surgery, bias folding and registered layers have changed: modules of
another class, children that are gone, plain attributes, shapes. Tensors are stored apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize

from condensery.contract import Registry
from condensery.errors import ArtifactError, PluginError, in_line, short
from condensery.nets import SITE_PREFIX, Layer, latent_of, plain_name, replace
from condensery.storage.manifest import LARGEST, numbers_in

IDENTITY = "identity"
_TUPLE = "$tuple"
PORTABLE = "portable_spec"
"""Attribute of a net whose spec names a folder or the hub: fields of a spec that doesn't, for artifacts."""
_OWN = frozenset({*vars(nn.Module()), PORTABLE})
"""What every module has, or core reads itself."""


@dataclasses.dataclass
class Structure:
    """The differences, as JSON data.

    :param layers: by path, ``{"key": ..., "config": {...}}`` of a registered layer in a plain module's place.
    :param children: by path, the names of the children that are left, where some are gone.
    :param attributes: by path, plain attributes that differ.
    :param shapes: by tensor, its shape where it differs, or ``None`` for one that is gone.
    """

    layers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    children: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    shapes: dict[str, list[int] | None] = dataclasses.field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Return plain data without empty fields."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}


def structure_of(model: nn.Module, fresh: nn.Module, registry: Registry) -> Structure:
    """Return how a net differs from a freshly built one; transforms on it don't count.

    :raises PluginError: for a module that is neither what the builder made nor a registered layer, for parameters that
        are shared in another way, and for an attribute that JSON can't hold.
    """
    found = Structure()
    _compare("", model, fresh, registry, found)
    mine, theirs = _ties(model), _ties(fresh)
    left = [g for g in ([n for n in group if _has(model, n)] for group in theirs) if len(g) > 1]
    if not found.layers and mine != left:
        raise PluginError(f"parameters are shared in another way than the builder does: {mine} and not {left}")
    return found


def _compare(path: str, mine: nn.Module, fresh: nn.Module, registry: Registry, found: Structure) -> None:
    """Note how one module differs from the builder's, then look at its children."""
    cls = _class_of(mine)
    if cls is not _class_of(fresh) or (isinstance(mine, Layer) and mine.config() != fresh.config()):  # type: ignore[operator]
        found.layers[path] = _layer(path, mine, registry)
        return

    # Transforms are told of apart: their containers don't count as children.
    ours = {n: m for n, m in mine._modules.items() if not n.startswith(SITE_PREFIX) and n != "parametrizations"}
    extra = sorted(set(ours) - set(fresh._modules))
    if extra:
        raise PluginError(f"module {_join(path, extra[0])!r} isn't one that the builder makes")
    if len(ours) < len(fresh._modules):
        found.children[path] = list(ours)

    changed = _attributes(path, mine, fresh)
    if changed:
        found.attributes[path] = changed
    for name, shape in _shapes(mine, fresh):
        found.shapes[_join(path, name)] = shape

    for name, child in ours.items():
        other = fresh._modules[name]
        if child is not None and other is not None:
            _compare(_join(path, name), child, other, registry, found)
        elif child is not other:
            raise PluginError(f"module {_join(path, name)!r} isn't one that the builder makes")


def _class_of(module: nn.Module) -> type[nn.Module]:
    """Return a module's class; of one that torch.fx traced the class that it has in common with its copies."""
    cls: type[nn.Module] = parametrize.type_before_parametrizations(module)
    return GraphModule if issubclass(cls, GraphModule) else cls


def _layer(path: str, module: nn.Module, registry: Registry) -> dict[str, Any]:
    """Return the key and config of what stands in a plain module's place."""
    if type(module) is nn.Identity:
        return {"key": IDENTITY}
    key = getattr(type(module), "key", "")
    if not isinstance(module, Layer) or key not in registry.entries["layers"]:
        raise PluginError(f"module {path!r} is a {type(module).__name__}, which isn't in register_layers")
    return {"key": key, "config": module.config()}


def _attributes(path: str, mine: nn.Module, fresh: nn.Module) -> dict[str, Any]:
    """Return the plain attributes that differ.

    :raises PluginError: for an attribute that was plain data and is something else now.
    """
    changed = {}
    for name, value in vars(mine).items():
        # Private names are a class's own affair, and what ends in _cache is filled anew by each pass.
        if name in _OWN or name[0] == "_" or name.endswith("_cache"):
            continue

        other = vars(fresh).get(name)
        if not _plain(value):
            if _plain(other) and other is not None:
                raise PluginError(f"attribute {name!r} of module {path!r} is a {type(value).__name__}: not plain data")
            continue
        if value != other or type(value) is not type(other):
            changed[name] = _frozen(value)
    return changed


def _shapes(mine: nn.Module, fresh: nn.Module) -> Iterator[tuple[str, list[int] | None]]:
    """Yield the tensors of a module itself whose shape differs; ``None`` for one that is gone."""
    for name in [*fresh._parameters, *fresh._buffers, *_parameter_names(mine), *mine._buffers]:
        a, b = _tensor(mine, name), _tensor(fresh, name)
        if a is not None and (b is None or a.shape != b.shape):
            yield name, list(a.shape)
        elif a is None and b is not None:
            yield name, None


def _parameter_names(module: nn.Module) -> list[str]:
    own = list(module._parameters)
    return [*own, *module.parametrizations] if parametrize.is_parametrized(module) else own  # type: ignore[misc]


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    if parametrize.is_parametrized(module, name):
        return latent_of(module, name)
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def restructure(fresh: nn.Module, data: Mapping[str, Any], registry: Registry, where: str) -> nn.Module:
    """Make a freshly built net into the one that was described; returns it. Its tensors are still to be filled.

    :param data: of :meth:`Structure.dump`.
    :raises PluginError: naming a layer that no plugin offers.
    :raises ArtifactError: if the description doesn't fit the net.
    """
    try:
        wanted = Structure(**data)
        for path, names in wanted.children.items():
            children = fresh.get_submodule(path)._modules
            for name in [n for n in children if n not in names]:
                del children[name]

        for path, layer in wanted.layers.items():
            replace(fresh, path, build_layer(layer, registry, where))
        for path, values in wanted.attributes.items():
            module = fresh.get_submodule(path)
            for name, value in values.items():
                # What our own manifests never say: a method in an attribute's place, or what torch keeps of a module.
                if name in _OWN or name.startswith("_") or callable(getattr(type(module), name, None)):
                    raise ArtifactError(f"{where}: the structure sets {short(name)}, which is no plain attribute")
                setattr(module, name, _thawed(value))

        # Names that share a tensor get the new one together.
        shared = {n: group for group in _ties(fresh) for n in group}
        done: set[str] = set()
        for full, shape in wanted.shapes.items():
            if full not in done:
                group = shared.get(full, [full])
                _reshape(fresh, full, shape, group)
                done.update(group)
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where}: the structure doesn't fit the net: {in_line(error)}") from None
    return fresh


def build_layer(description: Mapping[str, Any], registry: Registry, where: str) -> nn.Module:
    """Build a registered layer or transform from its key and config.

    :raises PluginError: naming one that no plugin offers.
    :raises ArtifactError: naming one that can't be built.
    """
    key = description["key"]
    if key == IDENTITY:
        return nn.Identity()
    if key not in registry.entries["layers"]:
        raise PluginError(f"{where}: layer {short(key)} isn't offered by any installed plugin")
    large = max(map(abs, numbers_in(description)), default=0)
    if large > LARGEST:  # two to the power of so many bits would take hours
        raise ArtifactError(f"{where}: layer {key!r} has a setting of {short(large)}, more than {LARGEST:,}")
    try:
        built = registry.load("layers", key)(**description.get("config", {}))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(f"{where}: layer {key!r}: {in_line(error)}") from None
    assert isinstance(built, nn.Module)
    return built


def _reshape(model: nn.Module, full: str, shape: list[int] | None, group: list[str]) -> None:
    """Give a tensor another shape, or take it away; its values are still to be filled.

    :param group: the names that share it.
    """
    for name in group:
        path, _, tensor = name.rpartition(".")
        owner = model.get_submodule(path)
        made = None if shape is None else torch.empty(shape, dtype=_dtype_at(owner, tensor))
        if tensor in owner._buffers:
            owner._buffers[tensor] = made
        elif name == full:
            owner._parameters[tensor] = None if made is None else nn.Parameter(made)
        else:
            first, _, its = full.rpartition(".")
            owner._parameters[tensor] = model.get_submodule(first)._parameters[its]


def _dtype_at(owner: nn.Module, tensor: str) -> torch.dtype:
    """Return the type of a module's tensor; of its others, as a bias that was added has, where it has none."""
    known = _tensor(owner, tensor)
    others = [known] if known is not None else [p for p in owner.parameters() if p.is_floating_point()]
    return others[0].dtype if others else torch.float32


def _ties(model: nn.Module) -> list[list[str]]:
    """Return the groups of names that share one parameter, as if nothing were attached, sorted."""
    groups: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in module._parameters.items():
            plain = plain_name(_join(path, name))
            if value is not None and ".parametrizations." not in f".{plain}" and SITE_PREFIX not in plain:
                groups.setdefault(id(value), []).append(plain)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def _has(model: nn.Module, name: str) -> bool:
    path, _, tensor = name.rpartition(".")
    try:
        return _tensor(model.get_submodule(path), tensor) is not None
    except AttributeError:
        return False


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _frozen(value: Any) -> Any:
    """Return JSON data that remembers which lists are tuples."""
    if isinstance(value, tuple):
        return {_TUPLE: [_frozen(v) for v in value]}
    if isinstance(value, list):
        return [_frozen(v) for v in value]
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return value


def _thawed(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TUPLE}:
            return tuple(_thawed(v) for v in value[_TUPLE])
        return {k: _thawed(v) for k, v in value.items()}
    return [_thawed(v) for v in value] if isinstance(value, list) else value
