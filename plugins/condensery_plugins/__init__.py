"""The built-in plugin: one file per cited method, and the models and tasks they are tried on. Imports no torch."""

from __future__ import annotations

from condensery.contract import Register, RegisterCard, hookimpl

METHODS = (
    ("activation-gradient-pruning-dbtd", "pruning.activation_gradient_pruning_dbtd:ActivationGradientPruningDBTD"),
    ("asymptotic-soft-filter-pruning", "pruning.asymptotic_soft_filter_pruning:AsymptoticSoftFilterPruning"),
    ("deep-mutual-learning", "distillation.deep_mutual_learning:DeepMutualLearning"),
    ("filter-pruning", "pruning.filter_pruning:FilterPruning"),
    ("gradual-magnitude-pruning", "pruning.gradual_magnitude_pruning:GradualMagnitudePruning"),
    ("group-brain-damage", "pruning.group_brain_damage:GroupBrainDamage"),
    ("hinton-kd", "distillation.hinton_kd:HintonKD"),
    ("huffman", "quantization.huffman:HuffmanCoding"),
    ("jacob-integer-only", "quantization.jacob_integer_only:JacobIntegerOnly"),
    ("kmeans-sharing", "quantization.kmeans_sharing:KMeansSharing"),
    ("l1-filter-pruning", "pruning.l1_filter_pruning:L1FilterPruning"),
    ("lsq", "quantization.lsq:LSQ"),
    ("magnitude", "pruning.magnitude:Magnitude"),
    ("network-slimming", "pruning.network_slimming:NetworkSlimming"),
    ("obd", "pruning.obd:OptimalBrainDamage"),
    ("obs", "pruning.obs:OptimalBrainSurgeon"),
    ("prune-then-distill", "joint.prune_then_distill:PruneThenDistill"),
    ("qkd", "joint.qkd:QKD"),
    ("residual-block-pruning", "pruning.block_pruning:ResidualBlockPruning"),
    ("soft-filter-pruning", "pruning.soft_filter_pruning:SoftFilterPruning"),
    ("ssl", "pruning.ssl:StructuredSparsityLearning"),
    ("structured-magnitude", "pruning.structured_magnitude:StructuredMagnitude"),
    ("thinet", "pruning.thinet:ThiNet"),
)
CODECS = (
    ("affine", "codecs.affine:Affine"),
    ("bitmap", "codecs.bitmap:Bitmap"),
    ("huffman", "codecs.huffman:Huffman"),
    ("palette", "codecs.palette:Palette"),
    ("product-codebook", "codecs.codebooks:ProductCodebook"),
    ("residual-codebook", "codecs.codebooks:ResidualCodebook"),
    ("sparse-index", "codecs.sparse_index:SparseIndex"),
    ("ternary", "codecs.ternary:Ternary"),
)
LAYERS = (
    ("channel-selection", "pruning.channel_selection:ChannelSelection"),
    ("entropy-coded", "codecs.entropy_coded:EntropyCoded"),
    ("folded-conv2d", "quantization.folded_layers:FoldedConv2d"),
    ("folded-linear", "quantization.folded_layers:FoldedLinear"),
    ("gradient-pruner", "pruning.activation_gradient_pruning_dbtd:GradientPruner"),
    ("integer-conv2d", "quantization.integer_layers:IntegerConv2d"),
    ("integer-linear", "quantization.integer_layers:IntegerLinear"),
    ("interval-quantizer", "joint.qkd:IntervalQuantizer"),
    ("lsq-step", "quantization.lsq:LearnedStep"),
    ("mask", "pruning.masks:Mask"),
    ("shared-weights", "quantization.kmeans_sharing:SharedWeights"),
    ("thinned-conv2d", "pruning.thinned:ThinnedConv2d"),
    ("thinning-mask", "pruning.thinned:ThinningMask"),
)
TASKS = (
    ("cifar10", "tasks.cifar:Cifar10"),
    ("cifar100", "tasks.cifar:Cifar100"),
    ("cola", "tasks.glue:Cola"),
    ("digits", "tasks.digits:Digits"),
    ("fashion-mnist", "tasks.mnist:FashionMnist"),
    ("mnist", "tasks.mnist:Mnist"),
    ("monk", "tasks.monk:Monk"),
    ("mrpc", "tasks.glue:Mrpc"),
    ("rte", "tasks.glue:Rte"),
    ("sst2", "tasks.glue:Sst2"),
    ("stsb", "tasks.glue:Stsb"),
    ("word-language", "tasks.word_language:WordLanguage"),
)
MODELS = (
    ("hf/*", "models.transformers_text:build_hf"),
    ("lenet-300-100", "models.mlp:build_lenet_300_100"),
    ("lenet-5", "models.lenet:build"),
    ("mlp", "models.mlp:build"),
    ("resnet110", "models.resnet:build"),
    ("resnet20", "models.resnet:build"),
    ("resnet32", "models.resnet:build"),
    ("resnet44", "models.resnet:build"),
    ("resnet56", "models.resnet:build"),
    ("resnet8", "models.resnet:build"),
    ("timm/*", "models.timm_images:build"),
    ("transformer", "models.transformers_text:build_small"),
    ("vgg16-bn", "models.vgg:build"),
    ("vgg19-bn", "models.vgg:build"),
    ("vit", "models.timm_images:build_vit"),
)


def _offer(register: Register, entries: tuple[tuple[str, str], ...]) -> None:
    for key, target in entries:
        register(key, f"{__name__}.{target}")


@hookimpl
def register_papers(register: RegisterCard) -> None:
    """Offer the cards."""
    from condensery_plugins.cards import load_index

    for key, card in load_index().items():
        register(key, card)


@hookimpl
def register_methods(register: Register) -> None:
    """Offer the methods."""
    _offer(register, METHODS)


@hookimpl
def register_codecs(register: Register) -> None:
    """Offer the ways to store a tensor."""
    _offer(register, CODECS)


@hookimpl
def register_layers(register: Register) -> None:
    """Offer the transforms and layers that checkpoints and artifacts rebuild."""
    _offer(register, LAYERS)


@hookimpl
def register_tasks(register: Register) -> None:
    """Offer the tasks."""
    _offer(register, TASKS)


@hookimpl
def register_models(register: Register) -> None:
    """Offer the models."""
    _offer(register, MODELS)
