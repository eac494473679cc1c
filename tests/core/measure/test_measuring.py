from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs, Sign
from torch import Tensor, nn

from condensery.measure import counts, latency, layer_counts, measure, ratios
from condensery.nets import attach

CPU = torch.device("cpu")
KEYS = {
    "parameters", "nonzeros", "macs", "effective_macs", "bitops", "moved_bytes", "bytes", "latency_ms",
    "latency_spread_ms", "threads", "memory_bytes", "quality",
}  # fmt: skip


def net() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        made.get_parameter("0.weight").copy_(torch.arange(12).view(4, 3))  # one zero
        made.get_parameter("0.bias").fill_(1.0)
        made.get_parameter("2.weight").copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 1]]))
    return made


def test_counts_by_layer_as_the_layers_use_them() -> None:
    made = net()
    attach(made, "2.weight", "sign", Sign())
    attach(made, "0:input", "sign", Sign())
    assert layer_counts(made) == {
        "0": {"parameters": 16, "nonzeros": 15},
        "2": {"parameters": 8, "nonzeros": 3},
    }
    assert counts(made) == {"parameters": 24, "nonzeros": 18}


def test_measure_says_everything() -> None:
    said = measure(Inputs(lambda n: torch.ones(n, 3)), net(), CPU, bytes=321, bits={"2.weight": 2})
    assert set(said) == KEYS
    assert (said["parameters"], said["macs"], said["effective_macs"], said["bytes"]) == (24, 20, 14, 321)
    assert said["bitops"] == 12 * 32 * 32 + 8 * 2 * 32
    assert said["memory_bytes"] == 4 * (3 + 4 + 4)
    assert said["threads"] == torch.get_num_threads()
    assert said["latency_ms"] > 0 <= said["latency_spread_ms"]
    assert said["quality"]["errors"] == 2  # four equal inputs, two of each class


def test_batches_of_64_are_timed_only_when_asked_for() -> None:
    sizes: list[int] = []

    def example(count: int) -> Tensor:
        sizes.append(count)
        return torch.ones(count, 3)

    task = Inputs(example)
    measure(task, net(), CPU, quality=False)
    assert 1 in sizes
    assert 64 not in sizes

    said = measure(task, net(), CPU, quality=False, batched=True)
    assert set(said) == KEYS | {"latency_batch64_ms", "fps"}
    assert 64 in sizes
    assert said["fps"] == pytest.approx(64_000 / said["latency_batch64_ms"], rel=0.01)


def test_quality_can_be_left_out() -> None:
    class NoData(Inputs):
        def batches(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("no data here")

    assert measure(NoData(lambda n: torch.ones(n, 3)), net(), CPU, quality=False)["quality"] == {}


def test_work_that_cannot_be_counted_is_unknown_and_says_why() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.view_as_real(torch.fft.rfft(x))

    said = measure(Inputs(lambda n: torch.ones(n, 3)), Spectrum(), CPU, quality=False)
    assert said["macs"] is said["effective_macs"] is said["bitops"] is said["moved_bytes"] is None
    assert said["macs_unknown"] == "MACs of Spectrum can't be counted: unknown op aten._fft_r2c"
    assert set(said) == KEYS | {"macs_unknown"}


def test_latency_is_a_median_with_its_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of 9 (warm-up), 1, 2, 3, 4 and 50 ms: the quartiles of the last five are 2, 3 and 4."""
    ticks = iter([0.0, 0.009, 1.0, 1.001, 2.0, 2.002, 3.0, 3.003, 4.0, 4.004, 5.0, 5.05])
    monkeypatch.setattr("condensery.measure.measuring.time.perf_counter", lambda: next(ticks))
    sizes: list[int] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            sizes.append(len(x))
            return x

    watch = Watch()
    found = latency(Inputs(lambda n: torch.zeros(n, 3)), watch, CPU, batch_size=7, runs=5, warm_up=1)
    assert found == pytest.approx((3.0, 2.0))
    assert sizes == [7] * 6
    assert watch.training


SIDE: dict[str, Any] = {
    "parameters": 1200,
    "nonzeros": 1000,
    "bytes": 4000,
    "macs": 100,
    "effective_macs": 90,
    "bitops": 102400,
    "moved_bytes": 600,
    "latency_ms": 3.0,
}
AFTER: dict[str, Any] = {
    "storage": {"payload": 300, "tables": 100},
    "nonzeros": 250,
    "bytes": 500,
    "macs": 50,
    "effective_macs": 30,
    "bitops": 3200,
    "moved_bytes": 150,
    "latency_ms": 2.0,
}


def test_ratios_by_hand() -> None:
    assert ratios(SIDE, AFTER) == {
        "parameters_removed": 750,
        "parameters_removed_percent": 75.0,
        "compression_rate": 8.0,
        "storage_rate": 12.0,
        "nonzeros": 4.0,
        "macs": 2.0,
        "macs_removed_percent": 50.0,
        "effective_macs": 3.0,
        "bitops": 32.0,
        "moved_bytes": 4.0,
        "speedup": 1.5,
    }


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_ratio_of_an_unknown_or_zero_figure_is_unknown(side: str) -> None:
    unknown = {"parameters": 0, "nonzeros": 0} | dict.fromkeys(
        ("bytes", "macs", "effective_macs", "bitops", "moved_bytes", "latency_ms"), None
    )
    found = ratios(unknown, AFTER) if side == "before" else ratios(SIDE, unknown)
    assert found["storage_rate"] == (0.0 if side == "before" else None)
    removed = {"parameters_removed", "parameters_removed_percent", "storage_rate"}
    assert {found[k] for k in found if k not in removed} == {None}
    assert (found["parameters_removed"], found["parameters_removed_percent"]) == (
        (-250, None) if side == "before" else (1000, 100.0)
    )
