from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe, registry
from tests.plugins.quantization.helpers import outputs, stage_of
from torch import Tensor, nn

from condensery import Layer, NotApplicable, Run, Stage, load
from condensery.nets import attached, latent_of, replace
from condensery_plugins.pruning.masks import Mask, mask
from condensery_plugins.quantization.folded_layers import Folded
from condensery_plugins.quantization.integer_layers import Integer
from condensery_plugins.quantization.jacob_integer_only import JacobIntegerOnly
from condensery_plugins.quantization.lsq import LearnedStep


def train(stage: Stage, method: JacobIntegerOnly, watch: Callable[[], None] | None = None) -> nn.Module:
    """Train a few steps with all hooks but those of the engine."""
    torch.manual_seed(0)
    net = stage.student.module
    method.prepare(stage)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    net.train()
    for batch in stage.task_batches():
        method.before_step(stage)
        stage.task.loss(stage.task.outputs(net, batch), batch).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            watch()
        stage.step += 1
    method.after_epoch()
    method.end_stage()
    return net.eval()


def baked(net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net)
    for path, module in list(twin.named_modules()):
        if isinstance(module, Layer):
            replace(twin, path, module.bake())
    return twin


NETS: list[tuple[str, str, dict[str, Any]]] = [
    ("resnet8", "digits", {"width": 0.5}),
    ("mlp", "digits", {}),
    ("vit", "digits", {"dim": 24, "depth": 2}),
    ("transformer", "word-language", {"hidden": 24, "depth": 1}),
]


@pytest.mark.parametrize(("model", "task", "config"), NETS, ids=[n[0] for n in NETS])
def test_the_integer_net_equals_the_trained_one_to_the_last_code(model: str, task: str, config: dict[str, Any]) -> None:
    stage = stage_of(model, task, **config)
    net = train(stage, JacobIntegerOnly(delay=2))
    integer = baked(net)
    kept = {n for n, m in net.named_modules() if isinstance(m, Folded)}
    assert kept == {n for n, m in integer.named_modules() if isinstance(m, Integer)}
    assert not any(isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d) for m in integer.modules())
    left, right = outputs(net, stage, Folded), outputs(integer, stage, Integer)
    assert left.keys() == right.keys() == kept | {""}
    for name, parts in left.items():
        assert all(torch.equal(a, b) for a, b in zip(parts, right[name], strict=True)), name
    for name in kept:  # and an output is one of at most 256 codes
        out = integer.get_submodule(name)
        assert isinstance(out, Integer)
        if out.output_bits is not None:
            grid = out.numbers().output
            assert grid is not None
            codes = right[name][0] / grid.scale + grid.zero
            assert (codes - codes.round()).abs().max() < 1e-3
            assert codes.min() > -0.5
            assert codes.max() < 255.5


def test_fake_quantization_in_floats_agrees_within_one_code() -> None:
    """The paper's own check: the float simulation that trains, and whole numbers, layer by layer on the same input."""
    stage = stage_of("resnet8", width=0.5)
    net = train(stage, JacobIntegerOnly())
    batch = next(iter(stage.task.batches("test", batch_size=100, device=stage.device)))
    checked = 0

    def compare(layer: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        nonlocal checked
        assert isinstance(layer, Folded)
        assert layer.output_range is not None
        distance = ((out - layer.soft(args[0])) / layer.output_range.grid().scale).abs().round()
        assert distance.max() <= 1
        assert distance.mean() < 0.01  # rounding twice, up and away from zero, makes the difference
        checked += 1

    for module in net.modules():
        if isinstance(module, Folded):
            module.register_forward_hook(compare)
    with torch.no_grad():
        net(batch.inputs)
    assert checked == 8


def test_it_learns() -> None:
    stage = stage_of("resnet8")
    stage.subset = None
    net = train(stage, JacobIntegerOnly())
    right = total = 0
    with torch.no_grad():
        for batch in stage.task.batches("test", batch_size=500, device=stage.device):
            assert batch.labels is not None
            right += int((net(batch.inputs).argmax(1) == batch.labels).sum())
            total += batch.size
    assert right / total > 0.8


def test_delay_and_freezing() -> None:
    """Eight steps: activations from the third on, batch statistics in the first four."""
    stage = stage_of("resnet8", width=0.5)
    method = JacobIntegerOnly(delay=2, freeze_after=0.5)
    seen, means = [], []

    def watch() -> None:
        layer = method.layers["conv1"]
        seen.append((layer.active, layer.follows_batches, layer.follows_ranges))
        means.append(layer.running_mean.clone())

    train(stage, method, watch)
    assert seen == [(i >= 2, i < 4, True) for i in range(8)]
    assert not torch.equal(means[2], means[3])
    assert torch.equal(means[3], means[7])
    layer = method.layers["conv1"]
    assert (layer.active, layer.follows_batches, layer.follows_ranges) == (True, False, False)
    assert int(layer.input_range.batches) == 8 + 4  # 128 sampled examples come in four batches of 32


def test_what_is_replaced_and_linked() -> None:
    stage = stage_of("resnet8", width=0.5)
    before = {w.name: w.latent for w in stage.weights()}
    method = JacobIntegerOnly(weight_bits=4, activation_bits=5, edge_bits=8)
    method.prepare(stage)
    net = stage.student.module
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert all(w.latent is before[w.name] for w in stage.weights())
    widths = {
        path: (layer.plan.weight_bits, layer.plan.input_bits, layer.plan.output_bits, layer.plan.linked)
        for path, layer in method.layers.items()
    }
    assert widths["conv1"] == (8, 8, 5, False)
    assert widths["layer1.0.conv1"] == (4, 5, 5, True)
    assert widths["layer2.0.conv1"] == (4, 5, 5, False)
    assert widths["linear"] == (8, 8, 8, False)
    report = method.report(stage)
    assert report["integer_layers_count"] == report["requantized_layers_count"] == 8
    assert (report["float_layers_count"], report["folded_norms_count"]) == (0, 7)
    assert 16 < report["accumulator_bits"] < 32


def test_the_taker_of_codes_decides_their_width() -> None:
    stage = stage_of("mlp")
    method = JacobIntegerOnly(activation_bits=4)
    method.prepare(stage)
    plans = [layer.plan for layer in method.layers.values()]
    assert [(p.input_bits, p.output_bits) for p in plans] == [(8, 4), (4, 8), (8, 8)]


def test_masks_move_along_and_zeros_stay() -> None:
    stage = stage_of("resnet8", width=0.5)
    kept = torch.rand(stage.weights()[1].latent.shape) > 0.5
    channels = torch.arange(8) > 2
    for target, keep in (("layer1.0.conv1.weight", kept), ("layer1.0.bn1.weight", channels)):
        mask = Mask(keep.shape)
        mask.keep.copy_(keep)
        stage.attach(target, "some", mask)
    net = train(stage, JacobIntegerOnly())
    assert {a.target for a in attached(net)} == {"layer1.0.conv1.weight", "layer1.0.conv1.gamma"}
    integer = baked(net).get_submodule("layer1.0.conv1")
    assert isinstance(integer, Integer)
    assert integer.weight[channels].count_nonzero() > 0.9 * kept[channels].sum()
    assert not integer.weight[~kept].any()
    assert not integer.weight[~channels].any()


def test_filters_are_cut_out_of_a_net_in_whole_numbers() -> None:
    """Codes and zero codes: the net without some filters equals the one where they are zero, to the last code."""
    stage = stage_of("resnet8", width=0.5)
    net = train(stage, JacobIntegerOnly())
    mask = Mask((16,))
    mask.keep[3] = 0
    stage.attach("layer2.0.conv1.gamma", "some", mask)
    gone = {"layer1.0.conv1": [0, 5], "layer2.0.conv1": [2, 3, 11]}
    masked = copy.deepcopy(net)
    with torch.no_grad():
        for path, filters in gone.items():
            layer, reader = masked.get_submodule(path), masked.get_submodule(path.replace("conv1", "conv2"))
            for name in ("weight", "gamma", "beta"):
                latent_of(layer, name)[filters] = 0
            latent_of(reader, "weight")[:, filters] = 0
    removal = stage.surgeon.remove_channels(gone)
    assert removal.cut is not None
    assert removal.cut.difference is not None
    assert removal.cut.difference < 1e-9
    left, right = outputs(masked, stage, Folded), outputs(net, stage, Folded)
    for name in left.keys() - gone.keys():
        assert all(torch.equal(a, b) for a, b in zip(left[name], right[name], strict=True)), name
    assert [tuple(a.transform.get_buffer("keep").shape) for a in attached(net)] == [(13,)]
    integer = baked(net).get_submodule("layer1.0.conv1")
    assert isinstance(integer, Integer)
    assert integer.config()["shape"] == [6, 8, 3, 3]


def test_filters_are_pruned_after_it_and_the_artifact_runs_in_whole_numbers(tmp_path: Path) -> None:
    stages = ["jacob-integer-only", {"methods": [{"l1-filter-pruning": {"ratio": 0.25}}]}]
    report = Run(recipe(stages), registry(), out=tmp_path / "o").execute()
    assert report["stages"][1]["report"]["l1-filter-pruning.filters_removed_percent"] == 25.0
    net = load(tmp_path / "o" / "artifact.safetensors")
    shapes = {n: m.config()["shape"] for n, m in net.named_modules() if isinstance(m, Integer)}
    assert shapes["layer1.0.conv1"] == [6, 8, 3, 3]
    assert shapes["layer3.0.conv2"] == [32, 24, 3, 3]
    assert len(shapes) == 8


def test_a_module_in_two_places_is_replaced_in_both() -> None:
    stage = stage_of("mlp")
    net = stage.student.module
    net.add_module("again", net.get_submodule("fc1"))
    JacobIntegerOnly().prepare(stage)
    assert net.get_submodule("again") is net.get_submodule("fc1")
    assert isinstance(net.get_submodule("again"), Folded)


def test_refusals() -> None:
    stage = stage_of("mlp")
    stage.attach("fc1:input", "lsq", LearnedStep(4))
    with pytest.raises(NotApplicable, match="an activation is quantized already: 'fc1:input'"):
        JacobIntegerOnly().prepare(stage)
    stage = stage_of("mlp")
    stage.attach("fc1.weight", "lsq", LearnedStep(4))
    with pytest.raises(NotApplicable, match="layer 'fc1' is quantized already"):
        JacobIntegerOnly().prepare(stage)
    stage = stage_of("mlp")
    stage.student.module = nn.Flatten()
    with pytest.raises(NotApplicable, match="calls no plain Conv2d or Linear"):
        JacobIntegerOnly().prepare(stage)


def test_what_goes_with_a_weight_that_lies_across_is_turned_with_it() -> None:
    """Of GPT-2's square matrix the weight, its mask and the momentum that the optimizer carries."""
    stage = stage_of("hf/gpt2", "word-language", n_layer=1, n_embd=12, n_head=2)
    path = "transformer.h.0.attn.c_proj"
    weight = stage.weights().by_path[path]
    before, momentum = weight.latent.detach().clone(), torch.arange(144.0).view(12, 12)
    stage.student.carried = {weight.name: {"momentum_buffer": momentum, "step": torch.tensor(3.0)}}
    keep = before > 0
    mask(stage, weight, keep)
    assert 20 < int(keep.sum()) < 124

    JacobIntegerOnly().prepare(stage=stage)
    after = stage.weights().by_path[path]
    assert isinstance(after.module, Folded)
    assert torch.equal(after.latent, before.T)
    assert torch.equal(after.alive, keep.T)
    carried = stage.student.carried[weight.name]
    assert torch.equal(carried["momentum_buffer"], momentum.T)
    assert carried["step"] == 3
