from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.core.helpers import recipe, registry
from torch import nn

from condensery import Registry, Run
from condensery.errors import UsageError
from condensery.recipe import ModelSpec
from condensery.storage import build_with_weights, load, load_weights
from condensery_plugins.tasks.digits import Digits

REGISTRY = Registry.open()


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 200,000 bytes: 50 pages of 4,000."""
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 50, "SC_PAGE_SIZE": 4000}.__getitem__)


def built(**settings: Any) -> nn.Module:
    spec = ModelSpec.model_validate({"key": "mlp", **settings})
    return build_with_weights(spec, Digits().facts, REGISTRY, 0)


@pytest.mark.usefixtures("little_memory")
def test_a_net_may_fill_half_of_the_memory() -> None:
    """64-n-10 has 75 n + 10 numbers of 4 bytes: 333 units are 99,940 bytes, 334 are 100,240."""
    assert sum(p.numel() * 4 for p in built(hidden=[333]).parameters()) == 99_940
    with pytest.raises(UsageError, match=r"^model 'mlp': needs 1 MB or more, more than half of this machine's 0$"):
        built(hidden=[334])
    nn.Linear(100_000, 1)  # what is built elsewhere isn't looked at


def test_a_tensor_that_no_memory_holds_is_one_line() -> None:
    with pytest.raises(UsageError, match="model 'mlp': a tensor of it needs more memory than this machine has"):
        built(hidden=[10**13])


def test_a_net_has_so_many_tensors_at_most() -> None:
    with pytest.raises(UsageError, match="model 'mlp': has more than 8,000 tensors"):
        built(hidden=[1] * 4000)
    with pytest.raises(UsageError, match="model 'vit': depth 8,001 is more than the 8,000 tensors that a net may have"):
        built(key="vit", depth=8001)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def saved(
    path: Path, change: dict[str, torch.Tensor | None] | None = None, prefix: str = ""
) -> dict[str, torch.Tensor]:
    tensors = {name: torch.rand_like(value.float()) for name, value in net().state_dict().items()}
    tensors["1.num_batches_tracked"] = torch.tensor(7)
    for name, value in (change or {}).items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file({prefix + name: value for name, value in tensors.items()}, path)
    return tensors


@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_tensor_is_copied(tmp_path: Path, prefix: str) -> None:
    tensors = saved(tmp_path / "w.safetensors", prefix=prefix)
    model = net()
    load_weights(model, tmp_path / "w.safetensors", REGISTRY)
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_batch_counts_may_be_absent(tmp_path: Path) -> None:
    tensors = saved(tmp_path / "w.safetensors", {"1.num_batches_tracked": None})
    model = net()
    load_weights(model, tmp_path / "w.safetensors", REGISTRY)
    assert torch.equal(model.state_dict()["1.running_mean"], tensors["1.running_mean"])


def test_environment_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "w.safetensors")
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path))
    load_weights(net(), "$CONDENSERY_DATA/w.safetensors", REGISTRY)
    monkeypatch.delenv("CONDENSERY_DATA")
    with pytest.raises(UsageError, match="environment variable CONDENSERY_DATA is not set"):
        load_weights(net(), "$CONDENSERY_DATA/w.safetensors", REGISTRY)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"1.running_var": torch.ones(5)}, r"'1.running_var' has shape \(5,\), the net wants \(4,\)"),
        ({"1.running_var": None, "1.runing_var": torch.ones(4)}, "no tensor '1.running_var'; the file has '1.runing_"),
        ({"2.weight": torch.ones(4)}, "the net has no tensor '2.weight'"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    tmp_path: Path, change: dict[str, torch.Tensor | None], says: str
) -> None:
    saved(tmp_path / "w.safetensors", change)
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=says):
        load_weights(model, tmp_path / "w.safetensors", REGISTRY)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    for source, says in (
        (tmp_path / "none.safetensors", "no such file"),
        (tmp_path / "w.pt", "only safetensors files are read, not .pt"),
        (tmp_path / "bad.safetensors", "damaged or not safetensors"),
    ):
        with pytest.raises(UsageError, match=says):
            load_weights(net(), source, REGISTRY)


def test_an_artifact_gives_the_net_that_it_holds(tmp_path: Path) -> None:
    job = Run(recipe([]), registry(), out=tmp_path / "run")
    job.execute()
    assert job.baked is not None
    spec = ModelSpec(key="resnet8", width=0.5, weights=str(tmp_path / "run" / "artifact.safetensors"))
    found = build_with_weights(spec, Digits().facts, registry(), 99).state_dict()
    for name, value in job.baked.net.state_dict().items():
        assert torch.equal(found[name], value)


def test_a_cut_net_is_trained_on_from_its_artifact(tmp_path: Path) -> None:
    stage = {"methods": [{"l1-filter-pruning": {"ratio": 0.5}}], "epochs": 0}
    first = Run(recipe([stage]), registry(), out=tmp_path / "first").execute()
    assert first["after"]["parameters"] < first["before"]["parameters"]

    weights = str(tmp_path / "first" / "artifact.safetensors")
    model = {"key": "resnet8", "width": 0.5, "weights": weights}
    more = Run(recipe([{"methods": ["magnitude"]}], model=model), registry(), out=tmp_path / "more").execute()
    assert more["before"]["parameters"] == first["after"]["parameters"]
    assert more["before"]["quality"] == first["after"]["quality"]
    assert more["after"]["nonzeros"] < more["after"]["parameters"] == first["after"]["parameters"]
    assert len(more["stages"][0]["history"]) == 1
    kept, before = (load(tmp_path / run / "artifact.safetensors", registry()).state_dict() for run in ("more", "first"))
    assert {n: v.shape for n, v in kept.items()} == {n: v.shape for n, v in before.items()}


def test_an_artifact_of_another_model_is_refused(tmp_path: Path) -> None:
    Run(recipe([]), registry(), out=tmp_path / "run").execute()
    weights = str(tmp_path / "run" / "artifact.safetensors")
    for key, says in (("resnet20", "an artifact of resnet8, not of resnet20"), ("resnet8", "has shape")):
        with pytest.raises(UsageError, match=says):
            build_with_weights(ModelSpec(key=key, weights=weights), Digits().facts, registry(), 0)


def test_a_package_may_bring_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_nets" / "trained").mkdir(parents=True)
    (tmp_path / "some_nets" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "some_nets-1.dist-info").mkdir()
    (tmp_path / "some_nets-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: some_nets\nVersion: 1\n")
    (tmp_path / "some_nets-1.dist-info" / "top_level.txt").write_text("some_nets\n")
    tensors = saved(tmp_path / "some_nets" / "trained" / "w.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    model = net()
    load_weights(model, "some_nets:trained/w.safetensors", REGISTRY)
    assert torch.equal(model.state_dict()["0.weight"], tensors["0.weight"])
    with pytest.raises(UsageError, match="no such file"):
        load_weights(model, "some_nets:trained/v.safetensors", REGISTRY)
    with pytest.raises(UsageError, match="the package no_nets is not installed"):
        load_weights(model, "no_nets:trained/w.safetensors", REGISTRY)


@pytest.mark.parametrize("source", ["evil:w.safetensors", "evil.inner:w.safetensors"])
def test_a_package_in_the_current_folder_is_neither_imported_nor_read(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the current folder is importable, and a recipe that a stranger wrote may name it."""
    (tmp_path / "evil" / "inner").mkdir(parents=True)
    for folder in (tmp_path / "evil", tmp_path / "evil" / "inner"):
        (folder / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        saved(folder / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"the package evil\S* is not installed"):
        load_weights(net(), source, REGISTRY)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.full((4,), torch.nan), "has numbers that are infinite or not a number"),
        (torch.full((4,), 1e300, dtype=torch.float64), "has numbers that are infinite"),
        (torch.ones(4, dtype=torch.int64), r"is torch\.int64, the net wants torch\.float32"),
    ],
)
def test_numbers_that_are_none_are_named(value: torch.Tensor, says: str, tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", {"1.bias": value})
    with pytest.raises(UsageError, match=f"'1.bias' {says}"):
        load_weights(net(), tmp_path / "w.safetensors", REGISTRY)
