from __future__ import annotations

import torch
from tests.plugins.pruning.stages import stage_of
from torch import Tensor, nn

from condensery_plugins.models import transformers_text
from condensery_plugins.pruning.shortcuts import Shortcuts
from condensery_plugins.tasks.digits import Digits
from condensery_plugins.tasks.word_language import WordLanguage


class Branches(nn.Module):
    """A stem, two branches side by side with no other way around, and a block with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = (nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4))
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.left(x) + self.right(x))
        x = x + self.second(torch.relu(self.first(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_layers_around_which_a_shortcut_leads() -> None:
    torch.manual_seed(0)
    net = Branches()
    for weight in net.parameters():
        weight.data *= 1e-4  # the smallest way around counts
    shortcuts = Shortcuts(stage_of(net, Digits()))
    paths = ["stem", "left", "right", "first", "second", "head"]
    assert shortcuts.bypassed(paths) == ["left", "right", "first", "second"]
    assert shortcuts.around(["left", "first", "second"])
    assert not shortcuts.around(["left", "right"])
    assert not net._forward_hooks
    assert net.training


def test_layers_that_read_tokens_count_too() -> None:
    """In a Transformer a shortcut leads around each linear layer of a block, and none around the classifier."""
    task = WordLanguage()
    net = transformers_text.build_small(task.facts, "transformer", hidden=24, depth=1)
    stage = stage_of(net, task)
    order = [p for p in stage.order() if isinstance(net.get_submodule(p), nn.Linear)]
    found = Shortcuts(stage).bypassed(order)
    assert order[-1] not in found
    assert len(found) >= 6


class Gated(nn.Module):
    """One layer's outputs open or close another one's."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.value(x) * self.gate(x).sigmoid()).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_gate_leads_around_nothing() -> None:
    """Without values nothing passes; without the gate's layer half of everything does."""
    assert Shortcuts(stage_of(Gated(), Digits())).bypassed(["value", "gate"]) == ["gate"]
