from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Stage
from condensery.nets import Coding, attach
from condensery_plugins.pruning.masks import mask
from condensery_plugins.quantization.gong_vq import GongVQ, VectorCodes, kmeans


def clustered(matrix: list[list[float]], **settings: object) -> tuple[Tensor, GongVQ, Stage]:
    """Return what a method makes of a dense layer with some weights, the method, and the stage."""
    stage = stage_of("mlp", hidden=[20])
    value = torch.tensor(matrix)
    layer = nn.Linear(value.shape[1], value.shape[0])
    layer.weight.data.copy_(value)
    stage.student.module.add_module("fc1", layer)
    stage.changed()
    method = GongVQ(layers=["fc1"], **settings)  # type: ignore[arg-type]
    method.prepare(stage=stage)
    return stage.weights().by_path["fc1"].value, method, stage


def test_numbers_are_clustered_one_by_one() -> None:
    """0, 1, 10 and 11 have the centers 0.5 and 10.5: an error of 4 x 0.25 of the squares 0 + 1 + 100 + 121."""
    value, method, stage = clustered([[0.0, 10.0], [11.0, 1.0]], scheme="k-means", centers=2)
    assert value.tolist() == [[0.5, 10.5], [10.5, 0.5]]
    assert method.report(stage)["error_percent"] == pytest.approx(100 / 222)


def test_pieces_at_one_place_share_a_codebook() -> None:
    """Left pieces (0,0), (0,2), (9,0), (9,2) have the centers (0,1), (9,1); right ones (5,5), (7,5), (5,0), (7,0) have
    (6,5), (6,0).
    """
    rows: list[list[float]] = [[0, 0, 5, 5], [0, 2, 7, 5], [9, 0, 5, 0], [9, 2, 7, 0]]
    value, method, stage = clustered(rows, centers=2)
    assert value.tolist() == [[0, 1, 6, 5], [0, 1, 6, 5], [9, 1, 6, 0], [9, 1, 6, 0]]
    # 16 floats over 4 x 2 codes of one bit, in one byte, and two codebooks of 2 x 2 floats.
    assert method.report(stage)["dense_rate_ratio"] == 64 / (1 + 32)


def test_rows_may_run_along_the_outputs() -> None:
    rows = torch.tensor([[0.0, 0, 5, 5], [0, 2, 7, 5], [9, 0, 5, 0], [9, 2, 7, 0]])
    along = clustered(rows.tolist(), centers=2)[0]
    across, method, stage = clustered(rows.T.tolist(), centers=2, axis="outputs")
    assert torch.equal(across, along.T)
    assert method.report(stage)["dense_rate_ratio"] == 64 / 33  # stored as codes, so the codec finds the same


def test_what_whole_rows_leave_is_clustered_again() -> None:
    """First (0,1) and (9,1), which leave (0,-1) and (0,1): the sums are the rows themselves."""
    rows: list[list[float]] = [[0, 0], [0, 2], [9, 0], [9, 2]]
    assert clustered(rows, scheme="residual", centers=2, books=1)[0].tolist() == [[0, 1], [0, 1], [9, 1], [9, 1]]
    assert clustered(rows, scheme="residual", centers=2)[0].tolist() == rows


def test_signs_alone_are_one_and_minus_one() -> None:
    assert clustered([[0.5, -3.0], [0.0, 2.0]], scheme="binary")[0].tolist() == [[1, -1], [1, 1]]


def test_a_row_that_does_not_part_evenly_has_shorter_pieces() -> None:
    """Six numbers by four: pieces of three."""
    stage = clustered([[float(i + 6 * j) for i in range(6)] for j in range(4)], length=4)[2]
    stack = stage.weights().by_path["fc1"].stack
    assert stack is not None
    made = stack.transforms["gong-vq"]
    assert isinstance(made, VectorCodes)
    assert list(made.codebooks.shape) == [2, 4, 3]  # no more centers than rows


def test_constant_and_zero_layers_stay() -> None:
    for number in (0.0, 3.0):
        assert (clustered([[number] * 4] * 3)[0] == number).all()
        assert (clustered([[number] * 4] * 3, scheme="residual")[0] == number).all()
        assert (clustered([[number] * 4] * 3, scheme="k-means")[0] == number).all()


def test_only_dense_layers_are_touched() -> None:
    stage = stage_of("resnet8", width=0.5)
    before = {w.path: w.value for w in stage.weights()}
    GongVQ(centers=2).prepare(stage=stage)
    changed = {w.path for w in stage.weights() if not torch.equal(w.value, before[w.path])}
    assert changed == {"linear"}

    stage.student.module.add_module("linear", nn.Identity())
    stage.changed()
    with pytest.raises(NotApplicable, match="the net has no dense layer"):
        GongVQ().prepare(stage=stage)


def test_nothing_of_it_trains() -> None:
    net = nn.Linear(4, 3, bias=False)
    attach(net, "weight", "codes", VectorCodes([2, 2, 2], [3, 2]))
    assert [name for name, _ in net.named_parameters()] == ["parametrizations.weight.original"]
    out = net(torch.ones(1, 4))
    assert not out.requires_grad


def test_a_cut_leaves_the_values_of_what_stays() -> None:
    books = torch.arange(8.0).view(2, 2, 2)
    for across, residual in ((False, False), (True, False), (False, True)):
        codes = torch.tensor([[0, 1], [1, 1], [1, 0]])
        made = VectorCodes.of(books, codes, residual=residual, across=across)
        shape = [3, 2] if residual else [4, 3] if across else [3, 4]
        before = made(torch.zeros(shape))
        assert len(torch.unique(before)) > 2
        made.resize(lambda tensor: tensor[:2, 1:])
        assert torch.equal(made(torch.zeros(2, shape[1] - 1)), before[:2, 1:])
        assert VectorCodes(**made.config()).codes.shape == (2, 1)


def test_under_a_mask_values_are_stored_as_they_are() -> None:
    stage = stage_of("mlp", hidden=[20])
    first = stage.weights()[0]
    mask(stage, first, first.latent.abs() > first.latent.abs().median())
    GongVQ().prepare(stage=stage)
    weight = stage.weights()[0]
    assert torch.equal(weight.value == 0, ~weight.alive)
    assert weight.stack is not None
    made, plain = weight.stack.transforms["gong-vq"], Coding(VectorCodes([1, 1, 1], [1, 1])._codec())
    assert isinstance(made, VectorCodes)
    assert made.code(plain, weight.value) is plain


def test_fewer_vectors_than_centers() -> None:
    centers, codes = kmeans(torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]), 16, 0)
    assert torch.equal(centers[codes], torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]))
    assert len(centers) == 2
