"""Artifacts: the loaded net equals the saved one bit for bit, the estimate equals the file, damage is one line."""

from __future__ import annotations

import dataclasses
import json
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.core.helpers import offering
from torch import Tensor, nn

from condensery import PluginError, Registry, Transform, load
from condensery.errors import ArtifactError, MethodError
from condensery.nets import MASK, BitPack, Branch, Coding, Layer, attach, build_net, replace, straight_through
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage import MANIFEST, bake, codec_of, open_artifact, save_artifact, split_name
from condensery.tasks import Batch, build_task, head


class Grid(Branch):
    """Whole numbers times a step that is a table."""

    key = "test-grid"
    main = "codes"
    tables = frozenset({"step"})

    def __init__(self, step: Tensor | None = None) -> None:
        self.step = step

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        assert self.step is not None
        return {"codes": (values / self.step).round().int(), "step": self.step.reshape(1)}

    def decode(self, streams: Any, shape: Any) -> Tensor:
        return (streams["codes"] * streams["step"]).view(list(shape))  # type: ignore[no-any-return]

    def parts(self) -> dict[str, Coding]:
        from condensery.nets import Dense

        return {"codes": Coding(BitPack(4, -8)), "step": Coding(Dense())}


class OnGrid(Transform):
    """Rounds to steps of a sixteenth and clips to four bits."""

    key = "test-on-grid"

    def forward(self, value: Tensor) -> Tensor:
        return straight_through((value * 16).round().clamp(-8, 7) / 16, value)

    def code(self, coding: Coding, final: Tensor) -> Coding:
        return Coding(Grid(torch.tensor(1 / 16)))


class Liar(OnGrid):
    """Says that it is stored on another grid than it uses."""

    key = "test-liar"

    def code(self, coding: Coding, final: Tensor) -> Coding:
        return Coding(Grid(torch.tensor(0.3)))


class Half(Transform):
    """Masks every other entry of dimension 0; has a state of its own."""

    key = "test-half"
    rank = MASK
    keep: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("keep", torch.arange(size) % 2)

    def forward(self, value: Tensor) -> Tensor:
        return value * self.keep

    def config(self) -> dict[str, Any]:
        return {"size": self.size}


class Scaled(Layer):
    """Multiplies by a table; bakes to itself."""

    key = "test-scaled"
    factor: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("factor", torch.linspace(0.5, 2, size))

    def config(self) -> dict[str, Any]:
        return {"size": len(self.factor)}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Training(Scaled):
    """Bakes to another layer."""

    key = "test-training"

    def bake(self) -> nn.Module:
        made = Scaled(len(self.factor))
        made.factor.copy_(self.factor * 2)
        return made


LAYERS = {cls.key: cls for cls in (OnGrid, Liar, Half, Scaled, Training)}
REGISTRY = Registry.open([("test", offering(layers=LAYERS, codecs={"test-grid": Grid}))])
TASK = build_task(TaskSpec(key="digits"), REGISTRY)
SPEC = ModelSpec(key="mlp", hidden=[12, 8])  # type: ignore[call-arg]


def net() -> nn.Module:
    made = build_net(SPEC, TASK.facts, REGISTRY, 5).eval()
    attach(made, "fc1.weight", "grid", OnGrid())
    attach(made, "fc2:input", "halves", Half(12))
    return made


def saved(path: Path, model: nn.Module | None = None) -> nn.Module:
    baked = bake(model or net(), REGISTRY)
    save_artifact(path, baked, SPEC, TASK.facts, REGISTRY, task=TaskSpec(key="digits"))
    return baked.net


def outputs(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return head(TASK.outputs(model, Batch(TASK.example(7))))


def test_a_loaded_net_equals_the_saved_one_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = net()
    kept = saved(path, model)
    again = open_artifact(path, REGISTRY)
    assert torch.equal(outputs(kept), outputs(again.net))
    assert torch.equal(outputs(model), outputs(again.net))  # the grid is exact, so baking moved nothing
    assert again.task == TaskSpec(key="digits")
    assert again.model == SPEC
    assert not again.net.training
    assert not any(p.requires_grad for p in again.net.parameters())
    assert torch.equal(outputs(load(path, REGISTRY)), outputs(kept))


def test_where_the_bytes_are(tmp_path: Path) -> None:
    """fc1 64x12 at 4 bits and a step, biases and the rest dense, the mask's 12 whole numbers of one bit."""
    path = tmp_path / "a.safetensors"
    model = net()
    baked = bake(model, REGISTRY)
    sizes = save_artifact(path, baked, SPEC, TASK.facts, REGISTRY)
    payload = 64 * 12 // 2 + 4 * 12 + 4 * (12 * 8 + 8) + 4 * (8 * 10 + 10) + 2
    assert (sizes.payload, sizes.tables) == (payload, 4)
    assert baked.stored["fc1.weight"].coding.cost(baked.net.get_parameter("fc1.weight")).total == 64 * 12 // 2 + 4
    assert sizes.file == path.stat().st_size == sizes.payload + sizes.tables + sizes.header + sizes.manifest
    with safe_open(path, framework="pt") as handle:
        names = set(handle.keys())
    assert names == {MANIFEST, "fc1", "fc2", "fc3"}  # what sits on fc2's input is stored with fc2


def test_an_artifact_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    saved(tmp_path / "a.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_layers_are_baked_and_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model = net()
    replace(model, "input_dropout", Training(64))
    replace(model, "dropout", nn.Identity())
    kept = saved(path, model)
    assert torch.equal(outputs(open_artifact(path, REGISTRY).net), outputs(kept))
    baked = bake(nn.Sequential(Training(3)), REGISTRY).net
    assert type(baked[0]) is Scaled  # type: ignore[index]
    assert baked[0].factor.tolist() == [1.0, 2.5, 4.0]  # type: ignore[index]


def test_a_codec_that_changes_weights_is_refused() -> None:
    model = build_net(SPEC, TASK.facts, REGISTRY, 5)
    attach(model, "fc1.weight", "liar", Liar())
    with pytest.raises(MethodError, match=r"fc1\.weight: stored as test-grid \| bitpack\(4\) it differs by"):
        bake(model, REGISTRY)


def test_names_of_tensors_on_activations() -> None:
    assert split_name("a.b.weight") == ("a.b", "weight")
    assert split_name("weight") == ("", "weight")
    assert split_name("a.condensery_input.transforms.x.step") == ("a", "condensery_input.transforms.x.step")
    assert split_name("condensery_output.transforms.x.step") == ("", "condensery_output.transforms.x.step")


# ------------------------------------------------------------------ damage


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    expected = outputs(saved(path))
    content = path.read_bytes()
    rng = random.Random(0)
    refused = []
    for place in [*range(60), *(rng.randrange(len(content)) for _ in range(150))]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        bad.write_bytes(flipped)
        try:
            found = outputs(load(bad, REGISTRY))
        except ArtifactError as error:
            refused.append(str(error))
            continue
        assert torch.equal(found, expected), place
    assert len(refused) > 190
    assert all(str(bad) in line and "\n" not in line for line in refused)


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    saved(path)
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        bad.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"b\.safetensors: (not an artifact, or )?damaged"):
            load(bad, REGISTRY)


def test_other_files_and_versions(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load(tmp_path / "none", REGISTRY)
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(2)}, plain)
    with pytest.raises(ArtifactError, match="a safetensors file, but not an artifact of condensery"):
        load(plain, REGISTRY)
    path = tmp_path / "a.safetensors"
    saved(path)
    save_file(load_file(path), path, {"condensery": "99"})
    with pytest.raises(ArtifactError, match="written in format 99, this version of condensery reads format 1"):
        load(path, REGISTRY)


def rewritten(path: Path, change: Any) -> None:
    """Change an artifact's manifest."""
    tensors = load_file(path)
    manifest = json.loads(zlib.decompress(tensors[MANIFEST].numpy().tobytes()))
    change(manifest, tensors)
    packed = zlib.compress(json.dumps(manifest).encode())
    tensors[MANIFEST] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    save_file(tensors, path, {"condensery": "1"})


def test_a_missing_plugin_is_named_with_its_package(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path)
    rewritten(path, lambda manifest, _: manifest["from"].update({"layers:test-half": "their-package"}))
    with pytest.raises(PluginError, match=r"layer 'test-half' isn't offered by .*; install their-package"):
        load(path, Registry.open())


def test_a_codec_that_is_neither_a_leaf_nor_a_branch_is_named() -> None:
    class Neither:
        key = "test-grid"

    other = Registry.open([("test", offering(codecs={"test-grid": Neither}))])
    with pytest.raises(PluginError, match="a: codec 'test-grid' is neither a Leaf nor a Branch"):
        codec_of({"codec": "test-grid"}, other, "a")


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: m.pop("facts"),
        lambda m, t: m["facts"].update(sise=3),
        lambda m, t: m["model"].update(hidden=[12, 9]),
        lambda m, t: m["tensors"]["fc1"]["weight"].update(shape=[12, 65]),
        lambda m, t: m["tensors"]["fc1"].pop("bias"),
        lambda m, t: m["tensors"]["fc1"].update(bias=m["tensors"]["fc2"]["bias"]),
        lambda m, t: m["structure"].update(noses={}),
        lambda m, t: m["transforms"].clear(),
        lambda m, t: t.pop("fc1"),
        lambda m, t: m["tensors"]["fc1"]["weight"]["parts"]["codes"]["config"].update(bits=5),
        lambda m, t: m["tensors"]["fc1"]["weight"]["parts"]["codes"]["bytes"].update(data=1 << 40),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path)
    rewritten(path, change)
    with pytest.raises(ArtifactError, match=str(path)) as caught:
        load(path, REGISTRY)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    baked = bake(net(), REGISTRY)
    replace(baked.net, "fc3", nn.Bilinear(2, 2, 2))
    with pytest.raises(PluginError, match="module 'fc3' is a Bilinear"):
        save_artifact(path, baked, SPEC, TASK.facts, REGISTRY)
    assert list(tmp_path.iterdir()) == []


def test_the_facts_of_the_task_travel_along(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved(path)
    assert open_artifact(path, REGISTRY).manifest["facts"] == dataclasses.asdict(TASK.facts)
