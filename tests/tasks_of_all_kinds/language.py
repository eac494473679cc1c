"""A causal language model: each token is told from those before it; batches are padded to their longest row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from condensery import Batch
from condensery.tasks import Accumulated, Metric, TaskFacts

VOCABULARY, LONGEST, NONE = 11, 9, -100


class Language(Made):
    """Counting on from any number, modulo the vocabulary, in steps of one or two."""

    key = "made-language"
    ignore_index = NONE
    metrics = (Metric("perplexity", "perplexity", False),)
    facts = TaskFacts("text", outputs=VOCABULARY, vocabulary=VOCABULARY, length=LONGEST)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        def row() -> Tensor:
            start, step, length = (int(torch.randint(low, high, (), generator=generator)) for low, high in SPANS)
            return (start + step * torch.arange(length)) % VOCABULARY

        return [row() for _ in range(examples)]

    def batch(self, examples: Sequence[Tensor]) -> Batch:
        ids = pad_sequence(list(examples), batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in examples], batch_first=True)
        return Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, NONE)[:, 1:])

    def example(self, batch_size: int = 2) -> dict[str, Tensor]:
        ids = torch.arange(batch_size * LONGEST).view(batch_size, LONGEST) % VOCABULARY
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what each token but the last says of the next one, ``(batch, vocabulary, tokens - 1)``."""
        logits: Tensor = super().outputs(model, batch)
        return logits[:, :-1].transpose(1, 2)

    def meter(self) -> Accumulated:
        """Return the perplexity, padding left out."""
        from torchmetrics.text import Perplexity

        metric = Perplexity(ignore_index=NONE)
        return Accumulated({"perplexity": (metric, 1)}, lambda outputs: outputs.transpose(1, 2))


SPANS = (0, VOCABULARY), (1, 3), (3, LONGEST + 1)
"""Of a row's first number, its step and its length."""


def build_gpt2(facts: TaskFacts, name: str) -> nn.Module:
    """Build a small GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=facts.vocabulary,
        n_positions=facts.length,
        n_embd=16,
        n_layer=2,
        n_head=2,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def build_llama(facts: TaskFacts, name: str) -> nn.Module:
    """Build a small Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=facts.vocabulary,
        max_position_embeddings=facts.length,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        use_cache=False,
    )
    return LlamaForCausalLM(config)
