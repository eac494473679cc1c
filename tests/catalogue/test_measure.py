from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.commands import condensery

from condensery import Run, UsageError
from condensery.contract import Registry
from condensery.recipe import parse_recipe
from condensery_catalogue.measuring import measure_target
from condensery_catalogue.running import print_report

RESNET8 = 9 * 64 * (8 + 2 * 64) + 9 * 16 * (128 + 256) + 9 * 4 * (512 + 1024) + 320
"""Half as wide, on 8x8 pixels of digits: 1 to 8 channels and twice 8 to 8; 8 to 16, 16 to 16; 16 to 32, 32 to 32."""


def said(capsys: pytest.CaptureFixture[str], target: str, task: str | None = None, **options: Any) -> dict[str, Any]:
    measure_target(target, task, "cpu", **options, as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_model_by_its_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "resnet8(width=0.5)", "digits", layers=True)
    assert found["macs"] == RESNET8 == 189_248
    assert (found["task"], found["device"], found["quality"]) == ("digits", "cpu", {})
    assert found["bytes"] > 4 * found["parameters"]
    layers = {row["path"]: row for row in found["layers"]}
    assert sum(row["macs"] for row in found["layers"]) == found["macs"]
    assert sum(row["parameters"] for row in found["layers"]) == found["parameters"]
    assert layers["layer1.0.conv1"] == {
        "path": "layer1.0.conv1",
        "class": "Conv2d",
        "parameters": 576,
        "nonzeros": 576,
        "macs": 36_864,
        "effective_macs": 36_864,
        "bitops": 36_864 * 1024,
        "moved_bytes": 4 * (576 + 2 * 8 * 64),
        "bits": [[32, 32]],
    }
    assert (layers["bn1"]["macs"], layers["bn1"]["bits"]) == (0, [])


@pytest.mark.parametrize(
    ("target", "task"), [("resnet20", "cifar10"), ("lenet-300-100", "digits"), ("transformer", "cola")]
)
def test_without_a_task_a_model_gets_one_that_it_is_the_default_of(
    target: str, task: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path))
    assert said(capsys, target)["task"] == task


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A net of 4 bits, half of it zero, and what its run reported."""
    data = {
        "model": {"key": "resnet8", "width": 0.5},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16},
        "stages": [{"methods": [{"lsq": {"edge_bits": 4}}]}, "magnitude"],
    }
    out = tmp_path_factory.mktemp("run") / "o"
    return Run(parse_recipe(data), Registry.open(), out=out, device="cpu").execute(), out


def test_an_artifact_measures_as_its_run_did(
    run: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report, out = run
    found = said(capsys, str(out / "artifact.safetensors"), layers=True)
    exact = (
        "parameters", "nonzeros", "macs", "effective_macs", "bitops", "moved_bytes", "bytes", "memory_bytes", "quality",
    )  # fmt: skip
    assert {k: found[k] for k in exact} == {k: report["after"][k] for k in exact}
    assert found["bitops"] == RESNET8 * 4 * 4
    assert found["effective_macs"] < RESNET8
    assert {tuple(map(tuple, row["bits"])) for row in found["layers"]} == {(), ((4, 4),)}
    assert found["sizes"]["file"] == found["bytes"] == (out / "artifact.safetensors").stat().st_size
    assert report["ratios"]["bitops"] == 64.0
    assert report["ratios"]["compression_rate"] == report["before"]["bytes"] / report["after"]["bytes"]


def test_a_run_says_what_collapsed(run: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]) -> None:
    report, out = run
    entries = [{"stage": "lsq", "methods": ["lsq"], "what": ["conv1"]}, {"stage": "t", "methods": [], "what": ["fc"]}]
    print_report(report | {"collapsed": entries}, out)
    said = [line for line in capsys.readouterr().out.splitlines() if "collapsed" in line]
    assert said == ["collapsed in stage lsq (lsq): conv1", "collapsed in stage t (no method): fc"]


@pytest.mark.parametrize("columns", ["80", "100"])
def test_tables_cut_no_word(
    columns: str,
    run: tuple[dict[str, Any], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    report, out = run
    print_report(report, Path("o"))
    measure_target("resnet8", "digits", "cpu", layers=True, batched=True)
    measure_target(str(out / "artifact.safetensors"), None, "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= int(columns) for line in lines if "artifact.safetensors" not in line)
    text = "\n".join(lines)
    assert "…" not in text
    for word in (
        "bit operations",
        "64.00x",
        "layer3.0.conv2",
        "BatchNorm2d",
        "32x32",
        "% removed",
        " manifest",
        "examples per second",
    ):
        assert word in text


def test_unknown_work_is_a_dash_and_a_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from condensery.measure import ops

    monkeypatch.delitem(ops.PRODUCTS, next(k for k in ops.PRODUCTS if k.__name__ == "convolution"))
    measure_target("resnet8", "digits", "cpu", layers=True)
    lines = capsys.readouterr().out.splitlines()
    assert "MACs of ResNet can't be counted: unknown op aten.convolution" in lines
    (row,) = [line.split() for line in lines if line.split()[:1] == ["MACs"] and "of" not in line]
    assert row == ["MACs", "-"]
    (layer,) = [line.split() for line in lines if line.strip().startswith("conv1 ")]
    assert layer == ["conv1", "Conv2d", "144", "144", "-", "-"]


@pytest.mark.parametrize(
    ("target", "task", "device", "says"),
    [
        ("resnet21", None, "auto", "did you mean 'resnet"),
        ("resnet20(widht=2)", None, "auto", "did you mean 'width'"),
        ("resnet20(init_from=student)", None, "auto", "'init_from' copies the net of a role"),
        ("resnet8", "digit", "auto", "did you mean 'digits'"),
        ("resnet8", None, "gpu", "unknown device 'gpu'"),
        ("hf/bert", None, "auto", "takes texts, the task gives images"),
        ("other.safetensors", None, "auto", "other.safetensors: not an artifact, or damaged"),
    ],
)
def test_bad_input_says_what_is_wrong(
    target: str, task: str | None, device: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    with pytest.raises(UsageError) as raised:
        measure_target(target, task, device)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_ends_with_one_line_and_exit_2(tmp_path: Path) -> None:
    done = condensery("measure", "nowhere.safetensors", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: no such file: nowhere.safetensors\n"
    assert json.loads(done.stdout) == {"error": "no such file: nowhere.safetensors"}
