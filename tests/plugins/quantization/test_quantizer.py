"""The base class of the quantizers: the method that its docstring shows is a whole one."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of

from condensery import NotApplicable
from condensery_plugins.quantization import observers, quantizer, uniform
from condensery_plugins.quantization.calibration import Plan
from condensery_plugins.quantization.quantizer import BitQuantizer, FixedWidth, Quantizer


def shown(**settings: Any) -> BitQuantizer:
    """Return the method that the docstring shows, configured."""
    text = (inspect.getdoc(Quantizer) or "").partition("::\n")[2].partition("\nRaises")[0]
    names = {**vars(quantizer), **vars(uniform), **vars(observers)}
    exec(textwrap.dedent(text), names)  # noqa: S102 - our own docstring
    made = names["Rounding"](**settings)
    assert isinstance(made, BitQuantizer)
    return made


def test_the_method_that_the_docstring_shows_quantizes_a_net() -> None:
    """A signed grid of 2 bits has the levels -1, 0 and 1 times its scale; the edges stay float."""
    stage = stage_of("mlp", hidden=[20, 20])
    method = shown(weight_bits=2, activation_bits=2)
    method.prepare(stage=stage)
    assert [weight.path for weight in method.held(stage)] == ["fc2"]

    weight = stage.weights().by_path["fc2"].value
    torch.testing.assert_close(torch.unique(weight), torch.tensor([-1.0, 0.0, 1.0]) * weight.max())
    assert torch.cat(stage.record_inputs(["fc3"], 64)["fc3"]).std() > 0  # the net is alive
    assert method.report(stage=stage)["reached_percent"] == pytest.approx(100 * 400 / (64 * 20 + 20 + 420 + 210))


def test_the_widths_are_those_that_are_set() -> None:
    assert shown().plan() == Plan(8, 8, None)
    assert shown(weight_bits=3, activation_bits=None, edge_bits=8).plan() == Plan(3, None, 8)
    assert FixedWidth().plan() == Plan(1, None, None)
    assert FixedWidth(edges="quantized").plan().edges == 1


def test_a_second_one_is_refused_by_the_layers_name() -> None:
    stage = stage_of("mlp", hidden=[20, 20])
    shown().prepare(stage=stage)
    with pytest.raises(NotApplicable, match="layer 'fc2' is quantized already"):
        shown().prepare(stage=stage)


def test_a_method_must_say_its_makers() -> None:
    with pytest.raises(NotImplementedError):
        FixedWidth().prepare(stage=stage_of("mlp", hidden=[20, 20]))
