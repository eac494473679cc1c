"""Each setting of the methods with few levels changes what a layer becomes, by numbers worked out by hand.

A net of three linear layers of two units, whose inner one has the weights 1/2, -2 and 1, 1/4; it sees 1, 1, and the
gradients of its outputs are 1 and 2, so that those of its weights are 1, 1 and 2, 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from tests.plugins.quantization.steps import Rows, Step, step
from tests.plugins.quantization.test_ternarybert import taught

from condensery import Method, Stage, Transform
from condensery.contract import build_method
from condensery.nets import attached
from condensery.run import Bucket
from condensery_plugins.quantization.dettmers_8bit import Dettmers8Bit

# ---------------------------------------------------------------------------- what is looked at


def weight(done: Step) -> Any:
    """Return the weight that the layer used in the step."""
    return done.weight.tolist()


def final(done: Step) -> Any:
    """Return the weight that the layer uses out of training."""
    return done.final.tolist()


def gradient(done: Step) -> Any:
    """Return the gradient of the latent weight."""
    return done.gradient.tolist()


def sizes(done: Step) -> Any:
    """Return the sizes of that gradient, for one that is rounded up or down by chance."""
    return done.gradient.abs().tolist()


def moved(done: Step) -> Any:
    """Return by how much the step moved the latent weight."""
    return (done.started - done.after).tolist()


def after(done: Step) -> Any:
    """Return the latent weight behind the step."""
    return done.after.tolist()


def back(done: Step) -> Any:
    """Return the gradient of the layer's input."""
    return done.back.tolist()


def spread(done: Step) -> Any:
    """Return the values that the second output takes over a batch, in order."""
    return sorted(set(done.outputs[:, 1].tolist()))


def drawn(done: Step) -> Any:
    """Return the values that a weight takes over passes in training."""
    layer = done.stage.student.module.train().get_submodule("inner")
    passes = [layer.weight.detach() for _ in range(40)]  # type: ignore[operator]
    return sorted(set(torch.stack(passes).flatten().tolist()))


def layers(done: Step) -> Any:
    """Return the layers whose weights are held."""
    return sorted(target.removesuffix(".weight") for target in done.transforms if ":" not in target)


def inputs(done: Step) -> Any:
    """Return the layers whose inputs are held."""
    return sorted(target.removesuffix(":input") for target in done.transforms if target.endswith(":input"))


def widths(*targets: str) -> Callable[[Step], Any]:
    """Return a look at the bits of what holds some weights and inputs."""
    return lambda done: [done.transforms[target].bits for target in targets]


def levels(*numbers: float) -> Callable[[Step], Any]:
    """Return a look at what the inner layer's input quantizer makes of some numbers, in training."""
    return lambda done: done.transforms["inner:input"].train()(torch.tensor(numbers)).tolist()


GLOROT = (4 / 1.5) ** 0.5
"""Of a layer with two inputs and two outputs."""
INNER, ALL = ["inner"], ["first", "inner", "last"]
SIGNS = ((1.0, -1.0), (1.0, 1.0))
MEAN = 0.9375
"""The mean size of all four weights; of the rows 1.25 and 0.625."""


def times(scale: float, rows: Rows = SIGNS) -> list[list[float]]:
    return [[scale * number for number in row] for row in rows]


FLOAT = {"centred": False}
LEVELS = {"weight_bits": 1, "activation_bits": 2, "gradient_bits": None}
HALF = ((0.5, 1.5),)
LINEAR = ((0.5, -2.0), (0.8, 0.25))
"""Over the largest and in steps of 1/127 they are 31.75, -127, 50.8 and 15.875."""
Case = tuple[str, dict[str, Any], str, dict[Any, Any], Callable[[Step], Any], dict[str, Any]]
CASES: list[Case] = [
    # Rows cut off at -1 and 1 have the mean sizes 3/4 and 5/8. As printed: 1/2 + 3/4, and 2 (1/2 + 5/8); by the chain
    # rule the first row's signed gradients cancel out, and the second's make (2 + 2) / 2 + 2 x 5/8.
    ("bwn", FLOAT, "gradient", {"paper": [[1.25] * 2, [2.25] * 2], "exact": [[0.75] * 2, [3.25] * 2]}, gradient, {}),
    (
        "xnor-net",
        FLOAT,
        "gradient",
        {"paper": [[1.25] * 2, [2.25] * 2], "exact": [[0.75] * 2, [3.25] * 2]},
        gradient,
        {},
    ),
    # The rows' means -3/4 and 5/8 go: 5/4 and -5/4, which are cut off, and 3/8 and -3/8.
    ("bwn", {}, "centred", {True: [[1, -1], [0.375, -0.375]], False: [[0.75, -0.75], [0.625] * 2]}, weight, {}),
    ("xnor-net", {}, "centred", {True: [[1, -1], [0.375, -0.375]], False: [[0.75, -0.75], [0.625] * 2]}, weight, {}),
    ("bwn", {}, "edges", {"float": INNER, "quantized": ALL}, layers, {}),
    ("xnor-net", {}, "edges", {"float": INNER, "quantized": ALL}, layers, {}),
    # Two pixels of two channels: the mean sizes are 2 and 1, and the signs of the first row sum to 3/2 and 0, by 3/4.
    (
        "xnor-net",
        FLOAT,
        "input_scale",
        {False: [1.5, 0.0], True: [3.0, 0.0]},
        lambda done: done.outputs[0, 0, 0].tolist(),
        {"weight": [[[[0.5]], [[-1.0]]], [[[1.0]], [[0.25]]]], "x": [[[[3.0, 1]], [[-1.0, 1]]]], "g": 1.0},
    ),
    (
        "bnn",
        {},
        "glorot",
        {True: times(0.1 * GLOROT, ((1, 0), (2, 2))), False: times(0.1, ((1, 0), (2, 2)))},
        moved,
        {},
    ),
    # A weight of -1 cannot move on: that is why its step is 0 above.
    ("bnn", {}, "restart", {True: False, False: True}, lambda done: bool(done.started[0, 0] == 0.5), {}),
    ("bnn", {}, "neurons", {"deterministic": [2.0], "stochastic": [-2.0, 0.0, 2.0]}, spread, {"x": [[0.0, 0]] * 64}),
    (
        "binaryconnect",
        {},
        "glorot",
        {True: times(0.1 * GLOROT, ((1, 0), (2, 2))), False: times(0.1, ((1, 0), (2, 2)))},
        moved,
        {},
    ),
    ("binaryconnect", {}, "restart", {True: False, False: True}, lambda done: bool(done.started[0, 0] == 0.5), {}),
    (
        "binaryconnect",
        {},
        "mode",
        {"deterministic": [1.0], "stochastic": [-1.0, 1.0]},
        drawn,
        {"weight": [[0.0, 0], [0, 0]], "g": 0.0},
    ),
    ("binaryconnect", {"glorot": False}, "inference", {"binary": SIGNS, "real": [[0.4, -1], [0.8, 0.05]]}, final, {}),
    # The mean size 15/16 makes thresholds of 0.66 and 0; the rows' own are 0.875 and 0.4375.
    ("twn", {}, "factor", {0.7: [[0, -1.5], [1.5, 0]], 0: times(MEAN)}, weight, {}),
    ("twn", {}, "scope", {"layer": [[0, -1.5], [1.5, 0]], "filter": [[0, -2], [1, 0]]}, weight, {}),
    # Sizes 3, 1.1, 1, 1: two are beyond 0.7 x 1.525; but all four win 6.1^2 / 4 = 9.3, and one 9, two 8.4, three 8.7.
    (
        "twn",
        {},
        "threshold",
        {"approximate": [[2.05, 2.05], [0, 0]], "exact": [[1.525] * 2] * 2},
        weight,
        {"weight": [[3, 1.1], [1, 1]]},
    ),
    ("twn", {}, "edges", {"float": INNER, "quantized": ALL}, layers, {}),
    # The positive weights are 1/2, 1 and 1/4.
    ("ttq", {}, "start", {"one": SIGNS, "mean": [[1.75 / 3, -2], [1.75 / 3] * 2]}, weight, {}),
    ("ttq", {}, "threshold", {0.05: SIGNS, 0.25: [[0, -1], [1, 0]]}, weight, {}),
    ("ttq", {}, "edges", {"float": INNER, "quantized": ALL}, layers, {}),
    # Of an input beyond 1 the gradient is cut; both outputs' weights of it are -15/16 and 15/16.
    (
        "dorefa-net",
        LEVELS,
        "estimator",
        {"clip": [[3 * MEAN, 0]], "identity": [[3 * MEAN, MEAN]]},
        back,
        {"x": HALF, "moved": 0.0},
    ),
    # Of one bit each gradient is minus or plus the largest one, 2.
    ("dorefa-net", LEVELS, "gradient_bits", {None: [[1, 1], [2, 2]], 1: [[2, 2], [2, 2]]}, sizes, {"moved": 0.0}),
    # tanh over the largest: 0.48, -1, 0.79 and 0.25; as shares of three steps 2.2, 0, 2.7 and 1.9.
    ("dorefa-net", LEVELS, "weight_bits", {1: times(MEAN), 2: [[1 / 3, -1], [1, 1 / 3]]}, weight, {"moved": 0.0}),
    (
        "dorefa-net",
        LEVELS,
        "activation_bits",
        {1: [0, 1, 1], 2: [1 / 3, 2 / 3, 1]},
        levels(0.3, 0.6, 2.0),
        {"moved": 0.0},
    ),
    ("dorefa-net", LEVELS, "edge_bits", {None: INNER, 8: ALL}, layers, {"moved": 0.0}),
    # One sign, of what lies above the mean -1/16. Of three two are alike, and the third is the same everywhere.
    ("abc-net", {}, "weight_bases", {1: times(MEAN), 3: [[1.75 / 3, -2], [1.75 / 3] * 2]}, weight, {}),
    (
        "abc-net",
        {},
        "activation_bases",
        {1: [-1, -1, 1, 1], 3: [-1, -1 / 3, 1 / 3, 1]},
        levels(-0.1, 0.1, 0.6, 1.1),
        {"g": 0.0},
    ),
    ("abc-net", {}, "edges", {"float": INNER, "quantized": ALL}, layers, {}),
    # Of 1, -3, 4, 1/2 two stay at 3.5; of its halves one each.
    (
        "fgq",
        {},
        "group",
        {4: [[0, -3.5, 3.5, 0]], 2: [[0, -3, 4, 0]]},
        weight,
        {"weight": [[1, -3, 4, 0.5]], "x": [[1.0] * 4], "g": 1.0},
    ),
    ("fgq", {}, "activation_bits", {8: [8], 4: [4]}, widths("inner:input"), {}),
    (
        "fgq",
        {},
        "edge_bits",
        {8: [8, 8], 16: [16, 16]},
        widths("first.weight", "last:input"),
        {},
    ),
    # Shares of 2.54 are in steps of 0.02; the tree's nearest to 0.633 / 2.54 is 0.1 + 10.5 x 0.9 / 64.
    (
        "dettmers-8bit",
        {"activations": True},
        "kind",
        {"linear": [2.54, 0.64], "tree": [2.54, 2.54 * (0.1 + 10.5 * 0.9 / 64)]},
        levels(2.54, 0.633),
        {},
    ),
    ("dettmers-8bit", {"activations": True, "kind": "mantissa"}, "offset", {1: [4.0], 0: [1.5]}, levels(4.4), {}),
    ("dettmers-8bit", {}, "activations", {False: [], True: ["inner", "last"]}, inputs, {}),
    (
        "dettmers-8bit",
        {"kind": "linear"},
        "weights",
        {False: LINEAR, True: times(2 / 127, ((32, -127), (51, 16)))},
        weight,
        {"weight": LINEAR},
    ),
]


def approximately(expected: Any) -> Any:
    """Return what compares nested numbers to a hundred-thousandth, and everything else by itself."""
    if isinstance(expected, list | tuple):
        return [approximately(part) for part in expected]
    return pytest.approx(expected, abs=1e-5) if type(expected) in (int, float) else expected


@pytest.mark.parametrize(
    ("key", "settings", "name", "expected", "look", "given"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES]
)
def test_a_setting_changes_what_it_says(
    key: str,
    settings: dict[str, Any],
    name: str,
    expected: dict[Any, Any],
    look: Callable[[Step], Any],
    given: dict[str, Any],
) -> None:
    one, other = expected.values()
    assert one != approximately(other), "two values that give the same tell nothing"
    for value, result in expected.items():
        assert look(step(key, {**settings, name: value}, **given)) == approximately(result), f"{name}: {value}"


# ---------------------------------------------------------------------------- what no setting changes


@pytest.mark.parametrize("key", ["bnn", "xnor-net"])
def test_the_gradient_of_an_input_is_cut_beyond_one(key: str) -> None:
    """The inputs 1/2 and 3/2 have 3 and 1 without a scale, and with the rows' 3/4 and 5/8 they would have 2 and 1/2."""
    settings = FLOAT if key == "xnor-net" else {}
    assert back(step(key, settings, x=HALF)) == [[2 if key == "xnor-net" else 3, 0]]


@pytest.mark.parametrize("key", ["bwn", "xnor-net", "bnn", "binaryconnect"])
def test_latent_weights_are_cut_off_at_the_start_and_after_each_step(key: str) -> None:
    """A step of 100 brings all four, whose gradients are positive, to -1; against the gradients it brings them to 1."""
    settings = FLOAT if key in ("bwn", "xnor-net") else {}
    found = step(key, settings, lr=100.0)
    assert found.started.tolist() == [[0.5, -1], [1, 0.25]]
    assert after(found) == [[-1, -1], [-1, -1]]
    assert after(step(key, settings, g=((-1.0, -2.0),), lr=100.0)) == [[1, 1], [1, 1]]


def test_latent_weights_of_twn_are_cut_off_nowhere() -> None:
    assert after(step("twn", {}, lr=1.0)) == [[-0.5, -3], [-1, -1.75]]


def test_groups_of_fgq_lie_along_the_input_channels() -> None:
    """Inputs (1, 1) at one place of the kernel and (8, 8) at the other are exact; along the kernel (1, 8) isn't."""
    rows = [[[[1.0, 8.0]], [[1.0, 8.0]]]]
    assert weight(step("fgq", {"group": 2}, rows, torch.ones(1, 2, 1, 2).tolist(), 1.0)) == rows


# ---------------------------------------------------------------------------- what workers send


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "linear"}, [1.27, 0.63, 0.01]),  # steps of 0.01
        ({"kind": "tree"}, [1.27, 1.27 * (0.1 + 28.5 * 0.9 / 64), 1.27 * (0.001 + 6.5 * 0.009 / 16)]),
        ({"kind": "mantissa"}, [1.3, 0.6, 0.006]),
        ({"kind": "mantissa", "offset": -1}, [0.15, 0.15, 0.006]),
        ({"gradients": False}, None),
    ],
)
def test_workers_send_what_a_type_has(settings: dict[str, Any], expected: list[float] | None) -> None:
    method = build_method("dettmers-8bit", Dettmers8Bit, settings, REGISTRY.card("dettmers-8bit"))
    stage = stage_of("mlp", hidden=[4])
    method.prepare(stage=stage)  # type: ignore[attr-defined]
    bucket = Bucket("fc1.weight", torch.Size([3]), torch.tensor([[1.27, 0.633, 0.006]]))
    found = method.exchange(stage=stage, player=stage.student, bucket=bucket)  # type: ignore[attr-defined]
    assert (found if found is None else found.tolist()) == approximately(expected)


# ---------------------------------------------------------------------------- TernaryBERT


def taught_by(**settings: Any) -> tuple[Method, Stage, dict[str, Transform]]:
    """Return TernaryBERT on a Transformer that has itself as teacher, the stage, and what holds its tensors."""
    stage = taught()
    method = build_method(
        "ternarybert", REGISTRY.load("methods", "ternarybert"), settings, REGISTRY.card("ternarybert")
    )
    method.prepare(stage=stage)  # type: ignore[attr-defined]
    return method, stage, {item.target: item.transform for item in attached(stage.student.module)}


POOLER = "bert.pooler.dense"


def test_the_weights_of_ternarybert_are_what_is_said() -> None:
    """0.1, -0.6, 1 and 0.02: 0.7 x 0.43 leaves two, at 0.8; eight bits are steps of 1/127."""
    row = torch.tensor([[0.1, -0.6, 1.0, 0.02]])
    assert taught_by(weights="twn")[2][f"{POOLER}.weight"](row).tolist() == approximately([[0, -0.8, 0.8, 0]])
    eight = taught_by(weights="8-bit")[2][f"{POOLER}.weight"]
    assert eight(row).tolist() == approximately([[13 / 127, -76 / 127, 1.0, 3 / 127]])

    # By Adam's second moments 1, 0 and 0, 0 the first weight's error alone counts, which is then exact.
    _, _, held = taught_by(weights="lat")
    loss_aware: Any = held[f"{POOLER}.weight"]
    moment = torch.zeros_like(loss_aware.curvature)
    moment[0, 0] = 1
    loss_aware.follow(moment)
    some = torch.full(moment.shape, 0.5)
    some[0, 0] = 0.2
    assert float(loss_aware(some)[0, 0]) == pytest.approx(0.2, abs=1e-4)


def test_the_activations_of_ternarybert_are_what_is_said() -> None:
    """Of 0, 1/2, 2 the middle is 63.75 of 255 steps, and 31.75 of 127; with two bits 0.75 of 3."""
    x = torch.tensor([0.0, 0.5, 2.0])
    for settings, middle in (
        ({"activations": "asymmetric"}, 2 * 64 / 255),
        ({"activations": "symmetric"}, 2 * 32 / 127),
        ({"activation_bits": 2}, 2 / 3),
    ):
        held = taught_by(**settings)[2]
        for target in (f"{POOLER}:input", "bert.encoder.layer.0.attention.self.query:output"):
            assert held[target](x).tolist() == approximately([0.0, middle, 2.0])
    assert not [target for target in taught_by(activation_bits=None)[2] if ":" in target]


@pytest.mark.parametrize("name", ["hidden", "attention", "logits"])
def test_the_factors_of_ternarybert_scale_their_terms(name: str) -> None:
    found = []
    for factor in (1.0, 3.0):
        method, stage, _ = taught_by(**{name: factor})
        seen = stage.play(stage.sample(4)[0])
        terms = method.loss_terms(stage=stage, outputs=seen, player=stage.student)  # type: ignore[attr-defined]
        found.append({term: float(value) for term, value in terms.items()})
    assert found[0][name] > 0
    assert found[1] == pytest.approx({**found[0], name: 3 * found[0][name]}, rel=1e-5)
