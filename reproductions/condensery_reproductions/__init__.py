"""One recipe per paper, as data; the catalogue runs them."""

from __future__ import annotations

from condensery.contract import Register, hookimpl

REPRODUCTIONS = (
    "activation-gradient-pruning-dbtd",
    "asymptotic-soft-filter-pruning",
    "deep-compression",
    "deep-mutual-learning",
    "filter-pruning",
    "gradual-magnitude-pruning",
    "group-brain-damage",
    "hinton-kd",
    "jacob-integer-only",
    "l1-filter-pruning",
    "lsq",
    "magnitude",
    "network-slimming",
    "obd",
    "obs",
    "prune-then-distill",
    "pruning-at-2x",
    "qkd",
    "residual-block-pruning",
    "soft-filter-pruning",
    "ssl",
    "structured-magnitude-minilm",
    "structured-magnitude-vit",
    "thinet",
)


@hookimpl
def register_recipes(register: Register) -> None:
    """Offer the reproductions."""
    for key in REPRODUCTIONS:
        register(key, f"{__name__}:recipes/{key}.yaml")
