from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tests.catalogue.commands import condensery
from tests.core.storage.test_artifact import rewritten

from condensery import Registry
from condensery.errors import ArtifactError
from condensery.nets import Given, attach, build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage import bake, read, save_artifact
from condensery.tasks import GIVEN, TaskFacts, build_task
from condensery_catalogue.inspecting import describe, inspect_file, print_sizes
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.quantization.lsq import LearnedStep


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mlp of 64-20-10: three bits on fc1, nine of ten of fc2 masked and coded, a quantizer on fc2's input."""
    registry = Registry.open()
    task = TaskSpec(key="digits")
    facts = build_task(task, registry).facts
    spec = ModelSpec.model_validate({"key": "mlp", "hidden": [20]})
    net = build_net(spec, facts, registry, 0)
    attach(net, "fc1.weight", "lsq", LearnedStep(3).start(net.get_parameter("fc1.weight").detach()))
    mask = Mask((10, 20))
    mask.keep.copy_(torch.arange(200).view(10, 20) % 10 == 0)
    attach(net, "fc2.weight", "mask", mask)
    attach(net, "fc2.weight", "huffman", EntropyCoded())
    attach(net, "fc2:input", "lsq", LearnedStep(4, signed=False, batched=True))
    found = tmp_path_factory.mktemp("inspect") / "a.safetensors"
    save_artifact(found, bake(net, registry), spec, facts, registry, task=task)
    return found


def test_each_tensor_with_its_chain_and_its_bytes(path: Path) -> None:
    """fc1: 1,280 codes of 3 bits are 480 bytes, and a scale; fc2: 20 floats, and gaps of 10 in 4 bits or less."""
    registry = Registry.open()
    found = describe(read(path, registry), registry, path)
    rows = {row["tensor"]: row for row in found["tensors"]}
    fc1, fc2 = rows["fc1.weight"], rows["fc2.weight"]
    assert (fc1["stored"], fc1["payload"], fc1["tables"]) == ("affine(3) | bitpack(3)", 480, 4)
    assert fc1["bits_per_number"] == pytest.approx(8 * 484 / 1280)
    assert fc2["stored"].startswith("sparse-index(4) | float32")
    assert 80 <= fc2["payload"] <= 90
    assert rows["fc1.bias"]["payload"] == 80
    assert found["activations"] == ["fc2:input lsq-step"]
    sizes = found["sizes"]
    assert sizes["payload"] == sum(row["payload"] for row in found["tensors"])
    assert sizes["file"] == path.stat().st_size


def test_what_people_see(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    inspect_file(path, as_json=False)
    said = capsys.readouterr().out
    assert "affine(3) | bitpack(3)" in said
    assert "on activations: fc2:input lsq-step" in said
    assert f"file: {path.stat().st_size:,} bytes = " in said
    assert max(map(len, said.splitlines())) <= 120
    inspect_file(path, as_json=True)
    assert json.loads(capsys.readouterr().out)["model"]["key"] == "mlp"


def test_a_file_is_read_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact of gigabytes takes a while."""
    opened = []

    def counted(file: Path, framework: str) -> Any:
        opened.append(file)
        return safe_open(file, framework)

    monkeypatch.setattr("condensery.storage.artifact_file.safe_open", counted)
    inspect_file(path, as_json=True)
    assert opened == [path]


def test_a_manifest_that_describes_no_net_is_refused(path: Path, tmp_path: Path) -> None:
    """Shapes that the model of that name doesn't have are what a reader of the table would believe."""
    lying = tmp_path / "lying.safetensors"
    shutil.copy(path, lying)
    rewritten(lying, lambda m, _: m["model"].update(hidden=[21]))
    with pytest.raises(ArtifactError, match=r"'fc1\.bias' has shape \(20,\), not \(21,\)"):
        inspect_file(lying, as_json=True)


def test_a_net_of_somebodys_own_is_shown_unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its 4 x 3 weights are 48 bytes, its bias 16."""
    net, registry = torch.nn.Linear(3, 4), Registry.open()
    given = Given(net)
    facts = TaskFacts(kind="given", outputs=4)
    save_artifact(tmp_path / "own.safetensors", bake(net, registry), given.spec, facts, registry.extended(GIVEN, given))
    inspect_file(tmp_path / "own.safetensors", as_json=True)
    said = capsys.readouterr()
    assert {row["tensor"]: row["payload"] for row in json.loads(said.out)["tensors"]} == {"weight": 48, "bias": 16}
    assert said.err == "a net of somebody's own, which isn't here: its shapes aren't checked against it\n"


def test_what_collapsed_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry.open()
    found = describe(read(path, registry), registry, path)
    assert found["collapsed"] == []
    print_sizes(found | {"collapsed": [{"stage": "s", "methods": ["ssl"], "what": ["fc1", "fc2"]}]}, path)
    assert "collapsed in stage s (ssl): fc1, fc2" in capsys.readouterr().out.splitlines()


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for name, says in (("none", "no such file"), ("x.safetensors", "not an artifact, or damaged")):
        done = condensery("inspect", str(tmp_path / name))
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
