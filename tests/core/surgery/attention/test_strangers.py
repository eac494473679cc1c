"""A net of classes that nobody has heard of is cut by the rows that a plugin offers for them, and by nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensery import Registry, Run, hookimpl, load
from condensery.contract import Register
from condensery.errors import MethodError, PluginError, UsageError
from condensery.recipe import ModelSpec, StageSpec, TrainSpec, parse_recipe
from condensery.run import Player, Stage
from condensery.surgery import Cut, apply, randomize
from condensery.surgery.attention import Anatomy, Attention, Block, HeadDims, KnownClasses, Mlp, Place, View
from condensery.tasks import TaskFacts
from condensery_plugins.tasks.digits import Digits

torch.set_num_threads(1)


class PatchAttention(nn.Module):
    """Queries and keys in one projection, ``(2, heads, dims)``, values in another, and a gain for each head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, width // heads
        self.look = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places, _ = x.shape
        q, k = self.look(x).view(batch, places, 2, self.heads, self.head_size).permute(2, 0, 3, 1, 4)
        v = self.value(x).view(batch, places, self.heads, -1).transpose(1, 2)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        heads = self.gain * (weights @ v)
        return self.out(heads.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class PatchMlp(nn.Module):
    def __init__(self, width: int, hidden: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.grow = nn.Linear(width, hidden)
        self.norm = norm(hidden)
        self.shrink = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.grow(x).transpose(1, 2)).transpose(1, 2)
        return self.shrink(torch.relu(hidden))  # type: ignore[no-any-return]


class PatchBlock(nn.Module):
    """Both halves add to the stream, each behind a norm of its own."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = PatchAttention(width, heads=3)
        self.mix = PatchMlp(width, 8, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.first(x))
        return x + self.mix(self.second(x))  # type: ignore[no-any-return]


class PatchNet(nn.Module):
    """Four patches of an image of 8 x 8, three blocks, the mean over the patches, ten classes."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 12, 4, stride=4)
        self.blocks = nn.ModuleList(PatchBlock(12, norm) for _ in range(3))
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def build(facts: TaskFacts, name: str) -> PatchNet:
    return PatchNet()


def view(place: Place) -> View:
    heads, dims = place.module.heads, place.module.head_size
    values = place.outputs("value") // heads
    return View(
        q=(place.part("look", heads, dims),),
        k=(place.part("look", heads, dims, start=heads * dims),),
        v=(place.part("value", heads, values),),
        out=place.part("out", heads, values),
        attributes=lambda sizes: {"heads": sizes.heads, "head_size": sizes.dims},
        scale="tensor",
        per_head=((place.at("gain"), 1),),
        tied=False,
    )


def wrong_view(place: Place) -> View:
    """Take the first projection for one that is laid out head by head: as large, and wrong."""
    heads, dims = place.module.heads, place.module.head_size
    return View(
        q=(place.part("look", heads, dims, step=2 * dims),),
        k=(place.part("look", heads, dims, start=dims, step=2 * dims),),
        v=(place.part("value", heads, dims),),
        out=place.part("out", heads, dims),
        attributes=lambda sizes: {"heads": sizes.heads, "head_size": sizes.dims},
        scale="tensor",
        per_head=((place.at("gain"), 1),),
    )


ATTENTION, WRONG_ATTENTION = Attention(view), Attention(wrong_view)
MLP = Mlp(("grow",), "shrink", norm="norm")
BLOCK = Block(("attend.out", "mix.shrink"))
ROWS = {"PatchAttention": "ATTENTION", "PatchMlp": "MLP", "PatchBlock": "BLOCK"}


class Offer:
    """A stranger's plugin: a model, and rows for the classes that it is made of."""

    condensery_api = 1

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows = rows

    @hookimpl
    def register_models(self, register: Register) -> None:
        register("patch-net", f"{__name__}:build")

    @hookimpl
    def register_attention(self, register: Register) -> None:
        for cls, row in self.rows.items():
            register(f"{__name__}.{cls}", f"{__name__}:{row}")


def known(rows: Mapping[str, str]) -> KnownClasses:
    registry = Registry.open([("stranger", Offer(rows))], entry_points=False)
    assert registry.problems == []
    return KnownClasses(registry)


def random_net(norm: Callable[[int], nn.Module] = nn.BatchNorm1d) -> PatchNet:
    net = PatchNet(norm).eval()
    randomize(net, torch.Generator().manual_seed(3))
    return net


def example() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(4))


def anatomy(rows: Mapping[str, str], net: nn.Module | None = None) -> Anatomy:
    return Anatomy(random_net() if net is None else net, known(rows), example())


KINDS: dict[str, Callable[[Anatomy], Cut]] = {
    "heads": lambda a: a.remove_heads({"blocks.0.attend": [1], "blocks.2.attend": [0, 2]}),
    "head-dims": lambda a: a.remove_head_dims({"blocks.1.attend": HeadDims([[0, 1], [1, 2], [0, 3]], [3])}),
    "neurons": lambda a: a.remove_neurons({"blocks.0.mix": [0, 5], "blocks.1.mix": [7]}),
    "layers": lambda a: a.remove_layers(["blocks.1"]),
}
SHARE = {"heads": 3 / 9, "head-dims": 9 / 72, "neurons": 3 / 24, "layers": 1 / 3}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_cut_and_proven(kind: str) -> None:
    net, x = random_net(), example()
    surgery = anatomy(ROWS, net)
    cut = KINDS[kind](surgery)

    assert surgery.ratio == pytest.approx(SHARE[kind])
    assert set(cut.proofs) == {"eager float64", "eager float32"}
    assert cut.proofs["eager float64"] < 1e-12
    assert cut.proofs["eager float32"] < 1e-5
    assert cut.unproven is None

    after = copy.deepcopy(net)
    apply(cut, after)
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        assert (after(x) - net(x)).abs().max() > 1e-3, "the units meant nothing, so that the proof says nothing"


def test_the_rows_of_a_head_by_hand() -> None:
    """Head 1 of 3, of 4 dimensions, has outputs 4 to 7 as a query and 16 to 19 as a key."""
    cut = anatomy(ROWS).remove_heads({"blocks.0.attend": [1]})
    kept = cut.tensors["blocks.0.attend.look.bias"].kept.tolist()
    assert kept == [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23]
    assert cut.tensors["blocks.0.attend.out.weight"].new == (12, 8)
    assert cut.tensors["blocks.0.attend.gain"].new == (1, 2, 1, 1)
    assert cut.attributes["blocks.0.attend"] == {"heads": (3, 2)}
    assert cut.factors == {}


def test_the_factor_of_smaller_heads_by_hand() -> None:
    """Of 4 dimensions 1 is left: the scores lose a division by 2 for one by 1, so that queries are halved."""
    gone = HeadDims([1, 2, 3])
    cut = anatomy(ROWS).remove_head_dims({"blocks.0.attend": gone})
    assert cut.factors["blocks.0.attend.look.bias"].tolist() == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]
    assert cut.attributes["blocks.0.attend"] == {"head_size": (4, 1)}
    assert "blocks.0.attend.value.weight" not in cut.tensors


def test_the_norm_between_is_cut_along() -> None:
    cut = anatomy(ROWS).remove_neurons({"blocks.0.mix": [0, 5]})
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert cut.tensors[f"blocks.0.mix.norm.{name}"].kept.tolist() == [1, 2, 3, 4, 6, 7]
    assert cut.attributes["blocks.0.mix.norm"] == {"num_features": (8, 6)}


def test_a_norm_that_would_count_removed_neurons_is_refused() -> None:
    def over_neurons(hidden: int) -> nn.Module:
        return nn.GroupNorm(1, hidden)

    surgery = anatomy(ROWS, random_net(over_neurons))
    with pytest.raises(UsageError, match=r"'blocks\.0\.mix\.norm' is a .*GroupNorm: its channels can't be cut"):
        surgery.remove_neurons({"blocks.0.mix": [0]})


def test_without_the_offer_each_class_is_refused_by_name() -> None:
    surgery = anatomy({})
    assert (surgery.neurons(), surgery.layers()) == ([], [])
    found = surgery.heads()
    assert [h.path for h in found] == ["blocks.0.attend", "blocks.1.attend", "blocks.2.attend"]
    assert all(f"is a {__name__}.PatchAttention; known attention classes: none" in str(h.reason) for h in found)

    for remove, path, cls, what in (
        (surgery.remove_heads, "blocks.0.attend", "PatchAttention", "attention"),
        (surgery.remove_head_dims, "blocks.0.attend", "PatchAttention", "attention"),
        (surgery.remove_neurons, "blocks.0.mix", "PatchMlp", "MLP"),
    ):
        with pytest.raises(UsageError, match=rf"module '{path}' is a .*\.{cls}; known {what} classes: none"):
            remove({path: [0]})
    with pytest.raises(UsageError, match=r"module 'blocks\.0' is a .*\.PatchBlock; known layer classes: none"):
        surgery.remove_layers(["blocks.0"])


def test_each_class_is_known_as_what_its_row_says() -> None:
    surgery = anatomy(ROWS)
    with pytest.raises(UsageError, match=r"PatchBlock; known attention classes: test_strangers\.PatchAttention$"):
        surgery.remove_heads({"blocks.0": [0]})
    alone = Anatomy(PatchBlock(12, nn.BatchNorm1d), known(ROWS), torch.zeros(2, 4, 12))
    with pytest.raises(UsageError, match="layer '' can't be removed: it stands in no list of layers"):
        alone.remove_layers([""])


def test_a_relative_of_a_known_class_is_another_class() -> None:
    class RelativeAttention(PatchAttention):
        pass

    net = random_net()
    net.blocks[1].attend = RelativeAttention(12, heads=3)
    first, second, third = anatomy(ROWS, net).heads()
    assert first.reason is None
    assert third.reason is None
    assert "RelativeAttention; known attention classes: test_strangers.PatchAttention" in str(second.reason)


def test_a_wrong_row_is_caught_by_the_proof() -> None:
    surgery = anatomy(ROWS | {"PatchAttention": "WRONG_ATTENTION"})
    with pytest.raises(MethodError, match="the cut net differs by"):
        surgery.remove_heads({"blocks.0.attend": [0]})


def test_a_row_that_cannot_be_loaded_stops_only_the_nets_that_have_its_class() -> None:
    broken = anatomy(ROWS | {"PatchMlp": "MISSING"})
    with pytest.raises(PluginError, match=r"plugin 'stranger': attention '.*PatchMlp' can't be loaded from .*:MISSING"):
        broken.neurons()

    other = nn.Sequential(PatchAttention(12, heads=3))
    usable = Anatomy(other, known(ROWS | {"PatchMlp": "MISSING"}), torch.zeros(2, 4, 12))
    assert [h.reason for h in usable.heads()] == [None]
    with pytest.raises(UsageError, match="known MLP classes: none"):
        usable.remove_neurons({"0": [0]})


def test_what_is_offered_must_be_a_row() -> None:
    with pytest.raises(
        PluginError, match=r"plugin 'stranger': .*:ROWS must be an Attention, an Mlp or a Block, not dic"
    ):
        anatomy({"PatchAttention": "ROWS"}).heads()


def test_a_stage_knows_what_it_was_opened_with() -> None:
    def stage(**classes: Any) -> Stage:
        made = Stage(StageSpec(name="s"), Digits(), TrainSpec(), seed=0, device=torch.device("cpu"), **classes)
        made.players = {"student": Player("student", random_net(), spec=ModelSpec(key="patch-net"), trains=True)}
        return made

    surgeon = stage(classes=known(ROWS)).surgeon
    assert surgeon.view("blocks.0.attend").sizes == (3, 3, 4, 4)
    assert surgeon.remove_heads({"blocks.0.attend": [0]}).ratio == pytest.approx(1 / 9)
    assert [h.heads for h in surgeon.heads()] == [2, 3, 3]
    assert surgeon.remove_layers(["blocks.2"]).ratio == pytest.approx(1 / 3)
    assert "known attention classes: none" in str(stage().surgeon.heads()[0].reason)


@pytest.mark.parametrize("granularity", ["head", "head-dim", "neuron", "layer"])
def test_a_method_cuts_it_and_the_artifact_loads(granularity: str, tmp_path: Path) -> None:
    registry = Registry.open([("stranger", Offer(ROWS))])
    recipe = {
        "model": "patch-net",
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05}},
        "stages": [{"methods": [{"structured-magnitude": {"granularity": granularity, "ratio": 0.34}}]}],
    }
    run = Run(parse_recipe(recipe), registry, out=tmp_path, device="cpu")
    report = run.execute()["stages"][0]["report"]

    assert report["structured-magnitude.units_removed_percent"] > 20
    assert report["structured-magnitude.parameters_removed_percent"] > 1
    assert report["structured-magnitude.largest_difference_ratio"] < 1e-5
    assert run.baked is not None
    with torch.no_grad():
        mine = run.baked.net.eval()(example())
        loaded = load(tmp_path / "artifact.safetensors", registry)(example())
    # Tensors of a few numbers lie elsewhere in memory than they did, which changes the order of a sum.
    torch.testing.assert_close(loaded, mine, rtol=0, atol=1e-6)
