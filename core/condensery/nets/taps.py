"""Reading values inside a net while it plays: module outputs, attention probabilities, attention scores.

Attention is read by one function mode that sees ``scaled_dot_product_attention`` and ``softmax``: it works on every
kind of net, cut or not, and is the only way that also gives scores. It can't see into compiled code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from condensery.errors import Misuse, UnknownKey, UsageError
from condensery.nets.roles import MAP_ROLES, MODULE_ROLES, ROLES, is_attention, resolve
from condensery.nets.transforms import first_argument
from condensery.tasks import full_precision, head

CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
"""Layers of torch whose maps have channels first, also in a net that says to have them last."""


class TapValues(Mapping[str, Any]):
    """What the taps of one player read in one forward pass.

    A module path gives its output tensor, ``path:input`` its input; a role gives a list in the net's order. Maps come
    as ``(batch, channels, height, width)``, of nets too that say to have channels last, as timm's Swin does. What is in
    half precision, as autocast leaves it, comes as float32, and so is what is built or compared on it. Attention
    probabilities and scores have shape ``(batch, heads, queries, keys)``; scores are before the softmax, masks added.
    """

    def __init__(self, values: Mapping[str, list[Tensor]], versions: Mapping[str, list[int]], roles: set[str]) -> None:
        self._values, self._versions, self._roles = values, versions, roles

    def __getitem__(self, target: str) -> Any:
        if target not in self._values:
            asked = ", ".join(self._values) or "none"
            raise Misuse(f"tap {target!r} was never asked for; write player.tap({target!r}) in prepare (taps: {asked})")
        tensors = self._values[target]
        for tensor, version in zip(tensors, self._versions[target], strict=True):
            if tensor._version != version:
                raise UsageError(f"tap {target!r}: the value was overwritten in place after it was read")
        found = [full_precision(tensor) for tensor in tensors]
        return found if target in self._roles else found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def detached(self) -> TapValues:
        """Return the same values without gradient."""
        values = {t: [v.detach() for v in list_] for t, list_ in self._values.items()}
        for target in self._values:
            _ = self[target]  # refuses what was overwritten before its version is forgotten
        return TapValues(values, {t: [v._version for v in list_] for t, list_ in values.items()}, self._roles)


EMPTY = TapValues({}, {}, set())


class Taps:
    """The taps of one player.

    :param model: the net; hooks are put on it by :meth:`add` and taken off by :meth:`remove`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._paths: dict[str, list[str]] = {}
        self._handles: dict[str, Any] = {}
        self._read: dict[str, tuple[Tensor, int]] = {}
        self._channels_last: set[str] = set()
        self._watch: AttentionWatch | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Taps:
        """Return empty taps: what was read isn't part of a copy."""
        return Taps(memo.get(id(self.model), self.model))

    def add(self, target: str) -> None:
        """Tap a module path, a module's input (``path:input``) or a role.

        :raises UsageError: if the net has no such module or role.
        """
        if target in self._paths:
            return
        if target in MAP_ROLES:
            self._paths[target] = []
            self._watch = self._watch or AttentionWatch(self.model)
            return

        paths = resolve(self.model, target) if target in MODULE_ROLES else [target]
        modules = dict(self.model.named_modules())
        for path in paths:
            name = path.removesuffix(":input")
            if name not in modules:
                raise UnknownKey(
                    "module or role", name, [*ROLES, *modules], where=f"tap in {type(self.model).__name__}"
                )
            if path in self._handles:
                continue
            if gives_channels_last(modules, path):
                self._channels_last.add(path)
            if path == name:
                self._handles[path] = modules[name].register_forward_hook(partial(self._store, path))
            else:
                # Before the transforms on it: what the module is given, not what it makes of that.
                self._handles[path] = modules[name].register_forward_pre_hook(
                    partial(self._store_input, path), prepend=True, with_kwargs=True
                )
        self._paths[target] = paths

    def _store_input(self, path: str, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._store(path, module, args, first_argument(args, kwargs))

    def _store(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        value = head(getattr(output, "last_hidden_state", output))
        if path in self._channels_last and value.dim() == 4:
            value = value.permute(0, 3, 1, 2)  # a view: what overwrites the value is still noticed
        self._read[path] = (value, value._version)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read during a forward pass."""
        self._read.clear()
        if self._watch is None:
            yield
            return
        with self._watch.watching():
            yield

    def collect(self) -> TapValues:
        """Return what was read in the last pass.

        :raises UsageError: if a tapped module wasn't called, or an attention gave no map or several.
        """
        if not self._paths:
            return EMPTY

        # The version of each tensor is kept beside it: a value that is overwritten later must not be read.
        values: dict[str, list[Tensor]] = {}
        versions: dict[str, list[int]] = {}
        for target, paths in self._paths.items():
            if target in MAP_ROLES:
                assert self._watch is not None
                maps = self._watch.maps(target)
                values[target], versions[target] = maps, [m._version for m in maps]
                continue

            missing = [p for p in paths if p not in self._read]
            if missing:
                raise UsageError(f"tap {target!r}: module {missing[0]!r} was not called")
            values[target] = [self._read[p][0] for p in paths]
            versions[target] = [self._read[p][1] for p in paths]

        self._read.clear()
        return TapValues(values, versions, {t for t in values if t in MODULE_ROLES + MAP_ROLES})

    def remove(self) -> None:
        """Take every hook off."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._paths.clear()
        self._channels_last.clear()
        self._watch = None


def gives_channels_last(modules: Mapping[str, nn.Module], path: str) -> bool:
    """Tell whether what a tap reads has its channels in the last dimension, where it is a map.

    A net of timm says so by its ``output_fmt``: it holds for what is inside, but for torch's own layers on maps, which
    want channels first, and for what the net itself is given.

    :param modules: of the net, by path.
    :param path: of one of them, or ``path:input``.
    """
    name = path.removesuffix(":input")
    if isinstance(modules[name], CHANNELS_FIRST) or (name != path and hasattr(modules[name], "output_fmt")):
        return False
    while name and not hasattr(modules[name], "output_fmt"):
        name = name.rpartition(".")[0]
    return getattr(modules[name], "output_fmt", None) == "NHWC"


def remove_taps(module: nn.Module) -> None:
    """Take off one module's hooks that belong to taps, as on a copy."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for identity, hook in list(hooks.items()):
            if isinstance(hook, partial) and isinstance(getattr(hook.func, "__self__", None), Taps):
                del hooks[identity]
                module._forward_pre_hooks_with_kwargs.pop(identity, None)


class AttentionWatch(TorchFunctionMode):
    """Sees each attention's scores and probabilities while a net plays."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._modules = {path: m for path, m in model.named_modules() if is_attention(m)}
        if not self._modules:
            raise UsageError(f"{type(model).__name__} has no attention to tap")
        self._stack: list[str] = []
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch one forward pass."""
        self._seen.clear()
        self._stack.clear()
        handles = []
        for path, module in self._modules.items():
            handles.append(module.register_forward_pre_hook(lambda m, a, p=path: self._stack.append(p)))
            handles.append(module.register_forward_hook(lambda m, a, o: self._drop(), always_call=True))

        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _drop(self) -> None:
        self._stack.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._stack:
            return out
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            scores = _scores(*args, **kwargs)
            self._seen.setdefault(self._stack[-1], []).append((scores, scores.softmax(-1)))
        elif name == "softmax" and isinstance(out, Tensor) and out.dim() == 4:
            self._seen.setdefault(self._stack[-1], []).append((args[0], out))
        return out

    def maps(self, role: str) -> list[Tensor]:
        """Return one map per attention, in order of the net's calls.

        :raises UsageError: if none was seen, or one attention gave several.
        """
        if not self._seen:
            raise UsageError("tap 'attention': the net's attention was not seen; is it compiled or a fused kernel?")
        for path, found in self._seen.items():
            if len(found) != 1:
                raise UsageError(f"tap 'attention': {path} gave {len(found)} maps in one pass, expected one")
        return [found[0][0 if role == "scores" else 1] for found in self._seen.values()]


def _scores(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what scaled_dot_product_attention puts into its softmax."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
    factor = query.size(-1) ** -0.5 if scale is None else scale
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, float("-inf"))
    if attn_mask is not None:
        added = attn_mask.dtype != torch.bool  # float masks are added, bool masks are fills
        scores = scores + attn_mask if added else scores.masked_fill(~attn_mask, float("-inf"))
    return scores
