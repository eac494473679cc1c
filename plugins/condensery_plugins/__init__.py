"""The built-in plugin: one file per cited method with its card beside it, and the models and tasks they are tried on.

Methods, their layers and their cards are found in the folders. Imports no torch.
"""

from __future__ import annotations

from condensery.contract import Papers, Register, RegisterWeighted, hookimpl
from condensery_plugins.attention import ROWS

CODECS = (
    ("affine", "codecs.affine:Affine"),
    ("binary-basis", "codecs.binary_basis:BinaryBasis"),
    ("bitmap", "codecs.bitmap:Bitmap"),
    ("huffman", "codecs.huffman:Huffman"),
    ("moved", "codecs.moved:Moved"),
    ("offset", "codecs.offset:Offset"),
    ("palette", "codecs.palette:Palette"),
    ("product-codebook", "codecs.codebooks:ProductCodebook"),
    ("residual-codebook", "codecs.codebooks:ResidualCodebook"),
    ("signs", "codecs.signs:Signs"),
    ("sparse-index", "codecs.sparse_index:SparseIndex"),
    ("ternary", "codecs.ternary:Ternary"),
)
LAYERS = (
    ("channel-selection", "pruning.channel_selection:ChannelSelection"),
    ("entropy-coded", "codecs.entropy_coded:EntropyCoded"),
    ("folded-conv2d", "quantization.folded_layers:FoldedConv2d"),
    ("folded-linear", "quantization.folded_layers:FoldedLinear"),
    ("integer-conv2d", "quantization.integer_layers:IntegerConv2d"),
    ("integer-linear", "quantization.integer_layers:IntegerLinear"),
    ("mask", "pruning.masks:Mask"),
    ("scaled-sign", "quantization.signs:ScaledSign"),
    ("scaled-ternary", "quantization.signs:ScaledTernary"),
    ("tanh-levels", "quantization.tanh_levels:TanhLevels"),
    ("thinned-conv2d", "pruning.thinned:ThinnedConv2d"),
    ("thinning-mask", "pruning.thinned:ThinningMask"),
    ("uniform", "quantization.uniform:Uniform"),
)
"""Those that several methods share; a method's own stand in its card."""
SEARCHES = (
    ("nsga2", "searches.drawn:EvolutionarySearch"),
    ("random", "searches.drawn:RandomSearch"),
    ("tpe", "searches.drawn:TreeParzenSearch"),
)
TASKS = (
    ("acrobot", "tasks.control:Acrobot"),
    ("brightest", "tasks.brightest:Brightest"),
    ("cartpole", "tasks.control:CartPole"),
    ("cifar10", "tasks.cifar:Cifar10"),
    ("cifar100", "tasks.cifar:Cifar100"),
    ("cola", "tasks.glue:Cola"),
    ("control", "tasks.control:Control"),
    ("digit-rows", "tasks.digits:DigitRows"),
    ("digits", "tasks.digits:Digits"),
    ("digits-keypoints", "tasks.keypoints:DigitsKeypoints"),
    ("fashion-mnist", "tasks.mnist:FashionMnist"),
    ("mnist", "tasks.mnist:Mnist"),
    ("mnist-keypoints", "tasks.keypoints:MnistKeypoints"),
    ("monk", "tasks.monk:Monk"),
    ("mrpc", "tasks.glue:Mrpc"),
    ("rte", "tasks.glue:Rte"),
    ("spoken-digits", "tasks.spoken_digits:SpokenDigits"),
    ("squares", "tasks.squares:Squares"),
    ("sst2", "tasks.glue:Sst2"),
    ("stsb", "tasks.glue:Stsb"),
    ("word-language", "tasks.word_language:WordLanguage"),
    ("xor", "tasks.xor:Xor"),
)
MODELS = (
    ("cell-detector", "models.cells:build"),
    ("heat-maps", "models.heat_maps:build"),
    ("hf/*", "models.transformers_text:build_hf"),
    ("lenet-300-100", "models.mlp:build_lenet_300_100"),
    ("lenet-5", "models.lenet:build"),
    ("lstm", "models.lstm:build"),
    ("mlp", "models.mlp:build"),
    ("pixel-classifier", "models.pixels:build"),
    ("plane10", "models.plane:build"),
    ("plane2", "models.plane:build"),
    ("plane4", "models.plane:build"),
    ("plane6", "models.plane:build"),
    ("plane8", "models.plane:build"),
    ("policies", "models.policies:build"),
    ("resnet110", "models.resnet:build"),
    ("resnet14", "models.resnet:build"),
    ("resnet20", "models.resnet:build"),
    ("resnet26", "models.resnet:build"),
    ("resnet32", "models.resnet:build"),
    ("resnet44", "models.resnet:build"),
    ("resnet56", "models.resnet:build"),
    ("resnet8", "models.resnet:build"),
    ("timm/*", "models.timm_images:build"),
    ("transformer", "models.transformers_text:build_small"),
    ("vgg-small", "models.vgg_small:build"),
    ("vgg16-bn", "models.vgg:build"),
    ("vgg19-bn", "models.vgg:build"),
    ("vit", "models.timm_images:build_vit"),
)


class Builtin(Papers):
    """The papers of this package, and what several of them share."""

    @hookimpl
    def register_codecs(self, register: Register) -> None:
        """Offer the ways to store a tensor."""
        super().register_codecs(register)
        self._offer(register, CODECS)

    @hookimpl
    def register_layers(self, register: Register) -> None:
        """Offer the transforms and layers that checkpoints and artifacts rebuild."""
        super().register_layers(register)
        self._offer(register, LAYERS)

    @hookimpl
    def register_attention(self, register: Register) -> None:
        """Offer what attention nets of timm and transformers are made of."""
        self._offer(register, ROWS)

    @hookimpl
    def register_weighted(self, register: RegisterWeighted) -> None:
        """Offer the linear layer of GPT-2, whose weight is ``(inputs, outputs)``."""
        register("transformers.pytorch_utils.Conv1D", {"weight": (1, 0)})

    @hookimpl
    def register_tasks(self, register: Register) -> None:
        """Offer the tasks."""
        self._offer(register, TASKS)

    @hookimpl
    def register_searches(self, register: Register) -> None:
        """Offer the outer loops over recipes."""
        self._offer(register, SEARCHES)

    @hookimpl
    def register_models(self, register: Register) -> None:
        """Offer the models."""
        self._offer(register, MODELS)

    def _offer(self, register: Register, entries: tuple[tuple[str, str], ...]) -> None:
        for key, target in entries:
            register(key, f"{self.package}.{target}")


plugin = Builtin(__name__)
