from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of
from torch import Tensor, nn

from condensery import Weight
from condensery.nets import Coding, Dense
from condensery_plugins.quantization.observers import Scheme, min_max
from condensery_plugins.quantization.uniform import Uniform, for_input, for_weight


def linear(rows: list[list[float]]) -> Weight:
    layer = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return Weight("fc", layer, "weight")


def stored(made: Uniform, value: Tensor) -> Coding:
    return made.code(Coding(Dense()), made(value))


ROWS = [[3.0, -1.0, 0.2, 0.4, 6.0], [-0.3, 0.1, 1.4, 0.5, -12.0]]


def test_one_range_by_hand() -> None:
    """Three bits signed, range 12: the step is 4, the codes -3..3."""
    made = for_weight(linear(ROWS), Scheme(3), min_max)
    assert made(torch.tensor(ROWS)).tolist() == [[4, 0, 0, 0, 8], [0, 0, 0, 0, -12]]


def test_a_range_a_channel_by_hand() -> None:
    """Steps 2 and 4."""
    made = for_weight(linear(ROWS), Scheme(3), min_max, "channel")
    assert made.scale.tolist() == [[2], [4]]
    assert made(torch.tensor(ROWS)).tolist() == [[4, 0, 0, 0, 6], [0, 0, 0, 0, -12]]  # 3 / 2 is a tie: to the even 2


def test_a_range_a_group_by_hand() -> None:
    """Groups of two, the last of one: steps (1, 0.4 / 3, 2) and (0.1, 1.4 / 3, 4)."""
    made = for_weight(linear(ROWS), Scheme(3), min_max, "group", 2)
    torch.testing.assert_close(made.scale, torch.tensor([[1, 0.4 / 3, 2], [0.1, 1.4 / 3, 4]]))
    wanted = torch.tensor([[3, -1, 0.8 / 3, 0.4, 6], [-0.3, 0.1, 1.4, 1.4 / 3, -12]])
    torch.testing.assert_close(made(torch.tensor(ROWS)), wanted)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_is_stored_in_its_bits_and_comes_back(granularity: str, symmetric: bool, bits: int) -> None:
    weight = linear(torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).tolist())
    value = weight.latent.detach()
    made = for_weight(weight, Scheme(bits, symmetric), min_max, granularity, 16)  # type: ignore[arg-type]
    final = made(value)
    assert made.holds(final) is None
    assert made.holds(final + 0.01) is not None

    coding = stored(made, value)
    streams = coding.codec.encode(final)
    assert torch.equal(coding.codec.decode(streams, final.shape), final)
    used = bits if symmetric or granularity == "tensor" else bits + 1  # zeros that differ widen the codes
    assert coding.cost(final).payload <= -(-300 * used // 8)


def test_it_is_built_again_from_its_config() -> None:
    for granularity in ("tensor", "channel", "group"):
        made = for_weight(linear(ROWS), Scheme(3), min_max, granularity, 2)
        again = Uniform(**made.config())
        again.load_state_dict(made.state_dict())
        assert torch.equal(again(torch.tensor(ROWS)), made(torch.tensor(ROWS)))


def test_cut_columns_leave_groups_that_hold_their_entries() -> None:
    """Column 0 goes: the groups are now (-1, 0.2), (0.4, 6) of steps 1 and 2, and those below of 0.4667 and 4."""
    made = for_weight(linear(ROWS), Scheme(3), min_max, "group", 2)
    made.resize(lambda x: x[:, 1:])
    torch.testing.assert_close(made.scale, torch.tensor([[1, 2], [1.4 / 3, 4]]))
    assert made(torch.tensor(ROWS)[:, 1:]).tolist()[0] == [-1, 0, 0, 6]


def test_an_embedding_has_a_range_a_row_and_a_transposed_layer_one_an_output() -> None:
    table = nn.Embedding(3, 5)
    assert for_weight(Weight("e", table, "weight", (1, 0)), Scheme(4), min_max, "channel").scale.shape == (3, 1)
    back = Weight("t", nn.ConvTranspose2d(4, 6, 3), "weight", (1, 0))
    for granularity in ("channel", "group"):
        made = for_weight(back, Scheme(4), min_max, granularity)
        assert made.scale.shape == (1, 6, 1, 1)


def test_inputs_that_are_never_negative_get_no_negative_codes() -> None:
    made = for_input([torch.tensor([[0.5], [3.0]]), torch.tensor([1.0])], 2, min_max)
    assert made(torch.tensor([-1.0, 1.4, 2.0, 9.0])).tolist() == [0, 1, 2, 3]
    signed = for_input([torch.tensor([-0.5, 3.0])], 3, min_max)
    assert signed(torch.tensor([-9.0, -0.6, 1.4])).tolist() == [-3, -1, 1]
    affine = for_input([torch.tensor([-1.0, 2.0])], 2, min_max, symmetric=False)
    assert affine(torch.tensor([-9.0, 0.4, 9.0])).tolist() == [-1, 0, 2]


def test_the_gradient_is_cut_or_passes() -> None:
    """Range -3..3."""
    for estimator, wanted in (("clip", [0.0, 1.0, 1.0, 0.0]), ("identity", [1.0, 1.0, 1.0, 1.0])):
        x = torch.tensor([-3.1, -3.0, 0.2, 4.0], requires_grad=True)
        Uniform(3, -3, 3, estimator=estimator)(x).sum().backward()  # type: ignore[arg-type]
        assert x.grad is not None
        assert x.grad.tolist() == wanted


def test_a_whole_net_is_on_its_grids() -> None:
    stage = stage_of("resnet8", width=0.5)
    for weight in stage.weights():
        stage.attach(weight.name, "q", for_weight(weight, Scheme(4), min_max, "channel"))
        assert weight.value.abs().max() > 0
        assert all(len(row.unique()) <= 15 for row in weight.value)
