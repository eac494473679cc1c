from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensery import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.nets import build_net, resolve
from condensery.recipe import ModelSpec
from condensery.storage import bake, open_artifact, save_artifact
from condensery.tasks import TaskFacts
from condensery_plugins.models.transformers_text import build_hf, build_small

FACTS = TaskFacts("text", outputs=3, vocabulary=40, length=12)
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20}


def inputs(real: int = 12) -> dict[str, Tensor]:
    ids = torch.randint(4, 40, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(12) < real).long().expand(2, 12)
    return {"input_ids": ids * mask, "attention_mask": mask}


def logits(net: nn.Module, **given: Tensor) -> Tensor:
    with torch.no_grad():
        out = net(**given).logits
    assert isinstance(out, Tensor)
    return out


def test_the_small_net_has_the_size_it_was_asked_for() -> None:
    net = build_small(FACTS, "transformer", hidden=16, depth=3, heads=2, intermediate=20, width=0.5)
    assert net.get_parameter("bert.encoder.layer.2.intermediate.dense.weight").shape == (10, 8)
    assert net.get_parameter("bert.embeddings.word_embeddings.weight").shape == (40, 8)
    assert net.get_parameter("bert.embeddings.position_embeddings.weight").shape == (12, 8)
    assert resolve(net, "stages") == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert resolve(net, "logits") == ["classifier"]
    assert logits(net, **inputs()).shape == (2, 3)


def test_a_million_labels_are_refused_before_a_name_is_made_for_each() -> None:
    with pytest.raises(UsageError, match="at most 100,000 labels, the task 1,048,576"):
        build_small(TaskFacts("text", outputs=2**20, vocabulary=40, length=12), "transformer")


def test_eager_and_fused_attention_compute_the_same() -> None:
    nets = [build_small(FACTS, "transformer", attention=how).eval() for how in ("eager", "sdpa")]
    nets[1].load_state_dict(nets[0].state_dict())
    given = inputs(real=7)
    torch.testing.assert_close(logits(nets[0], **given), logits(nets[1], **given))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_is_masked_changes_nothing(attention: str) -> None:
    net = build_small(FACTS, "transformer", attention=attention).eval()
    given = inputs(real=7)
    other = {**given, "input_ids": torch.where(given["attention_mask"] == 1, given["input_ids"], 9)}
    torch.testing.assert_close(logits(net, **given), logits(net, **other))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bert", SMALL),
        ("distilbert", {"dim": 16, "n_heads": 2, "hidden_dim": 20}),
        ("roberta", SMALL),
        ("gpt2", {"n_embd": 16, "n_head": 2, "bos_token_id": None, "eos_token_id": None}),
    ],
)
def test_model_types_take_the_tasks_vocabulary(name: str, config: dict[str, Any]) -> None:
    net = build_hf(FACTS, name, depth=2, **config)
    assert len(resolve(net, "stages")) == 2
    assert any(m.num_embeddings == 40 for m in net.modules() if isinstance(m, nn.Embedding))
    assert logits(net.eval(), **inputs(real=7)).shape == (2, 3)


def test_a_folder_gives_its_config_and_its_weights_when_asked(tmp_path: Path) -> None:
    saved: Any = build_hf(FACTS, "bert", depth=1, **SMALL)
    saved.save_pretrained(tmp_path / "net")
    loaded = build_hf(FACTS, str(tmp_path / "net"), pretrained=True)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in saved.state_dict().items())
    fresh = build_hf(FACTS, str(tmp_path / "net"), depth=2)
    assert len(resolve(fresh, "stages")) == 2
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert fresh.get_parameter(name).shape == saved.get_parameter(name).shape
    assert not torch.equal(fresh.get_parameter(name), saved.get_parameter(name))
    larger = TaskFacts("text", outputs=3, vocabulary=30, length=12)
    with pytest.raises(UsageError, match="vocabulary of 40, the task's is 30; give the task the net's own tokenizer"):
        build_hf(larger, str(tmp_path / "net"), pretrained=True)


def test_an_artifact_of_a_net_from_a_folder_loads_without_the_folder(tmp_path: Path) -> None:
    saved: Any = build_hf(FACTS, "bert", depth=1, hidden_act="relu", **SMALL)
    saved.save_pretrained(tmp_path / "net")
    key = f"hf/{tmp_path / 'net'}"
    registry = Registry.open()
    net = build_net(ModelSpec(key=key, weights="hub"), FACTS, registry, 0).eval()
    path = tmp_path / "a.safetensors"
    save_artifact(path, bake(net, registry), ModelSpec(key=key, weights="hub"), FACTS, registry)
    shutil.rmtree(tmp_path / "net")
    again = open_artifact(path, registry)
    assert again.model.key == "hf/bert"
    assert torch.equal(logits(again.net, **inputs(real=7)), logits(net, **inputs(real=7)))
    assert str(tmp_path) not in str(again.manifest)


@pytest.mark.parametrize(
    ("name", "config", "error", "says"),
    [
        ("brt", {}, UsageError, "unknown transformers model type 'brt'; did you mean 'bert'"),
        ("bert", {"hiden_size": 3}, UnknownKey, "unknown setting 'hiden_size'; did you mean 'hidden_size'"),
        ("bert", {"hidden_size": "x"}, UsageError, "hidden_size"),
        ("bert", {"attention": "flash"}, UnknownKey, "unknown attention 'flash'"),
        ("bert", {"pretrained": True}, UsageError, "a type without weights"),
        ("bert", {"max_position_embeddings": 4}, UsageError, "takes 4 tokens, the task gives 12"),
        ("bert", {"vocab_size": 4}, UsageError, "vocabulary of 4, the task's is 40"),
        ("vit", {}, UsageError, "no sequence classification for 'vit'"),
        ("/no/such", {}, UsageError, "no such folder: /no/such"),
        ("someone/something", {}, UsageError, "Hub can't be reached"),
    ],
)
def test_what_transformers_can_not_build_is_one_line(
    name: str, config: dict[str, Any], error: type[UsageError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(error, match=says) as caught:
        build_hf(FACTS, name, **config)
    assert "\n" not in str(caught.value)


def test_settings_of_the_small_net_are_checked() -> None:
    with pytest.raises(UnknownKey, match="unknown attention 'flash'"):
        build_small(FACTS, "transformer", attention="flash")
    with pytest.raises(UsageError, match="hidden 16 is not a multiple of 3 heads"):
        build_small(FACTS, "transformer", hidden=16)


# ------------------------------------------------------------------ what a stranger's folder may not do


def strange_folder(folder: Path, **config: Any) -> Path:
    """Save a net whose folder brings code, which leaves a trace when it is run."""
    made: Any = build_hf(FACTS, "bert", depth=1, **SMALL)
    made.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Net: pass\nclass Config: pass\n")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


AUTO = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Net"}}


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("config", [AUTO, {**AUTO, "trust_remote_code": True}, {**AUTO, "model_type": "evil"}])
@pytest.mark.parametrize("settings", [{}, {"trust_remote_code": True}])
def test_code_in_a_folder_is_never_run(
    tmp_path: Path, config: dict[str, Any], settings: dict[str, Any], pretrained: bool
) -> None:
    folder = strange_folder(tmp_path / "net", **config)
    refused = bool(settings) or config.get("model_type") == "evil"
    if refused:
        with pytest.raises(UsageError) as caught:
            build_hf(FACTS, str(folder), pretrained=pretrained, **settings)
        assert "\n" not in str(caught.value)
    else:
        net = build_hf(FACTS, str(folder), pretrained=pretrained)
        assert type(net).__module__.startswith("transformers.")
    assert not (folder / "ran").exists()


def test_no_pickle_is_read(tmp_path: Path) -> None:
    folder = strange_folder(tmp_path / "net")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        build_hf(FACTS, str(folder), pretrained=True)


@pytest.mark.parametrize(
    "config", [{"_attn_implementation": "someone/kernel"}, {"attn_implementation": "someone/kernel"},
               {"quantization_config": {"quant_method": "gptq", "bits": 4}}],
)  # fmt: skip
def test_a_config_brings_no_other_code_to_compute_with(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = strange_folder(tmp_path / "net", **config)
    with contextlib.suppress(UsageError):
        net: Any = build_hf(FACTS, str(folder))
        assert net.config._attn_implementation in ("sdpa", "eager")


def test_a_bare_name_is_a_type_whatever_lies_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact's ``hf/bert`` must not come to mean a folder of this name."""
    strange_folder(tmp_path / "bert", hidden_size=8)
    strange_folder(tmp_path / "mine", hidden_size=8)
    monkeypatch.chdir(tmp_path)
    assert build_hf(FACTS, "bert", depth=1, **SMALL).get_parameter("classifier.weight").shape == (3, 16)
    assert build_hf(FACTS, "./bert").get_parameter("classifier.weight").shape == (3, 8)
    with pytest.raises(UsageError, match=r"no such type; write hf/\./mine for the folder"):
        build_hf(FACTS, "mine")
