"""An artifact from a stranger: loading it runs nothing, reaches for nothing, and takes no more memory than it may."""

from __future__ import annotations

import resource
import socket
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.storage.test_artifact import REGISTRY, SPEC, TASK, outputs, rewritten, saved

from condensery import load
from condensery.errors import ArtifactError, CondenseryError
from condensery.files import LIMIT
from condensery.storage import open_artifact, read
from condensery.storage.bounds import bounded
from condensery_plugins.models import resnet
from condensery_plugins.models.resnet import ResNet


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact, in a current folder that holds what a stranger would like to be run."""
    (tmp_path / "evil").mkdir()
    for name in ("evil.py", "evil/__init__.py", "bert.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def connect(*_: Any) -> None:
        (tmp_path / "ran").touch()
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "create_connection", connect)
    saved(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def refusal(path: Path) -> str:
    before = set(sys.modules)
    with pytest.raises(CondenseryError) as caught:
        load(path, REGISTRY)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) - len(str(path)) < 240
    assert not (path.parent / "ran").exists()
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] in ("evil", "bert")}
    return said


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"weights": "evil:x.safetensors"}, "its model says 'weights': refused"),
        ({"weights": "hub"}, "its model says 'weights': refused"),
        ({"weights": "a.safetensors"}, "its model says 'weights': refused"),
        ({"init_from": "teacher"}, "its model says 'init_from': refused"),
        ({"key": "timm/resnet18", "pretrained": True}, "its model says 'pretrained': refused"),
        ({"key": "hf/./evil"}, "its model 'hf/./evil' is a folder or on the hub"),
        ({"key": "hf//tmp/evil"}, "is a folder or on the hub"),
        ({"key": "hf/$HOME"}, "is a folder or on the hub"),
        ({"key": "hf/someone/evil"}, "is a folder or on the hub"),
    ],
)
def test_nothing_but_the_file_itself_is_asked(artifact: Path, model: dict[str, Any], says: str) -> None:
    rewritten(artifact, lambda m, _: m["model"].update(model))
    assert says in refusal(artifact)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["transforms"].append(
            {"target": "fc1:input", "name": "q", "key": "lsq-step", "config": {"bits": 2**31}}
        ),
        lambda m: m["structure"].update(layers={"fc1": {"key": "test-scaled", "config": {"size": [[2**31]]}}}),
    ],
)
def test_a_layers_setting_has_a_limit(artifact: Path, change: Any) -> None:
    rewritten(artifact, lambda m, _: change(m))
    assert "has a setting of 2147483648, more than 16,777,216" in refusal(artifact)


@pytest.mark.parametrize(
    ("where", "value"),
    [("__class__", "x"), ("_modules", {}), ("forward", "x"), ("training", False), ("_backward_hooks", {})],
)
def test_only_plain_attributes_are_set(artifact: Path, where: str, value: Any) -> None:
    rewritten(artifact, lambda m, _: m["structure"].update(attributes={"fc1": {where: value}}))
    assert "which is no plain attribute" in refusal(artifact)


# ------------------------------------------------------------------ memory


def peak() -> int:
    """Return the most memory that this process ever had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: m["model"].update(hidden=[30_000, 30_000]),
        lambda m, t: m["model"].update(hidden=[4] * 40_000),
        lambda m, t: m["model"].update(hidden=[10**12]),
        lambda m, t: m.update(model={"key": "vit", "dim": 3 * 2**20}),
        lambda m, t: m["facts"].update(outputs=10**8),
        lambda m, t: m["structure"].update(shapes={"fc1.weight": [50_000, 50_000]}),
        lambda m, t: m["structure"].update(layers={"fc1": {"key": "test-scaled", "config": {"size": 10**9}}}),
        lambda m, t: m["transforms"][0]["config"].update(size=10**9),
    ],
)
def test_a_net_that_is_too_large_takes_no_memory(artifact: Path, change: Any) -> None:
    refusal_before = peak()
    rewritten(artifact, change)
    assert artifact.stat().st_size < 100_000
    said = refusal(artifact)
    assert any(words in said for words in ("over the limit of 1,024; if you trust it, set", "more than", "possible")), (
        said
    )
    assert peak() < refusal_before + 200_000_000


def test_a_net_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counting(*arguments: Any) -> Any:
        built.append(ResNet(*arguments))
        return built[-1]

    monkeypatch.setattr(resnet, "ResNet", counting)
    found = open_artifact(Path(__file__).parent / "written/slim-integer/artifact.safetensors")
    assert found.model.key == "resnet8"
    assert len(built) == 1
    assert any(isinstance(module, torch.nn.Conv2d) for module in built[0].modules())


def test_what_is_computed_from_a_nets_tensors_is_sized_as_well() -> None:
    before = peak()
    with pytest.raises(ArtifactError, match="x: refused: its net needs 40,000 MB or more"), bounded("x"):
        torch.ones(100_000, 1) * torch.ones(1, 100_000)
    with pytest.raises(ArtifactError, match="needs 1,200 MB or more"), bounded("x"):
        torch.empty(100_000_000).double()
    assert peak() < before + 1_000_000_000


def test_the_limit_can_be_raised(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outputs(load(artifact, REGISTRY))
    monkeypatch.setenv(LIMIT, "0.001")
    assert f"needs 1 MB or more, over the limit of 0; if you trust it, set {LIMIT}=1 or higher" in refusal(artifact)
    monkeypatch.setenv(LIMIT, "1")
    assert torch.equal(outputs(load(artifact, REGISTRY)), expected)
    monkeypatch.setenv(LIMIT, "many")
    with pytest.raises(CondenseryError, match="must be a positive number of megabytes, got 'many'"):
        load(artifact, REGISTRY)


def enlarged(manifest: Any) -> None:
    """Let a tensor and its codes say that they are huge: all codes equal, which no byte need be spent on."""
    record = manifest["tensors"]["fc1"]["weight"]
    record["parts"]["codes"] |= {"shape": [10**11], "config": {"bits": 0}, "bytes": {"data": 0}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m, t: m["tensors"]["fc1"]["weight"].update(shape=[10**11]),
            "'fc1.weight' has shape (100000000000,), not",
        ),
        (lambda m, t: m["tensors"]["fc1"]["bias"]["bytes"].update(data=1 << 60), "data: must be <"),
        (lambda m, t: m["tensors"]["fc1"]["bias"]["bytes"].update(data=1 << 40), "its records say 10995"),
        (lambda m, t: m["tensors"]["fc1"]["bias"]["bytes"].update(data=-48), "must be >= 0"),
    ],
)
def test_lying_sizes_are_one_line(artifact: Path, change: Any, says: str) -> None:
    rewritten(artifact, change)
    assert says in refusal(artifact)


def test_a_stream_that_needs_no_bytes_is_no_larger_than_its_tensor(artifact: Path) -> None:
    def change(manifest: Any, tensors: Any) -> None:
        size = manifest["tensors"]["fc1"]["weight"]["parts"]["codes"]["bytes"]["data"]
        enlarged(manifest)
        tensors["fc1"] = tensors["fc1"][size:]
        manifest["crc"]["fc1"] = zlib.crc32(tensors["fc1"].numpy().tobytes())

    rewritten(artifact, change)
    assert "its stream 'codes' has more numbers than the tensor" in refusal(artifact)


def test_a_manifest_is_unpacked_no_further_than_it_may_be_long(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(artifact, lambda m, _: m.update(blank=" " * 5_000_000))
    assert artifact.stat().st_size < 20_000
    assert "it unpacks to more than 4,000,000 bytes" in refusal(artifact)
    with pytest.raises(ArtifactError, match="more than 4,000,000"):
        read(artifact, REGISTRY)


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float) -> None:
    from tests.core.storage.test_artifact import net

    model = net()
    with torch.no_grad():
        model.get_parameter("fc3.bias")[2] = value
    saved(tmp_path / "a.safetensors", model)
    assert "'fc3.bias' has numbers that are infinite or not a number" in refusal(tmp_path / "a.safetensors")


def test_what_is_good_is_still_read(artifact: Path) -> None:
    found = open_artifact(artifact, REGISTRY)
    assert found.model == SPEC
    assert found.net(TASK.example(2)).abs().sum() > 0
