"""Codes between processes: what travels, what is kept, and that the simulation in one process tells the truth."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.helpers import Watch, recipe, registry
from tests.core.together import together
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from condensery import Run, load
from condensery.files import read_json
from condensery.run import Bucket, Observer, Player, Processes, Workers
from condensery_plugins.quantization.gradient_codes.ddp import CommunicationHook, send
from condensery_plugins.quantization.gradient_codes.ef_signsgd import EFSignSGD
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode
from condensery_plugins.quantization.gradient_codes.one_bit_sgd import OneBitSGD

CODES = ["one-bit-sgd", "terngrad", "qsgd", "ecq-sgd", "ef-signsgd", "one-bit-adam"]


def of(key: str, epochs: int = 2, **changes: Any) -> Any:
    train = {"epochs": epochs, "batch_size": 16, "workers": 2, "optimizer": {"lr": 0.05}}
    return recipe([{"methods": [key]}], train=train, **changes)


def played(what: Any, out: Path, *, processes: int = 1, **options: Any) -> tuple[Any, Mapping[str, Tensor]]:
    """Return the report of a run, and the weights that it left."""

    def play() -> None:
        Run(what, registry(), out=out, device="cpu", **options).execute()

    together(play, processes) if processes > 1 else play()
    return read_json(out / "report.json", ""), load(out / "artifact.safetensors").state_dict()


@pytest.mark.parametrize("key", CODES)
def test_two_processes_equal_the_simulated_run(key: str, tmp_path: Path) -> None:
    """Bit for bit: running statistics of batch norms, draws, codes and what is kept are those of two workers."""
    small = {"key": "resnet8", "width": 0.25} if key == "ecq-sgd" else {"key": "mlp", "hidden": [16]}
    simulated, alone = played(of(key, model=small), tmp_path / "one")
    launched, shared = played(of(key, model=small), tmp_path / "two", processes=2)
    assert launched["processes"] == 2
    assert simulated["training"]["sent_ratio"] == launched["training"]["sent_ratio"] > 1.5
    assert [name for name, value in alone.items() if not torch.equal(value, shared[name])] == []


class Killed(Observer):
    """Kills its process after the first epoch."""

    def epoch_ended(self, stage: Any, history: Any) -> None:
        if stage.name == "ef-signsgd":
            Processes.joined().barrier()  # so that the first one has saved the epoch
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("processes", [1, 2])
def test_residuals_survive_a_kill(processes: int, tmp_path: Path) -> None:
    what = of("ef-signsgd", model={"key": "mlp", "hidden": [16]})
    kept: list[Mapping[str, Tensor]] = []

    class Keeps(Watch):
        def stage_ended(self, stage: Any) -> None:
            kept.append(dict(stage.manager.methods["ef-signsgd"].kept_))

    _, whole = played(what, tmp_path / "whole", observer=Keeps())
    together(lambda: Run(what, registry(), out=tmp_path / "o", observer=Killed()).execute(), processes, killed=True)
    assert (tmp_path / "o/progress.safetensors").is_file()
    if processes == 1:
        _, resumed = played(what, tmp_path / "o", resume=True, observer=Keeps())
        assert any(bool(rows.any()) for rows in kept[0].values())
        assert all(torch.equal(rows, kept[1][place]) for place, rows in kept[0].items())
    else:
        _, resumed = played(what, tmp_path / "o", processes=2, resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_what_is_kept_is_of_all_workers(tmp_path: Path) -> None:
    """A checkpoint that the first process writes holds each worker's row; three workers can't go on for two."""
    method = EFSignSGD()
    method.start(Workers(3))
    method.kept_ = {"student/w": torch.ones(3, 4)}
    state = method.state()
    assert torch.equal(state["kept_"]["student/w"], torch.ones(3, 4))
    other = EFSignSGD()
    other.start(Workers(2))
    with pytest.raises(Exception, match="stopped with 3 workers, and can't go on with 2"):
        other.load_state(state)


# ---------------------------------------------------------------- a loop of one's own


def data_of(worker: int, step: int) -> Tensor:
    """Return what one worker sees in one step."""
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + worker))


def make(method: GradientCode, net: nn.Module, player: Player) -> torch.optim.Optimizer:
    """Return the method's own optimizer."""
    groups = [{"params": list(net.parameters()), "lr": 0.1, "weight_decay": 0.0}]
    found: torch.optim.Optimizer = method.optimizer(player=player, groups=groups)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("cls", [OneBitSGD, EFSignSGD])
def test_a_communication_hook_of_torch(cls: type[GradientCode], tmp_path: Path) -> None:
    """DistributedDataParallel in two processes takes the steps of two simulated workers, and sends packed bytes."""

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

    def play() -> None:
        net, processes = fresh(), Processes.joined()
        hook = CommunicationHook(cls(), net)
        hook.player.optimizer = optimizer = make(hook.method, net, hook.player)
        wrapped = DistributedDataParallel(net)
        wrapped.register_comm_hook(hook, send)
        for step in range(3):
            optimizer.zero_grad()
            wrapped(data_of(processes.rank, step)).square().mean().backward()
            optimizer.step()
        assert hook.exchanged.sent < hook.exchanged.plain / 2
        save_file(net.state_dict(), tmp_path / f"{processes.rank}.safetensors")

    together(play)

    # The same by hand: the gradients of both workers, combined by the method.
    net, method = fresh(), cls()
    player = Player("student", net, spec=None, trains=True)  # type: ignore[arg-type]
    player.optimizer = optimizer = make(method, net, player)
    method.start(Workers(2))
    for step in range(3):
        told = []
        for rank in range(2):
            net.zero_grad()
            net(data_of(rank, step)).square().mean().backward()
            told.append({name: p.grad.flatten().clone() for name, p in net.named_parameters() if p.grad is not None})
        for name, parameter in net.named_parameters():
            bucket = Bucket(name, parameter.shape, torch.stack([gradients[name] for gradients in told]))
            parameter.grad = method.exchange(player=player, bucket=bucket).view_as(parameter)
        optimizer.step()

    for rank in range(2):
        there = load_file(tmp_path / f"{rank}.safetensors")
        assert all(torch.equal(value, there[name]) for name, value in net.state_dict().items())
