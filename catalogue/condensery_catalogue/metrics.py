"""The numbers that a report will hold, by dotted path, known before anything trains. Imports no torch."""

from __future__ import annotations

from condensery.contract import Registry
from condensery.recipe import Recipe, flat

FIGURES = {
    "parameters": "parameters",
    "nonzeros": "non-zero parameters",
    "bytes": "file (bytes)",
    "macs": "MACs",
    "effective_macs": "effective MACs, weights that are not zero",
    "bitops": "bit operations",
    "moved_bytes": "bytes moved, weights at their stored width",
    "memory_bytes": "peak memory of activations (bytes)",
}
BATCHED = {"latency_batch64_ms": "latency, batch 64 (ms, median)", "fps": "examples per second, batch 64"}
"""What ``measure --batched`` adds; no report has it."""
STORAGE = {
    "file": "file (bytes)",
    "payload": "payload (bytes)",
    "tables": "tables (bytes)",
    "header": "header (bytes)",
    "manifest": "manifest (bytes)",
    "kilobytes": "payload and tables (KB)",
}
TRAINING = {
    "loss": "loss of the task in the last epoch",
    "sent_bytes": "gradients that a worker sends in a step (bytes)",
    "plain_bytes": "the same as floats (bytes)",
    "sent_ratio": "gradients sent, floats over codes (x)",
}
RATIOS = {
    "parameters_removed": "parameters removed",
    "parameters_removed_percent": "parameters removed (%)",
    "compression_rate": "file, before over after (x)",
    "storage_rate": "size as papers count it, before over after (x)",
    "nonzeros": "non-zero parameters, before over after (x)",
    "macs": "MACs, before over after (x)",
    "macs_removed_percent": "MACs removed (%)",
    "effective_macs": "effective MACs, before over after (x)",
    "bitops": "bit operations, before over after (x)",
    "moved_bytes": "bytes moved, before over after (x)",
    "speedup": "latency of batch 1, before over after (x)",
}


def measures(registry: Registry, recipe: Recipe) -> dict[str, str]:
    """Return the numbers of a recipe's report, by dotted path, each in words with its unit.

    :raises UnknownKey: for a task or a method that there isn't.
    """
    metrics = registry.load("tasks", recipe.task.key).metrics
    quality = {f"quality.{m.name}": f"{m.name} ({m.unit})" for m in metrics}
    figures = FIGURES | {"latency_ms": "latency, batch 1 (ms, median)"} | quality
    known = {"wall_s": "wall time (s)"}
    for side, mark in (("after", ""), ("before", ", before")):
        known |= {f"{side}.{name}": words + mark for name, words in figures.items()}
    if recipe.validation:
        known |= {f"validation.{m.name}": f"{m.name} ({m.unit}), validation" for m in metrics}
    known |= {f"after.storage.{name}": words for name, words in STORAGE.items()}
    for method in {method.key for stage in flat(recipe.stages) for method in stage.methods}:
        reports = registry.load("methods", method).reports
        known |= {f"reported.{method}.{name}": f"{method}, {name}" for name in reports}
    known |= {f"training.{name}": words for name, words in TRAINING.items()}
    return known | {f"ratios.{name}": words for name, words in RATIOS.items()}
