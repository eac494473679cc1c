from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.catalogue.commands import condensery

from condensery import Registry
from condensery.contract import Taxonomy
from condensery_catalogue.listing import FACETS
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.running import stoppable
from condensery_catalogue.showing import show_card

COMMAND = [sys.executable, "-m", "condensery_catalogue.cli"]
RECIPE = """
model: {key: resnet8, width: 0.5}
task: digits
base: none
data: {subset: {size: 64}}
train: {epochs: 1, batch_size: 32}
stages:
  - magnitude
  - {name: distil, methods: [{hinton-kd: {T: 2}}], teacher: original}
"""


def test_list_and_show_import_no_torch() -> None:
    for arguments in (["list"], ["show", "qkd"], ["list", "--json"]):
        code = (
            f"import sys; sys.argv = ['condensery', *{arguments!r}]\n"
            "from condensery_catalogue.cli import main\n"
            "try: main()\nexcept SystemExit: pass\n"
            "heavy = [m for m in ('torch', 'timm', 'transformers', 'optuna') if m in sys.modules]\n"
            "print('HEAVY', heavy)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_list_by_family() -> None:
    rows = json.loads(condensery("list", "--family", "pruning", "--json").stdout)
    assert {"magnitude", "network-slimming"} <= {r["key"] for r in rows}
    assert {r["family"] for r in rows} == {"pruning"}


@pytest.mark.parametrize(
    ("facet", "word", "has", "lacks"),
    [
        ("--network", "ViT", "lsq", "network-slimming"),
        ("--granularity", "filter", "thinet", "magnitude"),
        ("--year", "2016-2017", "thinet", "obs"),
        ("--scheme", "self", "be-your-own-teacher", "hinton-kd"),
        ("--teacher-source", "co-trained", "deep-mutual-learning", "hinton-kd"),
    ],
)
def test_list_by_any_facet(facet: str, word: str, has: str, lacks: str) -> None:
    keys = {row["key"] for row in json.loads(condensery("list", facet, word, "--json").stdout)}
    assert has in keys
    assert lacks not in keys


def test_a_year_without_an_entry_is_named() -> None:
    for word in ("2050", "2050-2060", "1900"):
        done = condensery("list", "--year", word)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: unknown year '{word}'; did you mean '")
    assert "\n1 entry. condensery show KEY" in condensery("list", "--year", "1989").stdout


def test_facets_are_the_taxonomys() -> None:
    fields = {name.replace("_", "-") for name in Taxonomy.model_fields}
    assert fields < set(FACETS)
    assert set(FACETS) - fields == {"family", "network", "domain", "year", "status"}


def test_list_names_reference_identity_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    lines = condensery("list").stdout.splitlines()
    (lsq,) = [line for line in lines if line.startswith(" lsq ")]
    assert "[36]?" in lsq
    assert " CVT " in lsq
    assert any("T Transformer" in line and "[36]? marks a guess" in line for line in lines)
    assert len(lines) < 1.3 * len(Registry.open().keys("papers"))  # most entries fit in one line of 140 columns


@pytest.mark.parametrize("columns", ["80", "200"])
def test_list_cuts_no_word(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = condensery("list").stdout
    assert "…" not in out
    assert all(len(line) <= int(columns) for line in out.splitlines())
    assert all(r["key"] in out for r in json.loads(condensery("list", "--json").stdout))


def test_show_marks_recalled_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    out = " ".join(condensery("show", "lsq").stdout.split())
    assert "70.5 (second-hand)" in out
    assert "(recalled, not read)" in condensery("show", "obs").stdout
    assert "beware: The step must stay positive and have no weight decay." in out
    assert "guess" in out
    assert "It could also be: " in out
    card = json.loads(condensery("show", "lsq", "--json").stdout)
    assert card["claims"][0]["baseline"]["source"] == "second-hand"
    assert card["reproduction"] == "desk"


@pytest.mark.parametrize("columns", ["80", "200"])
def test_every_card_can_be_shown(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the terminal's width, but for addresses, which stay whole; what it says to type is there."""
    monkeypatch.setenv("COLUMNS", columns)
    registry = Registry.open()
    for row in json.loads(condensery("list", "--json").stdout):
        show_card(row["key"], as_json=False)
        out = capsys.readouterr().out
        assert row["name"] in " ".join(out.split())
        assert all(len(line) <= int(columns) for line in out.splitlines() if " " in line.strip()), row["key"]
        for tier in re.findall(r"reproduce: condensery reproduce \S+ --tier (\w+)", out):
            assert tier in load_reproduction(registry, row["key"]).tiers


BAD = [
    (["show", "hinton-kdd"], "did you mean 'hinton-kd'"),
    (["list", "--family", "prunning"], "did you mean 'pruning'"),
    (["run", "nowhere.yaml"], "no such file: nowhere.yaml"),
    (["run", "broken.yaml"], "broken.yaml: line 2"),
    (["run", "list.yaml"], "a recipe is a mapping"),
    (["run", "good.yaml", "--set", "stages.1.hinton-kd.T=0"], "hinton-kd.T must be > 0, got 0"),
    (["run", "good.yaml", "--set", "stages.1.hinton-kd.T=-1"], "hinton-kd.T must be > 0, got -1"),
    (["run", "good.yaml", "--set", "stages.1.hinton-kd.Temp=1"], "unknown hyper-parameter 'Temp'"),
    (["run", "good.yaml", "--set", "model=resnet9"], "did you mean 'resnet"),
    (["run", "good.yaml", "--set", "task=digit"], "did you mean 'digits'"),
    (["run", "good.yaml", "--set", "task=word-language"], "text"),
    (["run", "good.yaml", "--set", "train.epocs=1"], "did you mean 'epochs'"),
    (["run", "good.yaml", "--device", "cuda:99"], "cuda:99"),
    (["run", "good.yaml", "--device", "gpu"], "unknown device 'gpu'"),
    (["run", "good.yaml", "--out", "nowhere", "--resume"], "nothing to resume: nowhere"),
    (["compose", "magnitude -"], "quote the composition"),
    (["compose", "lsq -> lsq", "--out", "o"], "lsq is not applicable"),
    (["compose", "network-slimming", "--model", "vit", "--out", "o"], "batch normalization"),
    (["compose", "magnitude", "--task", "cifar10", "--out", "o"], "data set 'cifar10' not found"),
    (["run", "good.yaml", "--set", "stages.1.teacher=stage:nowhere", "--json"], "no net 'stage:nowhere'"),
    (["reproduce", "hinton"], "did you mean 'hinton-kd'"),
    (["reproduce", "hinton-kd", "--tier", "dsk"], "did you mean 'desk'"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "good.yaml").write_text(RECIPE)
    (tmp_path / "broken.yaml").write_text("model: {key: a\nstages: [")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    done = condensery(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert "Traceback" not in done.stderr
    if "--json" in arguments:
        assert json.loads(done.stdout) == {"error": errors[0].removeprefix("error: ")}
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "o").exists()


def test_an_error_of_a_whole_process_is_one_line_and_exit_2() -> None:
    done = subprocess.run([*COMMAND, "show", "hinton-kdd"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_run_writes_a_whole_report(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    arguments = ["run", "r.yaml", "--seed", "3", "--out", "o", "--set", "stages.distil.hinton-kd.T=3"]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["seed"] == 3
    assert set(report) >= {
        "recipe",
        "seed",
        "tier",
        "device",
        "versions",
        "before",
        "after",
        "ratios",
        "stages",
        "wall_s",
    }
    assert (
        set(report["before"])
        == set(report["after"]) - {"storage"}
        >= {"parameters", "effective_macs", "bytes", "quality"}
    )
    assert None not in report["ratios"].values()
    assert report["after"]["bytes"] == (tmp_path / "o" / "artifact.safetensors").stat().st_size
    assert report["recipe"]["stages"][1]["methods"][0]["settings"]["T"] == 3
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "artifact.safetensors",
        "log.jsonl",
        "recipe.json",
        "report.json",
    ]
    again = condensery("run", "r.yaml", "--seed", "3", "--out", "o", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr


def test_explain_prints_the_call_order(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = condensery("run", "r.yaml", "--explain", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert [s["name"] for s in said["stages"]] == ["magnitude", "distil"]
    assert said["stages"][1]["calls"]["loss_terms"] == ["hinton-kd"]
    assert not (tmp_path / "runs").exists()


def test_killed_and_resumed_equals_a_whole_run(tmp_path: Path) -> None:
    """SIGKILL in the middle of a stage; the resumed run ends with the same terms and quality, digit for digit."""
    (tmp_path / "r.yaml").write_text(RECIPE.replace("size: 64", "size: 512").replace("epochs: 1", "epochs: 6"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = condensery("run", "r.yaml", "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    job = subprocess.Popen(
        [*COMMAND, "run", "r.yaml", "--out", "cut"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    waited = time.monotonic()
    while not (tmp_path / "cut" / "progress.safetensors").exists():
        assert job.poll() is None, "it ended before it could be killed"
        assert time.monotonic() - waited < 120
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "cut" / "report.json").exists()
    resumed = condensery("run", "r.yaml", "--out", "cut", "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr

    def told(folder: str) -> list[object]:
        report = json.loads((tmp_path / folder / "report.json").read_text())
        rows = [(s["name"], h["epoch"], h["terms"], h["quality"]) for s in report["stages"] for h in s["history"]]
        return [*rows, report["after"]["quality"], report["after"]["nonzeros"]]

    assert told("whole") == told("cut")


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for says in ("nothing was written", "go on with the same command"):
        with pytest.raises(SystemExit) as stopped, stoppable(tmp_path / "out", "the same command"):
            raise KeyboardInterrupt
        assert stopped.value.code == 130
        assert says in capsys.readouterr().err
        (tmp_path / "out").mkdir(exist_ok=True)


def test_ctrl_c_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("size: 64", "size: 512").replace("epochs: 1", "epochs: 30"))
    job = subprocess.Popen(
        [*COMMAND, "run", "r.yaml", "--out", "o"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A suite that runs in the background ignores Ctrl-C, and what it starts would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (one call into C)
    )
    waited = time.monotonic()
    while not (tmp_path / "o" / "progress.safetensors").exists() and time.monotonic() - waited < 120:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "o" / "progress.safetensors").exists()
