"""A plugin in a package of its own: binary weights, and the card that describes them."""

from __future__ import annotations

from condensery import hookimpl

condensery_api = 1

CARD = {
    "key": "sign-weights",
    "name": "Sign weights",
    "summary": "Each inner weight is its sign times the layer's mean size.",
    "paper": {"title": "A stranger's paper", "authors": "Stranger", "year": 2026, "venue": "nowhere"},
    "family": "quantization",
    "network": ["CNN", "ViT", "Transformer"],
    "hyperparameters": {"skip_first": {"type": "bool", "default": True, "meaning": "leave the first layer as it is"}},
    "status": "draft",
    "claims": [],
}


@hookimpl
def register_papers(register):
    register("sign-weights", CARD)


@hookimpl
def register_methods(register):
    register("sign-weights", "stranger_good_method:SignWeights")


@hookimpl
def register_layers(register):
    register("sign", "stranger_good_method:Sign")
