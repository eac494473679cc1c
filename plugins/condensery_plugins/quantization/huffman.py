from __future__ import annotations

from dataclasses import dataclass

from condensery import Layer, Method, NotApplicable, Stage, Transform, Weight, hookimpl
from condensery_plugins.codecs.entropy_coded import EntropyCoded


@dataclass(eq=False, kw_only=True)
class HuffmanCoding(Method):
    """Store what other methods left, codes and indices, by Huffman's code; no value changes.

    Han, Mao, Dally: "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
    Huffman Coding", ICLR 2016 [89], section 4. Each layer has its own tables, one for the codes of its weights and one
    for the distances between them.

    When: weights are marked as the stage starts. There is nothing to train: ``epochs: 0``.

    End: the artifact is written by it, whatever methods of later stages leave; a second one adds nothing.

    Raises NotApplicable where no method has left whole numbers to code.
    """

    key = "huffman"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Mark every weight."""
        if not any(_has_numbers(weight) for weight in stage.weights()):
            why = "no weight is pruned, shared or quantized yet: there is nothing to code"
            raise NotApplicable(self.key, f"{why}; put a method before it that prunes or shares weights")
        for weight in stage.weights():
            stack = weight.stack
            if stack is None or not any(isinstance(t, EntropyCoded) for t in stack.transforms.values()):
                stage.attach(weight.name, self.key, EntropyCoded())


def _has_numbers(weight: Weight) -> bool:
    """Tell whether an artifact stores a weight in whole numbers: a transform or its layer says so."""
    transforms = () if weight.stack is None else weight.stack.transforms.values()
    told = any(type(t).code is not Transform.code for t in transforms if isinstance(t, Transform))
    return told or isinstance(weight.module, Layer)
