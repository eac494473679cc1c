from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from condensery import NotApplicable, Stage, Transform, Weight, hookimpl
from condensery.nets import QUANTIZE, Coding, Dense
from condensery.recipe import derive_seed
from condensery_plugins.codecs.codebooks import ProductCodebook, ResidualCodebook
from condensery_plugins.quantization.calibration import refuse_quantized
from condensery_plugins.quantization.kmeans_sharing import shared_weights
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.signs import ScaledSign

Scheme = Literal["binary", "k-means", "product", "residual"]
Centers = tuple[Tensor, Tensor]
"""Of some vectors, and the place of each vector's own: ``(centers, length)`` and ``(vectors,)``."""
ROUNDS = 100
"""Of k-means at most; it stops when little moves."""


class VectorCodes(Transform):
    """Holds a matrix at what its codes stand for: pieces of rows, or sums of whole rows. Nothing of it trains.

    A cut leaves the values of what stays, each row whole: then nothing is saved any more.

    :param books: shape of the codebooks, ``(codebooks, entries, length)``.
    :param codes: shape of the codes, ``(rows, codebooks)``.
    :param residual: a row is the sum of one entry of each codebook, otherwise they stand one after another.
    :param across: rows run along dimension 0 of the matrix.
    """

    key = "vector-codes"
    rank = QUANTIZE
    codebooks: Tensor
    codes: Tensor

    def __init__(self, books: list[int], codes: list[int], residual: bool = False, across: bool = False) -> None:
        super().__init__()
        self.residual, self.across = residual, across
        self.register_buffer("codebooks", torch.zeros(books))
        self.register_buffer("codes", torch.zeros(codes, dtype=torch.int32))

    @classmethod
    def of(cls, codebooks: Tensor, codes: Tensor, residual: bool = False, across: bool = False) -> VectorCodes:
        """Return a transform with some codes."""
        made = cls(list(codebooks.shape), list(codes.shape), residual, across)
        made.codebooks.copy_(codebooks)
        made.codes.copy_(codes)
        return made

    def _codec(self) -> ProductCodebook | ResidualCodebook:
        if self.residual:
            return ResidualCodebook(self.codebooks, self.codes, self.across)
        return ProductCodebook(self.codebooks, self.across)

    def forward(self, value: Tensor) -> Tensor:
        """Return what the codes stand for, of the matrix' shape."""
        return self._codec().decode({"codes": self.codes, "codebooks": self.codebooks}, value.shape)

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Let each row that is left after a cut be an entry of its own."""
        rows, numbers = len(self.codes), self.codebooks.shape[2] * (1 if self.residual else len(self.codebooks))
        shape = torch.Size([numbers, rows] if self.across else [rows, numbers])
        values = take(self(self.codebooks.new_zeros(shape)))

        self.residual = self.across = False
        self.codebooks = values.unsqueeze(0)
        self.codes = torch.arange(len(values), dtype=torch.int32, device=values.device)[:, None]

    def config(self) -> dict[str, Any]:
        """Return shapes and kind."""
        shapes = {"books": list(self.codebooks.shape), "codes": list(self.codes.shape)}
        return {**shapes, "residual": self.residual, "across": self.across}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return codes and codebooks, unless a mask has taken away some of what they stand for."""
        return Coding(self._codec()) if torch.equal(self(final), final) else coding


def kmeans(vectors: Tensor, count: int, seed: int) -> Centers:
    """Return centers by k-means++ and Lloyd's rounds; one that is left without vectors moves to the farthest of all.

    :param vectors: ``(vectors, length)``.
    :param count: of the centers; fewer where fewer vectors differ.
    :returns: centers, ``(centers, length)`` of float32, and the place of each vector's, ``(vectors,)``.
    """
    points = vectors.detach().cpu().double().numpy()
    count = min(count, len(np.unique(points, axis=0)))
    found = KMeans(count, n_init=1, max_iter=ROUNDS, random_state=seed % 2**32).fit(points)
    centers = torch.from_numpy(found.cluster_centers_).float().to(vectors.device)
    return centers, torch.from_numpy(found.labels_).long().to(vectors.device)


@dataclass(eq=False, kw_only=True)
class GongVQ(Quantizer):
    """Cluster the weights of dense layers, one by one, in pieces of rows, or by whole rows, and keep the centers alone.

    Gong, Liu, Yang, Bourdev: "Compressing Deep Convolutional Networks using Vector Quantization", 2014 [35].
    ``k-means`` clusters all numbers of a layer. ``product`` cuts each row into pieces of ``length`` numbers, and those
    at the same place have a codebook of their own. ``residual`` clusters whole rows, and again what is left, with as
    many ``books``. ``binary`` keeps signs. ``axis`` says what a row is: the weights of one output, or of one input.

    When: everything happens as the stage starts, on the trained net. Nothing trains in the paper: ``epochs: 0``.

    End: an artifact holds codes and codebooks, which weigh much in small layers.

    Raises NotApplicable if the net has no dense layer, or where one is quantized already.
    """

    key = "gong-vq"

    leaves = frozenset({"palette", "quantized-weights"})

    scheme: Scheme = "product"
    centers: int = 16
    length: int = 2
    books: int = 2
    axis: Literal["inputs", "outputs"] = "inputs"
    layers: list[str] = dataclasses.field(default_factory=lambda: ["*"])

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Cluster the chosen layers and attach codes and centers."""
        dense = stage.weights(kinds=(nn.Linear,))
        if not dense:
            raise NotApplicable(self.key, "the net has no dense layer")

        self.lost_, self.power_, self.plain_, self.stored_ = 0.0, 0.0, 0, 0
        for path in stage.layers(self.layers, f"{self.key}.layers", dense.paths):
            weight = dense.by_path[path]
            refuse_quantized(self.key, weight)
            before, made = weight.value, self._clustered(weight, derive_seed(self.key, stage.seed, path))
            stage.attach(weight.name, self.key, made)
            self._count(before, stage.weights(kinds=(nn.Linear,)).by_path[path].value, made)

    def _clustered(self, weight: Weight, seed: int) -> Transform:
        """Return the quantizer of one layer."""
        if self.scheme == "binary":
            return ScaledSign()
        if self.scheme == "k-means":
            bits = max(1, (self.centers - 1).bit_length())
            made = shared_weights(weight, bits, self.centers, "density", ROUNDS, seed)[0]
            made.centers.requires_grad_(False)  # training them afterwards would be Deep Compression
            return made

        across = self.axis == "outputs"
        rows = weight.value.T if across else weight.value
        found = self._by_rows(rows, seed) if self.scheme == "residual" else self._by_pieces(rows, seed)

        # Where some have fewer centers than others, as few rows differ, zeros that no code names fill them up.
        most = max(len(centers) for centers, _ in found)
        books = torch.stack([nn.functional.pad(centers, (0, 0, 0, most - len(centers))) for centers, _ in found])
        codes = torch.stack([members for _, members in found], 1)
        return VectorCodes.of(books, codes, self.scheme == "residual", across)

    def _by_pieces(self, rows: Tensor, seed: int) -> list[Centers]:
        """Return the centers of each place's pieces, which are the longest that part a row evenly.

        :param rows: ``(rows, numbers)``.
        """
        length = max(n for n in range(1, self.length + 1) if rows.shape[1] % n == 0)
        return [kmeans(piece, self.centers, seed) for piece in torch.split(rows, length, 1)]

    def _by_rows(self, rows: Tensor, seed: int) -> list[Centers]:
        """Return the centers of whole rows, of what these leave, and so on.

        :param rows: ``(rows, numbers)``.
        """
        found: list[Centers] = []
        for _ in range(self.books):
            centers, members = kmeans(rows, self.centers, seed)
            found.append((centers, members))
            rows = rows - centers[members]
        return found

    def _count(self, before: Tensor, after: Tensor, made: Transform) -> None:
        """Add up what the codes lose, and what they take."""
        cost = made.code(Coding(Dense.of(after)), after).cost(after)
        self.lost_ += float((before - after).double().square().sum())
        self.power_ += float(before.double().square().sum())
        self.plain_ += before.numel() * 4
        self.stored_ += cost.total

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the squared error as a share of the squares, how many times smaller layers are, and their share."""
        return {
            "error_percent": 100 * self.lost_ / max(self.power_, 1e-30),
            "dense_rate_ratio": self.plain_ / max(1, self.stored_),
            **stage.reached(self.held(stage)),
        }
