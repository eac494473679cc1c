"""What recipes need that no package brings: data sets, and files of trained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.recipe import ModelSpec, Recipe, flat, load_yaml
from condensery_catalogue.results import recipe_file


class Trained(NamedTuple):
    """A folder of trained weights that somebody published: who has them, and the sha256 of each file."""

    origin: str
    files: dict[str, str]


TRAINED = {
    "ckpt_cifar10_resnet": Trained(
        "from github.com/akamaster/pytorch_resnet_cifar10, pretrained_models, as safetensors (docs/data.md tells how)",
        {
            "resnet20.safetensors": "02926273efb1deadb6dc654c7087baea932ef2026d9f854680d6858146d85838",
            "resnet32.safetensors": "897ca9a2e3e0f83d51ba9f0b65434c9242c2d4c896ded18d40f5bab4254875da",
            "resnet44.safetensors": "c0e417f177f2f9e763c00e58d95804957cda4a81899671d43ee57b972594bc76",
            "resnet56.safetensors": "cf29b05e3acebb9dc28868ebd84a604ff452971bb6770f22beaff48708079aee",
        },
    ),
}
"""By folder, what recipes start from that comes with no package."""


def published(source: str) -> Trained:
    """Return what is known of the folder that a recipe's ``weights`` lie in."""
    return next((known for folder, known in TRAINED.items() if f"/{folder}/" in source), Trained("", {}))


def recipes_weights(registry: Registry) -> dict[str, list[str]]:
    """Return the files of weights that reproductions need and no package brings, each with the reproductions."""
    found: dict[str, list[str]] = {}
    for key in registry.keys("recipes"):
        for source in sorted(set(_weights(load_yaml(recipe_file(registry, key))))):
            if source.startswith("$"):
                found.setdefault(source, []).append(key)
    return dict(sorted(found.items()))


def _weights(data: Any) -> Iterator[str]:
    """Yield what stands under ``weights``, however deep."""
    if isinstance(data, list):
        for item in data:
            yield from _weights(item)
    elif isinstance(data, dict):
        for name, value in data.items():
            if name == "weights" and isinstance(value, str):
                yield value
            yield from _weights(value)


def refuse_missing(recipes: Iterable[Recipe], registry: Registry, where: str) -> None:
    """Look for all inputs of some recipes before the first one is played.

    :param where: begins the message.
    :raises UsageError: naming each data set and file that isn't there, and where it was looked for.
    """
    # Arms share most of their inputs: each is looked for once.
    looks: dict[str, Callable[[], object]] = {}
    for recipe in recipes:
        looks[f"task {recipe.task.model_dump_json()}"] = partial(_look, recipe, registry)
        roles = [role for stage in flat(recipe.stages) for role in (stage.student, *stage.teachers)]
        for spec in [recipe.model, *(role for role in roles if isinstance(role, ModelSpec))]:
            if spec.weights and spec.weights != "hub":
                looks[f"weights {spec.weights}"] = partial(_weigh, spec.weights)

    missing: dict[str, None] = {}
    for look in looks.values():
        try:
            look()
        except UsageError as error:
            origin = published(str(error)).origin
            missing[f"{error}, {origin}" if origin else str(error)] = None

    if missing:
        raise UsageError(f"{where}: not all that it needs is here: {'; '.join(missing)}")


def _weigh(source: str) -> None:
    """Look for a file of weights, and whether it is the published one."""
    from condensery.storage import weights_file
    from condensery.tasks import check_sha256

    check_sha256(weights_file(source), published(source).files)


def _look(recipe: Recipe, registry: Registry) -> None:
    """Look into a recipe's data."""
    from condensery.tasks import build_task

    build_task(recipe.task, registry).count("train")
