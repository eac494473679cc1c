from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import condensery
from condensery import Registry, Run, UsageError
from condensery.nets import attached
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse
from condensery_plugins.tasks.spoken_digits import BANDS, DATA, FRAMES, SpokenDigits, bands, log_mel

torch.set_num_threads(1)
there = DATA.find() is not None and importlib.util.find_spec("soundfile") is not None
recordings = pytest.mark.skipif(not there, reason="needs the recordings, and soundfile to read them")


def test_each_pitch_falls_in_its_band_and_silence_in_none() -> None:
    """Triangles that overlap by half: of the pitches between the first and the last top all weights sum to one."""
    triangles = bands()
    assert triangles.shape == (BANDS, 129)
    tops = triangles.argmax(1).tolist()
    assert tops == sorted(tops)
    assert torch.allclose(triangles.sum(0)[tops[0] + 1 : tops[-1]], torch.ones(()), atol=1e-5)

    seconds = torch.arange(8000) / 8000
    tone = log_mel(torch.sin(2 * torch.pi * 1000 * seconds))  # 1000 Hz is 1000 mel, of 2146
    assert tone.shape == (FRAMES, BANDS)
    assert tone[10:40].argmax(1).bincount().nonzero().flatten().tolist() == [round(1000 / 2146 * 33) - 1]
    silence = log_mel(torch.zeros(1))
    assert bool((silence == silence[0, 0]).all())


def test_recordings_that_are_missing_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"data set 'fsdd' not found \(recordings.flac, index.npz\)"):
        SpokenDigits().load("test")


@recordings
def test_the_splits_are_the_data_sets_own() -> None:
    task = SpokenDigits()
    for split, each in (("train", 270), ("test", 30)):
        stored, labels = task.load(split)  # type: ignore[arg-type]
        assert labels.bincount().tolist() == [each] * 10
        assert stored["frames"].shape == (10 * each, FRAMES, BANDS)
        assert bool(stored["frames"].isfinite().all())
        assert abs(float(stored["frames"].mean())) < 0.1
        assert float(stored["frames"].std()) == pytest.approx(1, abs=0.1)


@recordings
def test_deep_compression_of_a_recurrent_net(tmp_path: Path) -> None:
    """Pruned to a tenth, values shared, Huffman's code: a tenth of the file at most, and nearly as many are right."""
    stages: list[Any] = parse("magnitude(sparsity=0.9) -> kmeans-sharing -> huffman")
    for stage, epochs in zip(stages, (2, 1, 0), strict=True):
        stage["epochs"] = epochs
    train = {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adam", "lr": 0.003}}
    data = {"model": "lstm", "task": "spoken-digits", "base": {"epochs": 4, "optimizer": {"lr": 0.01}}}
    registry = Registry.open()
    run = Run(parse_recipe(json.loads(json.dumps({**data, "train": train, "stages": stages}))), registry, out=tmp_path)
    report = run.execute()

    assert report["before"]["quality"]["accuracy"] > 70
    assert report["after"]["quality"]["accuracy"] > report["before"]["quality"]["accuracy"] - 3
    assert report["ratios"]["compression_rate"] > 10
    assert report["stages"][1]["report"]["magnitude.sparsity_percent"] == pytest.approx(90, abs=0.1)
    assert report["stages"][1]["report"]["magnitude.reached_percent"] > 98

    assert run.baked is not None
    loaded, inputs = condensery.load(tmp_path / "artifact.safetensors", registry), run.task.example(16)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), run.baked.net(inputs))
    weights = dict(loaded.named_parameters())
    levels = [len(weights[f"lstm.weight_{of}_l0"].unique()) for of in ("ih", "hh")]  # type: ignore[no-untyped-call]
    assert all(32 < number <= 64 for number in levels)


@recordings
def test_the_frames_are_quantized_once(tmp_path: Path) -> None:
    """One quantizer on what the LSTM reads, all frames through it, and none inside; 8 values reach the layer."""
    stages: list[Any] = parse("lsq(weight_bits=3, activation_bits=3, edge_bits=3)")
    train = {"epochs": 1, "max_steps": 2, "batch_size": 32}
    data = {"model": "lstm", "task": "spoken-digits", "base": "none", "train": train, "stages": stages}
    registry = Registry.open()
    report = Run(parse_recipe(json.loads(json.dumps(data))), registry, out=tmp_path).execute()
    net = condensery.load(tmp_path / "artifact.safetensors", registry)
    assert [item.target for item in attached(net)] == ["lstm:input", "head:input"]
    assert "left_out" not in report["stages"][-1]

    counts, seen = [], []
    stack = net.get_submodule("lstm.condensery_input")
    stack.register_forward_hook(lambda module, args, out: counts.append(tuple(out.shape)))
    net.get_submodule("lstm").register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        net(SpokenDigits().example(4))
    assert counts == [(4, FRAMES, BANDS)]
    assert 4 < len(seen[0].unique()) <= 8
