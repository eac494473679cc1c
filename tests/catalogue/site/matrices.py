"""Made-up matrices: four methods on two nets with each outcome, and one as large as the catalogue's."""

from __future__ import annotations

import random
from typing import Any

from condensery_catalogue.matrix import Cell, Kind, Made, Matrix, NetFacts

METHODS = [("alpha", "pruning"), ("beta", "quantization"), ("gamma", "distillation"), ("delta", "joint")]
MADE = Made("0123456789abcdef", "2026-11-27", "a CPU", ("avx2",), "2.13")
LATER = Made("fedcba9876543210", "2026-11-28", "a CPU", ("avx2",), "2.13")
NET: dict[str, Any] = {"metric": "accuracy", "unit": "%", "higher": True, "chance": 10.0}
NETS = {
    "CNN": NetFacts({"key": "resnet8"}, {"key": "digits"}, **NET, before=93.0, bytes=50_000),
    "ViT": NetFacts({"key": "vit"}, {"key": "digits"}, **NET, before=88.0, bytes=60_000),
}
TAKEN = "beta is not applicable: stage 'beta' lacks <b>weights</b> (delta in stage 'delta' took them away)"
ALONE = "delta is not applicable: stage 'delta' lacks attention layers (there are none here)"


def ran(net: str, kind: Kind, *methods: str, after: float, **more: Any) -> Cell:
    """Return a cell that ran to its end with two seeds, their mean as given."""
    facts = NETS[net]
    said = {"quality": (after - 0.25, after + 0.25), "before": facts.before, "deviation": 0.354, "bytes": 40_000}
    halves = {} if kind == "alone" else {"halves": (92.5, 91.0)}
    known = {"line": " -> ".join(methods), "bytes_before": facts.bytes, "seconds": 1.25, "made": MADE}
    return Cell(net, kind, methods, more.pop("outcome", "works"), **{**said, **halves, **known, **more})


def small() -> Matrix:
    """Return cells of each kind and outcome; of alpha and beta the order makes a difference on the CNN."""
    refused: dict[str, Any] = {"outcome": "refused", "made": MADE}
    return Matrix(
        NETS,
        (
            ran("CNN", "alone", "alpha", after=92.5),
            ran("CNN", "alone", "beta", after=91.0, line="beta(bits=4)", made=LATER),
            ran("CNN", "alone", "gamma", after=93.5, line="gamma{teacher=original}"),
            ran("CNN", "alone", "delta", after=50.0, outcome="worse", collapsed=("conv1",)),
            ran("ViT", "alone", "alpha", after=87.5),
            ran("ViT", "alone", "beta", after=86.0),
            Cell("ViT", "alone", ("delta",), reason=ALONE, **refused),
            ran("CNN", "then", "alpha", "beta", after=92.0, line="alpha -> beta(bits=4)"),
            ran("CNN", "then", "beta", "alpha", after=80.0, outcome="worse", line="beta(bits=4) -> alpha"),
            Cell("CNN", "then", ("delta", "beta"), reason=TAKEN, **refused),
            Cell("CNN", "then", ("delta", "gamma"), reason=TAKEN.replace("beta", "gamma"), **refused),
            Cell("CNN", "then", ("gamma", "delta"), "fails", reason="x.py:1 in f: g()\nValueError: no", made=MADE),
            ran("CNN", "with", "gamma", "beta", after=92.25, line="gamma + beta(bits=4){teacher=original}"),
        ),
    )


def large(methods: int) -> tuple[Matrix, list[tuple[str, str]]]:
    """Return a matrix with as many made-up methods as wanted, every cell of three nets in it."""
    rng = random.Random(0)
    keys = [f"made-up-method-{number:02}" for number in range(methods)]
    nets = dict.fromkeys(("CNN", "ViT", "Transformer"), NETS["CNN"])
    cells = [ran("CNN", "alone", key, after=rng.uniform(80, 95)) for key in keys]
    for net in nets:
        for kind in ("then", "with"):
            for row in keys:
                for column in keys:
                    if row == column or (kind == "with" and row > column):
                        continue
                    if rng.random() < 0.3:
                        why = f"{column} is not applicable: stage '{column}' lacks words ({row} took them away)"
                        cells.append(Cell(net, kind, (row, column), "refused", reason=why, made=MADE))
                    elif rng.random() < 0.25:
                        line = f"{row}{' -> ' if kind == 'then' else ' + '}{column}"
                        made = ran("CNN", kind, row, column, after=rng.uniform(60, 95), line=line)
                        cells.append(Cell(**{**vars(made), "net": net}))
    return Matrix(nets, tuple(cells)), [(key, "pruning") for key in keys]
