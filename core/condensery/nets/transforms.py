"""What a method leaves on a weight or an activation, and how it is attached to a module.

A tensor has at most one parametrization, a :class:`Stack`, in which the transforms run in rank order:
reparametrize < quantize < mask < store. So zeros survive any quantizer, whatever the order of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.errors import PluginError, UsageError
from condensery.nets.codecs import Coding
from condensery.tasks import map_tensors

REPARAMETRIZE, QUANTIZE, MASK, STORE = 0, 1, 2, 3
SITES = ("input", "output")
SITE_PREFIX = "condensery_"
"""Begins the names of the modules that hold activation transforms."""


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Return ``value`` exactly, with the gradient of ``x``.

    ``value + x - x.detach()`` in any other order rounds: a sign quantizer then has more than three levels.
    """
    return value.detach() + (x - x.detach())


class Transform(nn.Module):
    """Something that stays on a tensor after its method has gone.

    Its parameters train with the player that owns the tensor; its state is its ``state_dict``. Tensors inside must
    broadcast against the weight (per channel: ``(C, 1, 1, 1)``), so that a cut can slice them.
    """

    key: ClassVar[str] = ""
    """As it is registered; how a checkpoint names it."""
    rank: ClassVar[int] = QUANTIZE
    settings: Mapping[str, float] = {}
    """For its own parameters: ``{"weight_decay": 0.0, "lr_scale": 1.0}``; of the class, or of an instance."""
    bits: int | None = None
    """Bit width of the values it leaves; ``None``: as wide as they came. A quantizer sets it on the instance."""
    reshapes: ClassVar[bool] = False
    """Its output has another shape than its input, so that the net doesn't run without it."""

    def settle(self, latent: Tensor | None) -> None:
        """Bring its own state and the latent weight back into range after each optimizer step, under no_grad."""

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Slice its tensors after a cut; the default takes each tensor that isn't a scalar."""
        for name, value in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            if value.dim():
                value.data = take(value.data)
                setattr(self, name, value)

    def holds(self, final: Tensor) -> str | None:
        """Return what is wrong with the final value of the tensor, or ``None`` if its promise is kept."""
        return None

    def alive(self, latent: Tensor) -> Tensor | None:
        """Return where it lets a value be other than zero, bool of the latent's shape; ``None``: everywhere.

        A mask tells what it leaves of ones. What holds some values for good, a codebook or fixed levels, overrides it.
        """
        return self(torch.ones_like(latent)).detach() != 0 if self.rank == MASK else None

    def config(self) -> dict[str, Any]:
        """Return the JSON arguments that build this transform again (its tensors come from the state)."""
        return {}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return how an artifact stores the tensor, given how the transforms before this one would.

        A quantizer returns a coding whose ``main`` stream holds whole numbers, of the tensor's shape, 0 for zero; a
        mask puts a sparse codec before the leaf (``coding.map_main``); one of rank ``STORE`` leaves the values alone
        and changes how whole numbers are written.

        :param final: the value that the layer uses, all transforms applied.
        """
        return coding

    def bake(self, owner: nn.Module) -> nn.Module | None:
        """Return a registered layer to stand in for ``owner`` when the recipe ends, or ``None`` for a plain weight."""
        return None


class Stack(nn.Module):
    """The transforms of one tensor, run in rank order, in order of attachment within a rank.

    ``by`` holds who attached each, for messages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.transforms = nn.ModuleDict()
        self.temporary: list[str] = []
        self.by: dict[str, str] = {}

    def add(self, name: str, transform: Transform, keep: bool, by: str = "") -> None:
        """Add one transform.

        :raises UsageError: if the name is taken.
        """
        if name in self.transforms:
            raise UsageError(f"a transform named {name!r} is already attached there")
        items = [*self.transforms.items(), (name, transform)]
        self.transforms = nn.ModuleDict(dict(sorted(items, key=lambda item: _rank(item[1]))))
        self.by[name] = by
        if not keep:
            self.temporary.append(name)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value that the layer uses, in the type that it came in.

        :raises PluginError: for a transform that changes the shape and doesn't say that it ``reshapes``.
        """
        dtype = value.dtype
        for name, transform in self.transforms.items():
            made = transform(value)
            if made.shape != value.shape and not getattr(transform, "reshapes", False):
                place = transform.forward.__code__
                what = f"{self.by.get(name, '')}: transform {name!r} ({type(transform).__name__}) turns shape"
                where = f"{place.co_filename}:{place.co_firstlineno}"
                raise PluginError(f"{what} {tuple(value.shape)} into {tuple(made.shape)} ({where})")
            value = made
        # Transforms keep scales and levels as float32, whatever the net's type is.
        return value if value.dtype == dtype else value.to(dtype)

    def width(self, before: int | None = None) -> int | None:
        """Return how many bits wide the values it leaves are, ``None`` if no transform says so.

        :param before: width of the values that come.
        """
        for transform in self.transforms.values():
            if isinstance(transform, Transform) and transform.bits is not None:
                before = transform.bits
        return before


def _rank(transform: nn.Module) -> int:
    return int(getattr(transform, "rank", QUANTIZE))


class Attached(NamedTuple):
    """One transform where it sits."""

    target: str
    name: str
    transform: Transform
    keep: bool


def split_target(target: str) -> tuple[str, str]:
    """Split ``conv1.weight`` into path and tensor name, ``conv1:input`` into path and ``:input``."""
    if ":" in target:
        path, _, site = target.partition(":")
        if site not in SITES:
            raise UsageError(f"target {target!r}: a site is ':input' or ':output'")
        return path, f":{site}"
    path, _, name = target.rpartition(".")
    return path, name


def owner_of(model: nn.Module, target: str) -> tuple[nn.Module, str]:
    """Return the module a target names, and the tensor or site in it.

    :raises UsageError: if the model has no such module or tensor.
    """
    path, name = split_target(target)
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        raise UsageError(f"target {target!r}: the net has no module {path!r}") from None
    if not name.startswith(":") and name not in owner._parameters and not parametrize.is_parametrized(owner, name):
        raise UsageError(f"target {target!r}: {type(owner).__name__} has no parameter {name!r}")
    return owner, name


def attach(model: nn.Module, target: str, name: str, transform: Transform, *, keep: bool = True, by: str = "") -> None:
    """Put a transform on a weight (``conv1.weight``) or an activation (``conv1:input``, ``conv1:output``).

    :param by: the method that does so, for messages.
    :raises UsageError: for an unknown target, a taken or impossible name, or a tensor that two modules share: the
        transform would act on one end only.
    """
    owner, tensor = owner_of(model, target)
    _refuse_name(target, name, transform)
    if tensor.startswith(":"):
        _site(owner, tensor[1:], create=True).add(name, transform, keep, by)
        return

    stack = stack_of(owner, tensor)
    if stack is None:
        _refuse_tied(model, target, owner, tensor)
        stack = Stack()
        stack.add(name, transform, keep, by)
        parametrized(owner, tensor, stack)
    else:
        stack.add(name, transform, keep, by)


def parametrized(owner: nn.Module, tensor: str, stack: Stack) -> None:
    """Put a stack on a tensor of a module as its parametrization.

    The property that torch makes holds the module, by whose identity it keys a cache; its class holds the property. So
    no such net would go before the garbage collector comes round, with all its weights. Any other object is as good a
    key, as each property has its own.
    """
    parametrize.register_parametrization(owner, tensor, stack, unsafe=True)
    reading = vars(type(owner))[tensor].fget
    caching = _captured(reading).get("get_cached_parametrization")
    if caching is not None and "module" in (held := _captured(caching.cell_contents)):
        held["module"].cell_contents = object()


def _captured(function: Any) -> dict[str, Any]:
    """Return the cells of what a function took from the one around it, by name."""
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _refuse_name(target: str, name: str, transform: Transform) -> None:
    """Refuse what torch can't call a module in a container: its tensors are found by attribute, along dots."""
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        better = f"{name.replace('.', '-')}-transform".lstrip("-")
        raise UsageError(
            f"target {target!r}: transform {type(transform).__name__} can't be named {name!r}: "
            f"a name isn't empty, has no dot, and isn't an attribute of torch's modules; {better!r} would do"
        )


def _refuse_tied(model: nn.Module, target: str, owner: nn.Module, tensor: str) -> None:
    mine = owner._parameters[tensor]
    for path, module in model.named_modules():
        for other, value in module._parameters.items():
            if value is mine and (module is not owner or other != tensor):
                raise UsageError(
                    f"target {target!r} is shared with {path}.{other}: a transform would act on one end only; leave "
                    "both out where the method has a skip, or give each a tensor of its own"
                )


def stack_of(owner: nn.Module, tensor: str) -> Stack | None:
    """Return the stack on one tensor of a module, or ``None``."""
    if not parametrize.is_parametrized(owner, tensor):
        return None
    stack = owner.parametrizations[tensor][0]  # type: ignore[index]
    return stack if isinstance(stack, Stack) else None


def latent_of(owner: nn.Module, tensor: str) -> nn.Parameter:
    """Return the trained parameter behind a tensor, with or without transforms."""
    if parametrize.is_parametrized(owner, tensor):
        held = owner.parametrizations[tensor].original  # type: ignore[union-attr, index]
        assert isinstance(held, nn.Parameter)
        return held
    value = owner._parameters[tensor]
    assert value is not None
    return value


def _site(owner: nn.Module, site: str, *, create: bool = False) -> Stack:
    attribute = f"{SITE_PREFIX}{site}"
    if attribute not in owner._modules and create:
        owner.add_module(attribute, Stack())
        if site == "input":
            owner.register_forward_pre_hook(_input_hook, with_kwargs=True)
        else:
            owner.register_forward_hook(_output_hook)
    return owner._modules[attribute]  # type: ignore[return-value]


# Module-level functions that look themselves up on the module: deepcopy, state_dict and torch.export keep working.
def _input_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if args:
        return (_floats(module.condensery_input, args[0]), *args[1:]), kwargs
    name = next(iter(kwargs))
    return args, {**kwargs, name: _floats(module.condensery_input, kwargs[name])}


def _output_hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if type(output) is tuple:
        return (_floats(module.condensery_output, output[0]), *output[1:])
    return _floats(module.condensery_output, output)


def _floats(stack: Any, tree: Any) -> Any:
    """Return a tree with a stack run on its floats, in packed sequences on their values; token ids stay as they are."""
    return map_tensors(lambda tensor: stack(tensor) if tensor.is_floating_point() else tensor, tree)


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a module is given first, by place or by name: what a transform on its input acts on."""
    return next(iter((*args, *kwargs.values())), None)


def sites(owner: nn.Module) -> Iterator[tuple[str, Stack]]:
    """Yield the activation sites of one module."""
    for site in SITES:
        stack = owner._modules.get(f"{SITE_PREFIX}{site}")
        if isinstance(stack, Stack):
            yield site, stack


def attached(model: nn.Module) -> list[Attached]:
    """Return every transform on a model, with its target."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, (Stack, parametrize.ParametrizationList)):
            continue

        stacks = [(f":{site}", stack) for site, stack in sites(module)]
        if parametrize.is_parametrized(module):
            stacks += [(n, s) for n in module.parametrizations if (s := stack_of(module, n)) is not None]
        for tensor, stack in stacks:
            target = f"{path}{tensor}" if tensor.startswith(":") else f"{path}.{tensor}" if path else tensor
            for name, transform in stack.transforms.items():
                assert isinstance(transform, Transform)
                found.append(Attached(target, name, transform, name not in stack.temporary))
    return found


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a net's parameters by plain name, without those of transforms."""
    transforms = {id(p) for item in attached(model) for p in item.transform.parameters()}
    return {plain_name(n): p for n, p in model.named_parameters() if id(p) not in transforms}


def detach(model: nn.Module, target: str, name: str) -> None:
    """Take one transform off; the last one on a weight leaves the latent parameter as the weight."""
    owner, tensor = owner_of(model, target)
    stack = _site(owner, tensor[1:]) if tensor.startswith(":") else stack_of(owner, tensor)
    assert stack is not None
    del stack.transforms[name]
    if name in stack.temporary:
        stack.temporary.remove(name)
    if len(stack.transforms):
        return

    if not tensor.startswith(":"):
        parametrize.remove_parametrizations(owner, tensor, leave_parametrized=False)
        return

    # The site was the last one: its hook goes with it.
    del owner._modules[f"{SITE_PREFIX}{tensor[1:]}"]
    hooks, ours = (
        (owner._forward_pre_hooks, _input_hook) if tensor == ":input" else (owner._forward_hooks, _output_hook)
    )
    for identity in [i for i, hook in hooks.items() if hook is ours]:
        del hooks[identity]
        owner._forward_pre_hooks_with_kwargs.pop(identity, None)


def detach_temporary(model: nn.Module) -> None:
    """Take off everything that was attached for one stage only."""
    for item in attached(model):
        if not item.keep:
            detach(model, item.target, item.name)


def settle(model_transforms: list[tuple[Transform, nn.Module, str]]) -> None:
    """Let transforms settle after a step; the list is made once per stage by :func:`settling`."""
    with torch.no_grad():
        for transform, owner, tensor in model_transforms:
            transform.settle(None if tensor.startswith(":") else latent_of(owner, tensor))


def settling(model: nn.Module) -> list[tuple[Transform, nn.Module, str]]:
    """Return the transforms of a model that settle, with their owners."""
    return [
        (a.transform, *owner_of(model, a.target))
        for a in attached(model)
        if type(a.transform).settle is not Transform.settle
    ]


def broken_promises(model: nn.Module) -> list[str]:
    """Return one line for each transform whose ``holds`` finds something wrong."""
    wrong = []
    with torch.no_grad():
        for item in attached(model):
            owner, tensor = owner_of(model, item.target)
            if tensor.startswith(":"):
                continue
            problem = item.transform.holds(getattr(owner, tensor))
            if problem:
                wrong.append(f"{item.target}: {item.name}: {problem}")
    return wrong


def plain_name(name: str) -> str:
    """Turn ``conv1.parametrizations.weight.original`` into ``conv1.weight``: the name as if nothing were attached."""
    if ".parametrizations." not in f".{name}" or not name.endswith(".original"):
        return name
    head, _, tail = f".{name}".rpartition(".parametrizations.")
    return f"{head}.{tail.removesuffix('.original')}".lstrip(".")
