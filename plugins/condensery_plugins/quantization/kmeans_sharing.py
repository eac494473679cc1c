from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, Transform, Weight, hookimpl
from condensery.nets import QUANTIZE, Coding
from condensery.recipe import derive_seed
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.quantization.calibration import levels_beyond, refuse_quantized
from condensery_plugins.quantization.lloyd import Start, lloyd, start_centers


class SharedWeights(Transform):
    """Gives each weight one of a few trained values, by its code; code 0 is zero, code i the center i - 1.

    The latent weight takes no part any more: it gets no gradient and stays. Arithmetic stays in floats, so there are no
    ``bits`` that would count as cheaper multiplications.

    :param code_bits: width of a code.
    :param shape: of the tensor.
    :param count: number of centers.
    """

    key = "shared-weights"
    rank = QUANTIZE
    settings = {"weight_decay": 0.0}
    codes: Tensor

    def __init__(self, code_bits: int, shape: list[int], count: int) -> None:
        super().__init__()
        self.code_bits = code_bits

        dtype = torch.uint8 if count < 2**8 else torch.int16 if count < 2**15 else torch.int32
        self.register_buffer("codes", torch.zeros(shape, dtype=dtype))
        self.centers = nn.Parameter(torch.zeros(count))

    def forward(self, value: Tensor) -> Tensor:
        """Return the centers by code; autograd sums the gradients of all weights that have the same one."""
        levels = torch.cat([self.centers.new_zeros(1), self.centers])
        return levels.index_select(0, self.codes.flatten().int()).view(self.codes.shape)

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Slice the codes after a cut; the centers are the whole layer's."""
        self.codes = take(self.codes)

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels."""
        return levels_beyond(final, 2**self.code_bits)

    def alive(self, latent: Tensor) -> Tensor:
        """Return which weights don't have the code of zero, which is fixed."""
        return self.codes != 0

    def config(self) -> dict[str, Any]:
        """Return bits, shape and number of centers."""
        return {"code_bits": self.code_bits, "shape": list(self.codes.shape), "count": len(self.centers)}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return a codebook of the values that occur, zero first, and a code for each weight."""
        return Coding(Palette(final))


def shared_weights(
    weight: Weight, code_bits: int, levels: int, start: Start, iterations: int, seed: int
) -> tuple[SharedWeights, float]:
    """Return a transform with the clusters of a weight's values that no mask holds at zero, and their squared error.

    :param code_bits: width of a code.
    :param levels: values at most, zero included where a mask holds some.
    """
    alive, value = weight.alive, weight.value
    kept = value[alive]
    count = min(levels - (0 if bool(alive.all()) else 1), kept.numel())
    made = SharedWeights(code_bits, list(value.shape), count)
    if not count:  # a layer may have no weight left
        return made, 0.0

    found = lloyd(kept, start_centers(kept, count, start, seed), iterations)
    with torch.no_grad():
        made.centers.copy_(found.centers)
    made.codes[alive.cpu()] = (found.members + 1).to(made.codes)
    return made, found.inertia


@dataclass(eq=False, kw_only=True)
class KMeansSharing(Method):
    """Let the weights of a layer share few values, found by k-means and then trained.

    Han, Mao, Dally: "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
    Huffman Coding", ICLR 2016 [89], section 3. One-dimensional k-means on the weights that no mask holds at zero,
    each layer by itself. A layer with zeros has 2^bits - 1 centers, so that zero is one of its 2^bits codes; biases are
    left alone. ``layer_bits`` says of some layers how many bits they have, ``bits`` of all others.

    When: clusters are found as the stage starts. The codes are fixed then, and a center's gradient is the sum over its
    weights.

    End: an artifact holds the codes and the values that occur.

    Raises NotApplicable where a layer is quantized already, and for a net without layers that have weights.
    """

    key = "kmeans-sharing"

    needs = frozenset({"float-weights"})
    leaves = frozenset({"palette", "quantized-weights"})
    removes = frozenset({"float-weights"})

    bits: int = 6
    layer_bits: dict[str, int] = dataclasses.field(default_factory=dict)
    init: Start = "linear"
    iterations: int = 300

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Cluster each layer's weights and attach codes and centers."""
        if not stage.weights():
            raise NotApplicable(self.key, "the net has no layer that has weights")
        bits = stage.layers({"*": self.bits, **self.layer_bits}, f"{self.key}.layer_bits")
        self.centers_, self.error_, self.power_ = 0, 0.0, 0.0
        for weight in stage.weights():
            refuse_quantized(self.key, weight)
            self._share(stage, weight, bits[weight.path])

    def _share(self, stage: Stage, weight: Weight, bits: int) -> None:
        """Let the weights of one layer share values, and count what that changes."""
        kept = weight.value[weight.alive]
        seed = derive_seed(self.key, stage.seed, weight.path)
        made, error = shared_weights(weight, bits, 2**bits, self.init, self.iterations, seed)

        self.error_ += error
        self.centers_ += len(made.centers)
        self.power_ += float(kept.double().square().sum())
        stage.attach(weight.name, self.key, made)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the number of centers, and the error that sharing made before training, as a share of the squares."""
        error = 100 * self.error_ / max(self.power_, 1e-30)
        return {"centers_count": float(self.centers_), "error_percent": error, **stage.reached(stage.weights())}
