"""Nets as people bring them: each is compressed right, or refused in one line that says why."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.squeezed import Squeezed, refused, zeros
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from condensery.nets import attached
from condensery.run import Progress

torch.set_num_threads(1)
GPT2 = {"key": "hf/gpt2", "n_layer": 1, "n_embd": 24, "n_head": 3}


@pytest.mark.parametrize("line", ["magnitude(sparsity=0.9)", "gradual-magnitude-pruning(sparsity=0.9, skip=[])"])
def test_the_matrices_of_gpt2_are_pruned(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, None, tmp_path / "o", model=GPT2, task="word-language")
    found = {key.rpartition(".")[2]: value for key, value in done.stage()["report"].items()}
    layer = dict(done.net.named_parameters())
    matrices = [
        p for n, p in layer.items() if n.endswith("weight") and p.dim() > 1 and ".wte" not in n and ".wpe" not in n
    ]
    assert len(matrices) == 5  # four Conv1D and the head
    gone, total = sum(int((p == 0).sum()) for p in matrices), sum(p.numel() for p in matrices)
    assert gone == pytest.approx(0.9 * total, abs=3)

    whole = sum(p.numel() for p in done.net.parameters())
    assert found["sparsity_percent"] == pytest.approx(90.0, abs=0.1)
    assert found["reached_percent"] == pytest.approx(100 * total / whole)
    assert found["net_sparsity_percent"] == pytest.approx(100 * gone / whole)
    assert {n.rpartition(".")[0].rpartition(".")[2] for n in done.stage()["missed"]} == {"wte", "wpe"}
    assert done.outputs_are_kept()


def test_the_matrices_of_gpt2_are_quantized(tmp_path: Path) -> None:
    done = Squeezed("lsq(weight_bits=2, edge_bits=2)", None, tmp_path / "o", model=GPT2, task="word-language")
    matrices = [p for n, p in done.net.named_parameters() if n.endswith("c_fc.weight")]
    assert [len(p.unique()) for p in matrices] == [4]  # type: ignore[no-untyped-call]
    assert done.outputs_are_kept()


@pytest.mark.parametrize("asked", ["", ", embeddings=true"])
def test_embeddings_are_quantized_where_they_are_asked_for(asked: str, tmp_path: Path) -> None:
    line = f"lsq(weight_bits=2, edge_bits=2{asked})"
    done = Squeezed(line, None, tmp_path / "o", model=GPT2, task="word-language")
    levels = {n: len(p.unique()) for n, p in done.net.named_parameters() if ".wte" in n}  # type: ignore[no-untyped-call]
    assert [number <= 4 for number in levels.values()] == [bool(asked)]
    assert done.outputs_are_kept()


@pytest.mark.parametrize("before", ["", "magnitude(sparsity=0.6) -> "])
def test_the_matrices_of_gpt2_compute_in_whole_numbers(before: str, tmp_path: Path) -> None:
    """They lie across, (inputs, outputs), and are turned, with the masks on them and the momentum beside them."""
    done = Squeezed(f"{before}jacob-integer-only", None, tmp_path / "o", model=GPT2, task="word-language")
    found = done.stage()["report"]
    assert found["jacob-integer-only.integer_layers_count"] == 5
    assert found["jacob-integer-only.float_layers_count"] == 0
    stored = dict(done.net.named_buffers())
    codes = {n: b - stored[n.replace("codes", "weight_zero")] for n, b in stored.items() if n.endswith("codes")}
    assert [tuple(c.shape) for n, c in codes.items() if "mlp" in n] == [(96, 24), (24, 96)]
    assert {n.rpartition(".")[0].rpartition(".")[2] for n in done.stage()["missed"]} == {"wte", "wpe"}
    if before:
        gone = sum(int((c == 0).sum()) for c in codes.values()) / sum(c.numel() for c in codes.values())
        assert 0.599 < gone < 0.65  # some more weights are rounded to zero
    assert done.outputs_are_kept()


def test_what_stays_float_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Integer layers are made of convolutions and linear layers alone, so that an LSTM of 4 matrices stays float."""
    done = Squeezed("jacob-integer-only", Rows, tmp_path / "o", show=Progress())
    found = done.stage()["report"]
    assert found["jacob-integer-only.integer_layers_count"] == 1
    assert found["jacob-integer-only.float_layers_count"] == 1
    sizes = {n: p.numel() for n, p in done.net.named_parameters() if n.startswith("lstm.weight")}
    whole = sum(p.numel() for p in Rows(done.run.task.facts).parameters())
    assert done.stage()["missed"] == {n: pytest.approx(100 * size / whole, abs=0.01) for n, size in sizes.items()}
    assert found["jacob-integer-only.reached_percent"] == pytest.approx(100 * 640 / whole)
    share = 100 * sum(sizes.values()) / whole
    said = f"not reached: lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.weight_ih_l1 and 1 more, {share:.1f} % of the"
    assert said in capsys.readouterr().err
    assert done.outputs_are_kept()


class Lines(nn.Module):
    """Convolutions, then an LSTM over the columns."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(facts.channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.lstm, self.head = nn.LSTM(16, 24, batch_first=True), nn.Linear(24, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.body(x).mean(2).transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("line", ["l1-filter-pruning(ratio=0.5)", "network-slimming(ratio=0.4)", "thinet"])
def test_convolutions_before_an_lstm_are_cut(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, Lines, tmp_path / "o")
    first, second = (done.net.get_submodule(f"body.{i}").get_parameter("weight") for i in (0, 3))
    assert first.shape[0] < 12
    assert first.shape[0] == second.shape[1]
    assert second.shape[0] == 16  # the LSTM reads its channels, and can't be cut
    assert done.outputs_are_kept()


def decoder(facts: Any) -> nn.Module:
    """Return a convolution, a transposed one, and another: the middle one's channels are a decoder's."""
    down = nn.Conv2d(facts.channels, 12, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 10, 2, 2), nn.ReLU()
    up = nn.Conv2d(10, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*down, *up, nn.Linear(8, facts.outputs))


@pytest.mark.parametrize("line", ["l1-filter-pruning(ratio=0.5)", "filter-pruning(ratio=0.5)"])
def test_filters_before_and_behind_a_transposed_convolution_go(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, decoder, tmp_path / "o")
    shapes = [tuple(p.shape) for p in done.net.parameters() if p.dim() > 1]
    assert [shape[:2] for shape in shapes] == [(6, 1), (6, 10), (4, 10), (10, 4)]
    assert done.stage()["left_out"] == {"2": "a transposed convolution keeps its filters"}
    assert done.outputs_are_kept()


@pytest.mark.parametrize("line", ["l1-filter-pruning", "filter-pruning", "thinet"])
def test_a_net_without_filters_that_may_go_is_refused(line: str, tmp_path: Path) -> None:
    def make(facts: Any) -> nn.Module:
        layers = nn.ConvTranspose2d(facts.channels, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(4, facts.outputs))

    said = refused(line, make, tmp_path / "o")
    why = "the net has no convolution whose filters may go; '0' is a transposed one, which keeps its filters"
    assert said == f"{line} is not applicable: {why}"


class Sequences(nn.Module):
    """Convolutions over time, as of sound."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        layers = nn.Conv1d(facts.size, 16, 3, padding=1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 8, 3), nn.ReLU()
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, facts.outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.squeeze(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("line", ["l1-filter-pruning(ratio=0.5)", "thinet(keep=0.5)"])
def test_filters_over_time_go(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, Sequences, tmp_path / "o")
    first, second = (tuple(p.shape) for p in done.net.parameters() if p.dim() == 3)
    assert first == (8, 8, 3)
    assert second[1] == 8
    assert "left_out" not in done.stage()
    assert done.outputs_are_kept()


@pytest.mark.parametrize("act", [nn.PReLU, lambda: nn.PReLU(16)])
def test_channels_go_behind_a_prelu_as_behind_a_relu(act: Any, tmp_path: Path) -> None:
    def make(between: Any, facts: Any) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(facts.channels, 16, 3, padding=1), nn.BatchNorm2d(16), between()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), between()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, facts.outputs)),
        )

    for number, line in enumerate(("l1-filter-pruning(ratio=0.5)", "network-slimming(ratio=0.4)")):
        plain, steep = (Squeezed(line, partial(make, a), tmp_path / f"{number}{a}") for a in (nn.ReLU, act))
        shapes = [[tuple(p.shape) for p in done.net.parameters() if p.dim() > 1] for done in (plain, steep)]
        assert shapes[0][0][0] < 16
        if number == 0:  # what slimming takes depends on how the scales have moved
            assert shapes[0] == shapes[1]
        assert steep.outputs_are_kept()


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_torch_makes_is_refused_with_what_to_call(wrap: Any, tmp_path: Path) -> None:
    def make(facts: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), wrap(nn.Linear(facts.size**2, 24)), nn.Linear(24, facts.outputs))

    assert "remove_parametrizations(net.get_submodule('1'), 'weight')" in refused("magnitude", make, tmp_path / "o")


class Half(nn.Sequential):
    """Computes in bfloat16."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x.to(torch.bfloat16))  # type: ignore[no-untyped-call]


def half(facts: Any) -> nn.Module:
    layers = nn.Flatten(), nn.Linear(facts.size**2, 32), nn.ReLU(), nn.Linear(32, facts.outputs)
    return Half(*layers).to(torch.bfloat16)


def test_half_precision_is_pruned_and_stays(tmp_path: Path) -> None:
    done = Squeezed("magnitude(sparsity=0.5)", half, tmp_path / "o")
    assert {p.dtype for p in done.net.parameters()} == {torch.bfloat16}
    assert zeros(done.net) == pytest.approx(0.5, abs=0.02)
    assert done.outputs_are_kept()


@pytest.mark.parametrize("line", ["lsq", "jacob-integer-only", "magnitude -> kmeans-sharing"])
def test_half_precision_is_not_quantized(line: str, tmp_path: Path) -> None:
    assert "layer '1' is bfloat16; build the net in float32" in refused(line, half, tmp_path / "o")


def frozen_stem(facts: Any) -> nn.Module:
    """Return a net whose first layer and norm the builder froze, and whose second norm it put in eval mode."""
    stem = nn.Sequential(nn.Conv2d(facts.channels, 8, 3), nn.BatchNorm2d(8)).requires_grad_(False)
    body = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8).eval(), nn.ReLU(), nn.BatchNorm2d(8))
    return nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, facts.outputs))


@pytest.mark.parametrize("line", ["hinton-kd{teacher=original}", "magnitude(sparsity=0.1, skip=['0'])"])
def test_what_the_builder_froze_stays_with_its_statistics(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, frozen_stem, tmp_path / "o")
    fresh = done.run.builder.build(done.run.recipe.model)
    moved = {n for n, v in done.net.state_dict().items() if not torch.equal(v, fresh.state_dict()[n])}
    assert not {n for n in moved if n.startswith("0.")}
    assert not {n for n in moved if n.startswith("1.2.running")}
    assert {"1.1.weight", "1.2.weight", "1.4.running_mean", "4.weight"} <= moved


def small(facts: Any) -> nn.Module:
    body = nn.Conv2d(facts.channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(8 * facts.size**2, 32), nn.ReLU(), nn.Linear(32, facts.outputs))


@pytest.mark.parametrize("line", ["network-slimming(ratio=0.4) -> lsq", "jacob-integer-only"])
def test_whole_numbers_can_be_exported(line: str, tmp_path: Path) -> None:
    done, image = Squeezed(line, small, tmp_path / "o"), torch.randn(2, 1, 8, 8)
    program = torch.export.export(done.net, (image,)).module()
    assert done.outputs_are_kept()
    assert torch.equal(program(image), done.net(image))


def test_integer_layers_are_stored_in_their_bits_and_without_zeros(tmp_path: Path) -> None:
    """16,384 weights at 2 bits are 4,096 bytes; a tenth of them, by their distances, is a quarter of that."""
    bits = "jacob-integer-only(weight_bits=2, edge_bits=2)"
    sizes = {}
    for number, line in enumerate((bits, f"magnitude(sparsity=0.9) -> {bits} -> huffman")):
        done = Squeezed(line, small, tmp_path / str(number))
        assert done.outputs_are_kept()
        assert done.net.get_buffer("4.codes").shape == (32, 512)
        assert int(done.net.get_buffer("4.codes").count_nonzero()) > 100
        sizes[number] = done.report["after"]["storage"]["payload"]
    assert 4096 < sizes[0] < 5200
    assert sizes[1] < 0.4 * sizes[0]


def test_nothing_to_code_is_refused(tmp_path: Path) -> None:
    assert "huffman is not applicable: no weight is pruned, shared or quantized yet" in refused(
        "huffman", small, tmp_path / "o"
    )


class Rows(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(facts.size, 64, 2, batch_first=True), nn.Linear(64, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])  # type: ignore[no-any-return]


class Meeting(nn.Module):
    """Attends to the rows of an image, then lets two of what it sees meet: layers with several inputs."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(facts.size, 2, batch_first=True)
        self.pair, self.head = nn.Bilinear(facts.size, facts.size, 6), nn.Linear(6, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.attention(query=x.squeeze(1), key=x.squeeze(1), value=x.squeeze(1))[0]
        return self.head(self.pair(seen[:, 0], seen[:, 1]))  # type: ignore[no-any-return]


def test_inputs_that_stay_float_are_named(tmp_path: Path) -> None:
    done = Squeezed("lsq(weight_bits=3, activation_bits=8, edge_bits=8)", Meeting, tmp_path / "o")
    why = "stays float: it has several inputs"
    left = {"attention:input": why, "attention.out_proj:input": why, "pair:input": why}
    assert done.stage()["left_out"] == left
    assert [item.target for item in attached(done.net)] == ["head:input"]
    levels = {n: len(p.unique()) for n, p in done.net.named_parameters() if p.dim() > 1}  # type: ignore[no-untyped-call]
    assert levels["attention.out_proj.weight"] <= 8 or levels["pair.weight"] <= 8
    assert done.outputs_are_kept()


def test_a_recurrent_net_is_pruned_shared_and_coded(tmp_path: Path) -> None:
    done = Squeezed("magnitude(sparsity=0.9) -> kmeans-sharing(bits=4) -> huffman", Rows, tmp_path / "o")
    weights = dict(done.net.named_parameters())
    matrices = {n: p for n, p in weights.items() if p.dim() > 1}
    assert len(matrices) == 5
    gone = sum(int((p == 0).sum()) for p in matrices.values())
    assert gone == pytest.approx(0.9 * sum(p.numel() for p in matrices.values()), abs=3)
    assert all(3 <= len(p.unique()) <= 16 for p in matrices.values())  # type: ignore[no-untyped-call]
    assert done.report["ratios"]["compression_rate"] > 10
    assert done.outputs_are_kept()


def test_the_input_of_a_recurrent_layer_is_quantized_once(tmp_path: Path) -> None:
    done = Squeezed("lsq(weight_bits=3, activation_bits=3, edge_bits=3)", Rows, tmp_path / "o")
    assert [item.target for item in attached(done.net)] == ["lstm:input", "head:input"]
    # Drawn evenly from -b to b, so that the mean size is b / 2, a step 0.58 b, and b the second level on its side.
    matrices = [p for n, p in done.net.named_parameters() if n.startswith("lstm.weight")]
    assert [len(p.unique()) for p in matrices] == [5] * 4  # type: ignore[no-untyped-call]
    assert done.outputs_are_kept()
