"""Text nets of transformers for sequence classification: from a config, a folder or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from condensery.errors import UnknownKey, UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import need, scaled


def build_small(
    facts: TaskFacts,
    name: str,
    *,
    hidden: int = 48,
    depth: int = 2,
    heads: int = 3,
    dropout: float = 0.1,
    attention: Literal["sdpa", "eager"] = "sdpa",
    width: float = 1.0,
) -> nn.Module:
    """Build a small BERT for the task's vocabulary and length."""
    need(facts, name, "text")
    from transformers import BertConfig, BertForSequenceClassification

    hidden = scaled(width, hidden) // heads * heads
    config = BertConfig(
        vocab_size=facts.vocabulary,
        hidden_size=hidden,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=facts.length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=facts.outputs,
        pad_token_id=0,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config)


def build_hf(
    facts: TaskFacts, name: str, *, pretrained: bool = False, attention: str | None = None, **config: Any
) -> nn.Module:
    """Build ``hf/<model type, folder or hub id>`` for sequence classification; settings override its config.

    :param pretrained: take the published weights too (``weights: hub`` in a recipe).
    :raises UsageError: if there is no such config or weights.
    """
    need(facts, f"hf/{name}", "text")
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSequenceClassification

    if attention is not None:
        config["attn_implementation"] = attention
    try:
        if name in CONFIG_MAPPING:
            if pretrained:
                raise UsageError(f"model 'hf/{name}' is a type without weights; give a folder or a hub id")
            config.setdefault("vocab_size", facts.vocabulary)
            made = AutoConfig.for_model(name, num_labels=facts.outputs, **config)
            if getattr(made, "pad_token_id", None) is None:
                made.pad_token_id = 0
        elif "/" not in name and not Path(name).exists():
            raise UnknownKey("transformers model type", name, CONFIG_MAPPING)
        else:
            made = AutoConfig.from_pretrained(name, num_labels=facts.outputs, **config)
            if pretrained:
                return AutoModelForSequenceClassification.from_pretrained(name, config=made)  # type: ignore[no-any-return]
        return AutoModelForSequenceClassification.from_config(made)  # type: ignore[no-any-return]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"model 'hf/{name}': {str(error).splitlines()[0]}") from None
