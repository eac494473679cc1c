from __future__ import annotations

from dataclasses import dataclass

from condensery import Method, Transform, hookimpl, straight_through


class Sign(Transform):
    key = "sign"

    def forward(self, value):
        return straight_through(value.sign() * value.abs().mean(), value)

    def holds(self, final):
        levels = len(final.unique())
        return f"{levels} levels" if levels > 3 else None


@dataclass(eq=False, kw_only=True)
class SignWeights(Method):
    """Hold weights at their sign times the layer's mean size."""

    key = "sign-weights"

    needs = frozenset({"float-weights"})
    removes = frozenset({"float-weights"})

    skip_first: bool = True

    @hookimpl
    def prepare(self, stage):
        first = stage.edges()[0]
        for weight in stage.weights():
            if not (self.skip_first and weight.path == first):
                stage.attach(weight.name, "sign", Sign())
