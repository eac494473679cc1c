"""Mistakes that people make on the command line: one line each that names the culprit and the nearest right thing."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from tests.catalogue.commands import condensery

from condensery.run import Progress
from condensery.tasks import stored_arrays
from condensery_catalogue.showing import show_card

ON_DIGITS = (
    "--task digits --epochs 1 --model resnet8 --set base=none --set data.subset.size=32 --set train.batch_size=16"
)
"""What stands for ``...`` in a line."""

MISTAKES = [
    ("compose magntude ...", "unknown method 'magntude'; did you mean 'magnitude'?"),
    ("compose magnitude --task digit", "unknown task 'digit'; did you mean 'digits'?"),
    ("compose 'magnitude(sparsty=0.5)' ...", "unknown hyper-parameter 'sparsty'; did you mean 'sparsity'?"),
    ("compose magnitude - ...", "quote the composition: .* shell redirect, and the shell has made a file named as"),
    ("compose 'magnitude -> hinton-kd{teacher=orginal}' ...", "unknown role 'orginal'; did you mean 'original'?"),
    ("compose 'magnitude -> hinton-kd{teacher=magnitud}' ...", "unknown role 'magnitud'; did you mean 'magnitude'?"),
    ("compose 'network-slimming(ratio=1.5)' ...", "network-slimming.ratio must be .*, got 1.5"),
    ("compose 'magnitude -> hinton-kd{teacher=q}' ...", "unknown model 'q'; known: cell-detector"),
    ("compose magnitude --task mnist", "data set 'mnist' not found .*; looked in: .*Hugging Face Hub 'ylecun/mnist'"),
    (
        "reproduce qkd --tier desk",
        "qkd, desk: not all .*'cifar10' not found .*'uoft-cs/cifar10'.*resnet20.safe.*akamaster/.*resnet32.safe",
    ),
    ("compose magnitude --model hf//nonexistent/path --task sst2", "no such folder: /nonexistent/path"),
    ("compose magnitude ... --out /proc/xyz", "/proc/xyz can't be written"),
    ("compose magnitude ... --out file", "file can't be written"),
    ("compose magnitude ... --device gpu", "unknown device 'gpu'; did you mean 'cuda'?"),
    ("compose magnitude ... --device cuda:99", "cuda:99"),
    ("list --status reproduced", "no entry has all of these: status 'reproduced'"),
    (
        "list --family distillation --knowledge relation --scheme online",
        "no entry has all of these: family 'distillation', knowledge 'relation', scheme 'online'",
    ),
    ("list --scheme onlin", "unknown scheme 'onlin'; did you mean 'online'?"),
    ("compose takd ...", "'takd' is made of several methods; it is spelt: hinton-kd"),
    ("compose magnitude ... --resume", "--resume: say --out, the folder that holds the run"),
    ("compose magnitude ... --seed -1", "Invalid value for '--seed'"),
    ("compose magnitude ... --nosuch", "No such option: --nosuch"),
    ("compose magnitude ... --set stages.0.magnitde.sparsity=0.3", "did you mean 'magnitude'"),
    ("compose magnitude ... --set train.learning_rate=0.3", "unknown field 'learning_rate'"),
    ("compose magnitude ... --set train.epochs=abc", "train: epochs: .*'abc'"),
    ("compose 'network-slimming -> lsq' --model vit ...", "network-slimming is not applicable: .*batch normalization"),
    ("compose magnitude ... --model resnet21", "unknown model 'resnet21'; did you mean 'resnet20'?"),
    (
        "compose magnitude --model hf/bert-base-uncased --task sst2",
        "a published net has its owner, or a folder: hf/OWNER/bert-base-uncased.weights=hub.",
    ),
    (
        "compose magnitude ... --model ./mymodel.pt",
        "unknown model './mymodel.pt'; a net of your own: --plugin FILE.py .* condensery.compress",
    ),
    (
        "compose magnitude ... --model torchvision/resnet18",
        "timm/resnet18 is the same net; a net of your own: --plugin .* condensery.compress",
    ),
    (
        "compose magnitude --model google/vit-base --task digits",
        "unknown model 'google/vit-base'.*; a published net is timm/vit-base or hf/google/vit-base",
    ),
    ("compose 'lsq -> lsq' ...", "lsq is not applicable"),
    (
        "compose 'qkd -> qkd(phase=co-study){teacher=original, players={teacher={train=false}}}' ...",
        "qkd is not applicable: in co-study the teacher trains too: add players={teacher={train=true}} to the stage's",
    ),
    ("compose huffman ...", "there is nothing to code; put a method before it that prunes or shares weights"),
    ("list --family prunning", "did you mean 'pruning'"),
    ("show magnitud", "did you mean 'magnitude'"),
    ("reproduce hinton-kd --tier full", "unknown tier 'full'; known: .*desk"),
    ("measure resnet21", "unknown model 'resnet21'; did you mean 'resnet20'?"),
    ("measure ./mymodel.pt", "unknown model './mymodel.pt'; a net of your own: --plugin"),
    ("inspect nope.safetensors", "nope.safetensors"),
    ("compose 'hinton-kd{teacher=original, techer=x}' ...", "unknown stage field 'techer'; did you mean 'teacher'?"),
    ("nosuch", "No such command 'nosuch'"),
    ("compose magnitude ... --out ''", "--out is empty; is a variable not set?"),
    ("demo --out=", "--out is empty; is a variable not set?"),
    ("results export r ''", "the word after 'r' is empty"),
]


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data, nets that were trained before, and a network."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def arguments(line: str) -> list[str]:
    """Return a line's words; what it says of its own comes after what ``...`` stands for, and counts."""
    before, dots, after = line.partition(" ...")
    words = shlex.split(before)
    return [*words[:2], *shlex.split(ON_DIGITS), *words[2:], *shlex.split(after)] if dots else words


@pytest.mark.parametrize(("line", "says"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_2(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = condensery(*arguments(line), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    assert re.search(says, said), said
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["file"]


RUNS = [
    ("compose magnitude --task digits --model mlp --set base=none --epochs 5", "about 105 steps in all"),
    ("compose 'magnitude -> hinton-kd' ...", "names no teacher for hinton-kd: it gets the original net"),
    (
        "compose 'hinton-kd{teacher=original, student=resnet20}' ...",
        r"hinton-kd: the student is larger than its teacher: 269,434 parameters, teacher 75,002",
    ),
]


@pytest.mark.parametrize(("line", "says"), RUNS, ids=[line for line, _ in RUNS])
def test_what_may_be_meant_runs_and_is_said(line: str, says: str, tmp_path: Path) -> None:
    done = condensery(*arguments(line), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stderr), done.stderr


def test_the_line_that_show_prints_of_qkd_is_one_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    show_card("qkd", as_json=False)
    out = " ".join(capsys.readouterr().out.split())
    spelt = out.partition("spelt: ")[2].partition(" reproduce: ")[0]
    assert spelt.count("->") == 2
    said = condensery(*arguments(f"compose '{spelt}' ... --explain --json"), cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert [stage["methods"] for stage in json.loads(said.stdout)["stages"]] == [["qkd"]] * 3


def test_a_folder_that_holds_a_run_is_kept(tmp_path: Path) -> None:
    done = condensery(*arguments("compose magnitude ... --out r"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "r" / "report.json").read_bytes()
    for line, says in (
        ("compose magnitude ... --out r", "r holds a run already; say --resume"),
        ("compose 'magnitude(sparsity=0.7)' ... --out r --resume", "r holds a run of another recipe; say another"),
    ):
        again = condensery(*arguments(line), cwd=tmp_path)
        assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
        assert says in again.stderr
    assert (tmp_path / "r" / "report.json").read_bytes() == report


def test_traceback_shows_where_an_error_arose() -> None:
    done = condensery("show", "magnitud", "--traceback")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert "showing.py" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: unknown method")


def test_lines_in_a_pipe_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Every epoch of ten, and every tenth part of many."""
    with Progress() as shown:
        for epochs in (10, 234):
            for epoch in range(epochs):
                shown.epoch("s", epoch + 1, epochs, "")
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 10
            assert f"epoch {epochs}/{epochs}" in lines[-1]


@pytest.mark.parametrize(
    "line",
    [
        *("compose magnitude --task cifar10", "reproduce lsq", "measure resnet20", "fit resnet20", "demo", "data"),
        *("inspect torch/net.safetensors", "matrix", "check builtin", "site build --out site"),
    ],
)
def test_the_first_sign_of_life_comes_before_torch_is_loaded(line: str, tmp_path: Path) -> None:
    """Loading torch takes seconds. Here another module of that name says that it is loaded, and ends the command."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos.write(2, b'LOADED')\nos._exit(0)\n")
    (tmp_path / "torch" / "net.safetensors").write_bytes(b"no artifact")
    job, terminal = pty.fork()
    if job == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        os.execv(sys.executable, [sys.executable, "-m", "condensery_catalogue.cli", *line.split()])
    said = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while more := os.read(terminal, 1000):
            said += more
    os.waitpid(job, 0)
    os.close(terminal)
    assert re.fullmatch(rb"(starting|measuring|reading|loading tasks|loading builtin)\.\.\.\r.*LOADED", said), said


@pytest.mark.slow
def test_long_work_says_how_many_steps_it_has_and_how_long_they_take(tmp_path: Path) -> None:
    """Half of the base's 60 epochs come on top of them; each has 50,000 / 128 = 391 steps, in all 35,190."""
    with mock.patch.dict(os.environ, {"CONDENSERY_CACHE": str(tmp_path / "cache")}):
        arrays = {
            f"{split}_{what}": np.zeros((size, *shape), np.uint8)
            for split, size in (("train", 50_000), ("test", 10_000))
            for what, shape in (("images", (3, 32, 32)), ("labels", ()))
        }
        stored_arrays("cifar10", list(arrays), lambda: arrays)
    job = subprocess.Popen(
        [sys.executable, "-m", "condensery_catalogue.cli", "compose", "magnitude", "--task", "cifar10"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CONDENSERY_DATA": ""},
    )
    assert job.stderr is not None
    said = []
    for line in job.stderr:
        said.append(line.strip())
        if re.match(r"about .* (minutes|hours) in all", line):
            break
    job.send_signal(signal.SIGINT)
    rest = job.communicate(timeout=120)[1]
    assert said[0].startswith("model resnet20, task cifar10, on ")
    assert "about 35,190 steps in all; a few of them tell how long they take" in said
    assert job.returncode == 130
    assert rest.splitlines()[-1].startswith("stopped: ")


def test_ctrl_c_at_once_is_one_line_and_exit_130(tmp_path: Path) -> None:
    """While torch is imported, which takes longer than a second."""
    job = subprocess.Popen(
        [sys.executable, "-m", "condensery_catalogue.cli", *arguments("compose magnitude ...")],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CONDENSERY_DATA": ""},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  (one call into C)
    )
    waited = time.monotonic()
    while "torch" not in Path(f"/proc/{job.pid}/maps").read_text() and time.monotonic() - waited < 60:
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate(timeout=60)
    assert job.returncode == 130, stderr
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("stopped")
