"""Whole layers: a row for each known class, which of them can go, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.draft import BERTS, HF, LLAMAS, Draft, class_of, find, known_classes


class Block(NamedTuple):
    """What a layer is made of, by names inside it.

    :param attention: its attention, ``None`` where it has none.
    :param norms: norms over the residual stream, factors for each of its channels included.
    :param writers: what writes to the stream: with these at zero the layer does nothing. Empty where a norm follows
        the sum, so that no zeros make it do nothing.
    """

    attention: str | None
    mlp: str
    norms: tuple[str, ...]
    writers: tuple[str, ...]


_TIMM = ("norm1", "norm2", "ls1", "ls2")
_POST = ("attention.output.LayerNorm", "output.LayerNorm")
_BERT = Block("attention.self", "intermediate", _POST, ())
_LLAMA = Block(
    "self_attn", "mlp", ("input_layernorm", "post_attention_layernorm"), ("self_attn.o_proj", "mlp.down_proj")
)
_VIT = Block("attention", "mlp", ("layernorm_before", "layernorm_after"), ("attention.o_proj", "mlp.fc2"))
BLOCKS = {
    "timm.models.vision_transformer.Block": Block("attn", "mlp", _TIMM, ("attn.proj", "mlp.fc2")),
    "timm.models.swin_transformer.SwinTransformerBlock": Block("attn", "mlp", _TIMM, ("attn.proj", "mlp.fc2")),
    "timm.models.efficientformer.MetaBlock1d": Block("token_mixer", "mlp", _TIMM, ("token_mixer.proj", "mlp.fc2")),
    "timm.models.efficientformer.MetaBlock2d": Block(None, "mlp", ("ls1", "ls2"), ("ls1", "mlp.norm2")),
    **{f"{name}Layer": _BERT for name in BERTS},
    f"{HF}deberta_v2.modeling_deberta_v2.DebertaV2Layer": _BERT,
    f"{HF}deit.modeling_deit.DeiTLayer": _VIT,
    f"{HF}distilbert.modeling_distilbert.TransformerBlock": Block(
        "attention", "ffn", ("sa_layer_norm", "output_layer_norm"), ()
    ),
    f"{HF}gpt2.modeling_gpt2.GPT2Block": Block("attn", "mlp", ("ln_1", "ln_2"), ("attn.c_proj", "mlp.c_proj")),
    **{f"{name}DecoderLayer": _LLAMA for name in LLAMAS},
    f"{HF}vit.modeling_vit.ViTLayer": _VIT,
}
CONTAINERS = (nn.ModuleList, nn.Sequential)


@dataclasses.dataclass(frozen=True)
class LayerUnit:
    """One layer of a stack.

    :param container: path of the list that holds it.
    :param reason: why it can't be removed, or ``None``.
    """

    path: str
    container: str
    reason: str | None = None


def layers_of(net: nn.Module, run: Callable[[nn.Module], object]) -> list[LayerUnit]:
    """Return the known layers of a net, in its order; ``reason`` tells which can't be removed.

    :param run: runs the net once, to see what goes in and comes out of each layer.
    """
    stacks = stacks_of(net)
    shapes = _shapes(net, [p for names in stacks.values() for p in names], run)
    found = []
    for container, paths in stacks.items():
        classes = Counter(class_of(net.get_submodule(p)) for p in paths)
        most = classes.most_common(1)[0][0]
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


def _masks(net: nn.Module, container: str) -> list[str]:
    """Return the kinds of attention that a net's config gives to its layers by their places, if it does."""
    config = getattr(net.get_submodule(container.rpartition(".")[0]), "config", None)
    return sorted(set(getattr(config, "layer_types", None) or ()))


def stacks_of(net: nn.Module) -> dict[str, list[str]]:
    """Return the paths of known layers by the path of the list that holds them."""
    found: dict[str, list[str]] = {}
    for path, module in net.named_modules():
        if isinstance(module, CONTAINERS):
            names = [n for n, m in module.named_children() if class_of(m) in BLOCKS]
            if names:
                found[path] = [f"{path}.{n}" if path else n for n in names]
    return found


def _shapes(
    net: nn.Module, paths: Iterable[str], run: Callable[[nn.Module], object]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
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


def draft_layers(draft: Draft, removed: Iterable[str], units: Iterable[LayerUnit]) -> int:
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
            module = find(draft.net, path)
            if module is None:
                raise UsageError(f"the net has no layer {path!r}")
            raise UsageError(f"module {path!r} is a {class_of(module)}; {known_classes(BLOCKS, 'layer')}")
        if known[path].reason is not None:
            raise UsageError(f"layer {path!r} can't be removed: {known[path].reason}")
    for container in sorted({known[p].container for p in gone}):
        mine = [u.path for u in known.values() if u.container == container]
        left = [p for p in mine if p not in gone]
        if not left:
            raise UsageError(f"{container!r} would lose all of its {len(mine)} layers")
        prefix = f"{container}." if container else ""
        names = [n for n, _ in draft.net.get_submodule(container).named_children()]
        draft.children(container, [n for n in names if f"{prefix}{n}" not in gone])
        for place, path in enumerate(left):
            for name, module in draft.net.get_submodule(path).named_modules(prefix=path):
                if isinstance(getattr(module, "layer_idx", None), int):
                    draft.attribute(name, "layer_idx", place)
    return len(gone)
