"""Text nets of transformers for sequence classification: a small BERT, or one from a type, a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from condensery import UnknownKey, UsageError
from condensery.errors import nearest
from condensery.tasks import TaskFacts
from condensery_plugins.hub import expanded, find_source, one_line
from condensery_plugins.models.facts import builder, scaled, shared

ATTENTION = ("eager", "sdpa")
LOADING = {
    "trust_remote_code", "auto_map", "code_revision", "revision", "subfolder", "cache_dir", "force_download", "token",
    "proxies", "local_files_only", "attn_implementation", "quantization_config", "use_kernels", "kernel_config",
}  # fmt: skip
"""What transformers takes beside a config's own fields: where things come from, and whose code computes them."""
NAMES = ("model_type", "architectures", "transformers_version", "id2label", "label2id", "torch_dtype", "dtype")
"""Fields of a config that say where it's from, or repeat others."""
MOST_LABELS = 100_000
"""A config has a name for each label, which is copied with every net: a million took seconds."""


def _labels(facts: TaskFacts) -> int:
    """Return the number of labels of a sequence classifier.

    :raises UsageError: if there are too many.
    """
    if facts.outputs > MOST_LABELS:
        raise UsageError(f"a sequence classifier has at most {MOST_LABELS:,} labels, the task {facts.outputs:,}")
    return facts.outputs


@builder("text")
def build_small(
    facts: TaskFacts,
    name: str,
    *,
    hidden: int = 48,
    depth: int = 2,
    heads: int = 3,
    intermediate: int | None = None,
    dropout: float = 0.1,
    attention: str = "sdpa",
    width: float = 1.0,
) -> nn.Module:
    """Build a small BERT for the task's vocabulary and length.

    :param hidden: width of the tokens, before ``width``.
    :param intermediate: units of each MLP, before ``width``; four times ``hidden`` where it isn't given.
    :param attention: ``sdpa``, or ``eager``, which computes the attention maps explicitly.
    """
    from transformers import BertConfig, BertForSequenceClassification

    _check_attention(name, attention)
    size = scaled(width, shared(name, "hidden", hidden, heads), multiple=heads)
    settings: dict[str, Any] = {
        "vocab_size": facts.vocabulary,
        "hidden_size": size,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": 4 * size if intermediate is None else scaled(width, intermediate),
        "max_position_embeddings": facts.length,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        # BERT's 0.02 is meant for a width of 768; a narrow net that starts so small takes many epochs to wake up.
        "initializer_range": 0.02 * (768 / size) ** 0.5,
        "num_labels": _labels(facts),
        "pad_token_id": 0,
        "attn_implementation": attention,
    }
    return BertForSequenceClassification(BertConfig(**settings))


@builder("text", family="hf/")
def build_hf(
    facts: TaskFacts, name: str, *, pretrained: bool = False, attention: str | None = None, **config: Any
) -> nn.Module:
    """Build ``hf/<name>`` for sequence classification; settings override its config under their own names.

    No code that comes with a folder or a hub id is run, and no pickle is read: safetensors only.

    :param name: a model type of transformers (``bert``, ``distilbert``), which gets the task's vocabulary; a folder
        with a ``/`` in its path, ``./mine`` (environment variables are expanded); or a hub id, whose revision is not
        pinned.
    :param pretrained: take the weights that lie there too (``weights: hub`` in a recipe); the net's vocabulary must
        then be the task's.
    :param attention: ``sdpa`` or ``eager``; transformers' own choice where it isn't given.
    :raises UnknownKey: for a model type or a setting that doesn't exist.
    :raises UsageError: if there is no such config or weights, or they don't fit the task.
    """
    key = f"hf/{name}"
    if attention is not None:
        _check_attention(key, attention)
    if "depth" in config:
        config["num_hidden_layers"] = config.pop("depth")
    if not pretrained:
        config.setdefault("vocab_size", facts.vocabulary)

    source, made = _config(key, name, pretrained, {**config, "num_labels": _labels(facts)})
    _check_fit(key, facts, made, pretrained)
    net = _net(key, source, made, pretrained, {} if attention is None else {"attn_implementation": attention})
    if source != made.model_type:
        _make_portable(net, made, {} if attention is None else {"attention": attention})
    return net


def _net(key: str, source: str, config: Any, pretrained: bool, settings: dict[str, str]) -> nn.Module:
    """Make the net of a config, with random weights or those that lie beside it."""
    from transformers import AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    try:
        if pretrained:
            net = auto.from_pretrained(
                source,
                config=config,
                local_files_only=expanded(source).is_dir(),
                trust_remote_code=False,
                use_safetensors=True,
                **settings,
            )
        else:
            net = auto.from_config(config, trust_remote_code=False, **settings)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"model {key!r}: {one_line(error)}") from None
    assert isinstance(net, nn.Module)
    return net


def _make_portable(net: Any, config: Any, settings: dict[str, str]) -> None:
    """Let an artifact load where the folder or the hub isn't: it then names the type, and what differs from its own."""
    for module in net.modules():
        if hasattr(module, "name_or_path"):
            module.name_or_path = ""

    known = type(config)().to_dict()
    said = {n: v for n, v in config.to_diff_dict().items() if n in known and n[0] != "_" and n not in NAMES}
    net.portable_spec = {"key": f"hf/{config.model_type}", **settings, **said}


def _config(key: str, name: str, pretrained: bool, settings: dict[str, Any]) -> tuple[str, Any]:
    """Return where a model comes from, and its config with some settings of its own."""
    from transformers import CONFIG_MAPPING, AutoConfig

    types = list(CONFIG_MAPPING.keys())
    if name in types:
        if pretrained:
            raise UsageError(f"model {key!r} is a type without weights; give a folder or a hub id")
        # The padding of the tasks' own vocabularies; a type's usual one may be a word there, or missing.
        return name, _with(key, partial(AutoConfig.for_model, name), {"pad_token_id": 0, **settings})

    # A bare name is a type: that of an artifact must not come to mean a folder that happens to lie here.
    if "/" not in name and "$" not in name:
        if expanded(name).is_dir():
            raise UsageError(f"model {key!r}: no such type; write hf/./{name} for the folder")
        near = nearest(name, types, 0.8)
        unknown = UnknownKey("transformers model type", name, [near] if near else ())
        how = f"a published net has its owner, or a folder: hf/OWNER/{name}(weights=hub)"
        raise UsageError(f"{unknown}{'' if near else ';'} {how}")
    source, is_folder = find_source(name, f"model {key!r}")

    def read(**given: Any) -> Any:
        return AutoConfig.from_pretrained(source, local_files_only=is_folder, trust_remote_code=False, **given)

    return source, _with(key, read, settings)


def _with(key: str, make: Callable[..., Any], settings: dict[str, Any]) -> Any:
    """Make a config twice: as it comes, to learn which settings it has, then with the given ones."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    try:
        plain = make()
        if type(plain) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise UsageError(f"model {key!r}: transformers has no sequence classification for {plain.model_type!r}")

        if getattr(plain, "quantization_config", None) or plain._attn_implementation not in (None, *ATTENTION):
            raise UsageError(f"model {key!r}: its config asks for other code than transformers' own to compute it")

        # A folder's config may hold any field, also one that transformers would obey instead of storing it.
        known = {*plain.to_dict(), *plain.attribute_map, "num_labels"} - LOADING
        for setting in sorted(set(settings) - known - {"vocab_size"}):
            raise UnknownKey("setting", setting, known | {"depth", "attention"}, where=f"model {key!r}")
        return make(**settings)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise UsageError(f"model {key!r}: {one_line(error)}") from None


def _check_fit(key: str, facts: TaskFacts, config: Any, pretrained: bool) -> None:
    """Refuse a config for another vocabulary or length; give a net without padding one."""
    words = config.vocab_size
    # Published nets may round their vocabulary up, but a task with far fewer words has another one.
    if words < facts.vocabulary or (pretrained and words > 1.05 * facts.vocabulary):
        raise UsageError(
            f"model {key!r} has a vocabulary of {words}, the task's is {facts.vocabulary}; "
            "give the task the net's own tokenizer: tokenizer=<folder or hub id>"
        )

    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and positions < facts.length:
        raise UsageError(f"model {key!r} takes {positions} tokens, the task gives {facts.length}; shorten its length")

    if config.pad_token_id is None or config.pad_token_id >= words:
        config.pad_token_id = 0


def _check_attention(key: str, attention: str) -> None:
    if attention not in ATTENTION:
        raise UnknownKey("attention", attention, ATTENTION, where=f"model {key!r}")
