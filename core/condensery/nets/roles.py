"""Where a net keeps its stages and its classifier: module paths behind role names."""

from __future__ import annotations

from torch import nn

from condensery.errors import UsageError

MODULE_ROLES = ("stages", "logits", "features")
MAP_ROLES = ("attention", "scores")
ROLES = (*MODULE_ROLES, *MAP_ROLES)


def resolve(model: nn.Module, role: str) -> list[str]:
    """Return the module paths of ``stages`` or ``logits``, or the inputs of the latter, which are the ``features``.

    Looked up in this order: the net's own ``roles`` attribute, timm's ``feature_info`` and classifier, the containers
    whose children hold attention, the last linear layer.

    :raises UsageError: if the net has none.
    """
    declared = getattr(model, "roles", None)
    if isinstance(declared, dict) and role in declared:
        return list(declared[role])
    if role == "features":
        return [f"{path}:input" for path in resolve(model, "logits")]
    paths = _stages(model) if role == "stages" else _logits(model)
    if not paths:
        raise UsageError(f"{type(model).__name__} has no {role}: name a module path instead")
    return paths


def _stages(model: nn.Module) -> list[str]:
    """Return timm's stages, else the children of the innermost containers of which each child attends."""
    modules = dict(model.named_modules())
    info = getattr(model, "feature_info", None)
    if isinstance(info, list):
        named = [str(i["module"]) for i in info if isinstance(i, dict) and "module" in i]
        if named and all(n in modules for n in named):
            return list(dict.fromkeys(named))

    holders = [p for p, m in modules.items() if isinstance(m, (nn.ModuleList, nn.Sequential)) and _all_attend(m)]
    inner = [p for p in holders if not any(o != p and o.startswith(f"{p}.") for o in holders)]
    return [f"{p}.{name}" for p in inner for name, _ in modules[p].named_children()]


def _all_attend(container: nn.Module) -> bool:
    children = list(container.children())
    return bool(children) and all(any(is_attention(m) for m in c.modules()) for c in children)


def is_attention(module: nn.Module) -> bool:
    """Tell by its class name whether a module may compute attention."""
    return "attention" in type(module).__name__.lower()


def _logits(model: nn.Module) -> list[str]:
    """Return the classifier: as timm names it, by the names that transformers use, else the last linear layer."""
    modules = dict(model.named_modules())

    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, attribute, None)
        named = config.get("classifier") if isinstance(config, dict) else None
        paths = [named] if isinstance(named, str) else list(named or ())
        if paths and all(p in modules for p in paths):
            return paths

    for name in ("classifier", "score"):
        if isinstance(modules.get(name), nn.Linear):
            return [name]
    linear = [p for p, m in modules.items() if isinstance(m, nn.Linear)]
    return linear[-1:]
