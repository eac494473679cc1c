"""A small matrix, made up: two nets, two methods, both orders."""

from __future__ import annotations

from typing import Any

from condensery_catalogue.matrix import Cell, Kind, Made, Matrix, NetFacts

MADE = Made("a" * 40, "2026-11-27", "a processor", ("avx2",), "2.14")
NET = NetFacts({"key": "mlp"}, {"key": "digits"}, "accuracy", "%", True, 10.0, 90.0, 1000)


def cell(kind: Kind, *methods: str, net: str = "CNN", **fields: Any) -> Cell:
    """Return a cell; one that has a figure works."""
    joined = {"alone": "", "then": " -> ", "with": " + "}[kind].join(methods)
    ran = {"before": 90.0, "bytes_before": 1000, "deviation": 0.5} if "quality" in fields else {}
    outcome = "works" if "quality" in fields else "refused"
    return Cell(net, kind, methods, **{"outcome": outcome, "line": joined, "made": MADE, **ran, **fields})


def matrix() -> Matrix:
    """Return it: ``cut`` costs 2 points and ``round`` 10; cut first is better by 4; the LSTM can't be cut."""
    return Matrix(
        {"CNN": NET, "LSTM": NET},
        (
            cell("alone", "cut", quality=(88.0, 88.0, 88.0), bytes=500),
            cell("alone", "round", quality=(80.0,), bytes=250),
            cell("then", "cut", "round", quality=(79.0, 81.0), bytes=125, halves=(88.0, 80.0), outcome="worse"),
            cell("then", "round", "cut", quality=(76.0,), bytes=125, halves=(80.0, 88.0), outcome="worse"),
            cell("with", "cut", "round", reason="both implement batches"),
            cell("alone", "cut", net="LSTM", reason="the net has no convolution"),
            cell("alone", "round", net="LSTM", quality=(85.0,), bytes=300),
        ),
    )
