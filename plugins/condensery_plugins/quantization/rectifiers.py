"""The ReLUs of a net: modules, in whose place something else can act, and calls of a function, out of all reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from condensery import Batch, Stage
from condensery.nets import evaluating
from condensery_plugins.quantization.tracing import RELU

MODULES = (nn.ReLU, nn.ReLU6)


class Rectifiers(NamedTuple):
    """What one forward pass calls.

    :param modules: by path of a ReLU that is a module, in the order of the calls, the path of the layer with weights
        that is called next; ``None`` where none is.
    :param functions: paths of the modules that call ReLU as a function, ``""`` for the net itself.
    """

    modules: dict[str, str | None]
    functions: list[str]


class _Watch(TorchFunctionMode):
    """Notes which modules run, and inside which a ReLU is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []
        self.started: list[tuple[str, nn.Module]] = []
        self.functions: dict[str, None] = {}

    def enter(self, path: str, module: nn.Module) -> None:
        self.running.append((path, module))
        self.started.append((path, module))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in RELU and self.running and not isinstance(self.running[-1][1], MODULES):
            self.functions[self.running[-1][0]] = None
        return func(*args, **(kwargs or {}))


def rectifiers(stage: Stage) -> Rectifiers:
    """Return the ReLUs that the student calls for an example."""
    net, watch = stage.student.module, _Watch()
    handles = []
    for path, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, _, path=path: watch.enter(path, m)))
        handles.append(module.register_forward_hook(lambda *_: watch.running.pop() and None))
    with evaluating(net), torch.no_grad(), watch:
        stage.task.outputs(net, Batch(stage.task.example(2)).to(stage.device))
    for handle in handles:
        handle.remove()

    layers = set(stage.weights().paths)
    modules: dict[str, str | None] = {}
    waiting: list[str] = []
    for path, module in watch.started:
        if isinstance(module, MODULES):
            modules.setdefault(path, None)
            waiting.append(path)
        elif path in layers:
            for relu in waiting:
                modules[relu] = modules[relu] or path
            waiting.clear()
    return Rectifiers(modules, list(watch.functions))
