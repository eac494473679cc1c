"""Artifacts that earlier versions wrote load for good, and give the outputs that they gave then.

Each folder of ``written/`` was made once and is never made again:

- ``deep-compression``: a perceptron through ``magnitude(sparsity=0.8) -> kmeans-sharing -> huffman``;
- ``slim-integer``: a ResNet-8 through ``l1-filter-pruning -> jacob-integer-only``;
- ``attention``: a small Transformer through ``structured-magnitude -> lsq``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from condensery import Registry, load

WRITTEN = sorted((Path(__file__).parent / "written").iterdir())


def test_there_is_one_of_each_kind() -> None:
    assert {folder.name for folder in WRITTEN} == {"attention", "deep-compression", "slim-integer"}


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: folder.name)
def test_gives_the_outputs_it_gave_when_it_was_written(folder: Path) -> None:
    expected = load_file(folder / "expected.safetensors")
    net = load(folder / "artifact.safetensors", Registry.open())
    named = {name.removeprefix("inputs."): value for name, value in expected.items() if name.startswith("inputs.")}

    with torch.no_grad():
        found = net(**named) if named else net(expected["inputs"])

    found = found if isinstance(found, torch.Tensor) else found.logits
    assert found.std() > 0  # a net of zeros would agree with anything
    torch.testing.assert_close(found, expected["outputs"], rtol=1e-4, atol=1e-5)
