"""Writes that a transform loses are found in a method's file, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.catalogue.commands import condensery

from condensery_catalogue.lost_writes import lost_writes

METHOD = """
class Mine(Method):
    @hookimpl
    def after_step(self, stage, player):
        module = self.module_
        {}
"""
LOST = [
    "module.weight.data[keep == 0] = 0",
    "module.weight.data = values",
    "module.weight.data *= 2",
    "module.weight[0] = 0",
    "module.weight += 1",
    "module.weight.mul_(0.5)",
    "module.bias.data.zero_()",
    "module.weight.detach().view(-1)[3:].fill_(0)",
    "self.layers[0].weight.data.T.copy_(values)",
    "torch.nn.init.zeros_(module.weight)",
    "if late: module.weight.clamp_(0, 1)",
]
KEPT = [
    "weight.latent.data[keep == 0] = 0",
    "weight.latent.mul_(0.5)",
    "module.weight = torch.nn.Parameter(values)",
    "module.weight.requires_grad = False",
    "copied = module.weight.detach().clone().mul_(2)",
    "found[module.weight] = 1",
    "counts.weight = 3",
    "module.weight.requires_grad_(False)",
    "copy.copy_(module.weight)",
]


@pytest.mark.parametrize("code", LOST)
def test_a_write_that_a_transform_loses_is_named_with_its_line(code: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(code))
    (found,) = lost_writes(tmp_path / "mine.py", "mine.py")
    assert re.match(r"mine\.py:6 writes [\w.\[\]]+\.(weight|bias) in place: ", found)


@pytest.mark.parametrize("code", KEPT)
def test_what_is_kept_is_not_named(code: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD.format(code))
    assert list(lost_writes(tmp_path / "mine.py")) == []


def test_helpers_of_a_methods_file_count_and_its_layers_do_not(tmp_path: Path) -> None:
    layer = "class Own(nn.Module):\n    def reset(self):\n        self.weight.data.zero_()\n"
    (tmp_path / "mine.py").write_text(layer + "def helper(module):\n    module.weight.data.zero_()\n")
    (found,) = lost_writes(tmp_path / "mine.py", "mine.py")
    assert found.startswith("mine.py:5 writes module.weight in place")


def test_check_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "loses.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from condensery import Method, hookimpl\n"
        "condensery_api = 1\n"
        "@dataclass(eq=False, kw_only=True)\n"
        "class Loses(Method):\n"
        "    key = 'loses'\n"
        "    @hookimpl\n"
        "    def after_step(self, stage, player):\n"
        "        player.module.fc.weight.data[0] = 0\n"
        "@hookimpl\n"
        "def register_methods(register):\n"
        "    register('loses', Loses)\n"
    )
    done = condensery("check", str(plugin))
    assert done.returncode == 1
    assert f"wrong: {plugin}:9 writes player.module.fc.weight in place" in done.stdout
