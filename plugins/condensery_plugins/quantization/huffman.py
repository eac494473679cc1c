from __future__ import annotations

from dataclasses import dataclass

from condensery.contract import Method, hookimpl
from condensery.run import Stage
from condensery_plugins.codecs.entropy_coded import EntropyCoded


@dataclass(eq=False, kw_only=True)
class HuffmanCoding(Method):
    """Store what other methods left, codes and indices, by Huffman's code; no value changes.

    Han, Mao, Dally: "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
    Huffman Coding", ICLR 2016 [89], section 4. Each layer has its own tables, one for the codes of its weights and one
    for the distances between them. There is nothing to train: ``epochs: 0``. It holds for methods of later stages too,
    and a second one adds nothing.
    """

    key = "huffman"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Mark every weight."""
        for weight in stage.weights():
            stack = weight.stack
            if stack is None or not any(isinstance(t, EntropyCoded) for t in stack.transforms.values()):
                stage.attach(weight.name, "huffman", EntropyCoded())
