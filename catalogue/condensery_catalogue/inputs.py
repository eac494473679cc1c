"""What recipes need that no package brings: data sets, and files of trained weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.recipe import ModelSpec, Recipe, flat

ORIGINS = {
    "ckpt_cifar10_resnet": "from github.com/akamaster/pytorch_resnet_cifar10, pretrained_models, as safetensors",
}
"""By folder of trained weights, who has them."""


def refuse_missing(recipes: Iterable[Recipe], registry: Registry, where: str) -> None:
    """Look for all inputs of some recipes before the first one is played.

    :param where: begins the message.
    :raises UsageError: naming each data set and file that isn't there, and where it was looked for.
    """
    from condensery.storage import weights_file

    # Arms share most of their inputs: each is looked for once.
    looks: dict[str, Callable[[], object]] = {}
    for recipe in recipes:
        looks[f"task {recipe.task.model_dump_json()}"] = partial(_look, recipe, registry)
        roles = [role for stage in flat(recipe.stages) for role in (stage.student, *stage.teachers)]
        for spec in [recipe.model, *(role for role in roles if isinstance(role, ModelSpec))]:
            if spec.weights and spec.weights != "hub":
                looks[f"weights {spec.weights}"] = partial(weights_file, spec.weights)

    missing: dict[str, None] = {}
    for look in looks.values():
        try:
            look()
        except UsageError as error:
            origin = next((said for folder, said in ORIGINS.items() if f"/{folder}/" in str(error)), "")
            missing[f"{error}, {origin}" if origin else str(error)] = None

    if missing:
        raise UsageError(f"{where}: not all that it needs is here: {'; '.join(missing)}")


def _look(recipe: Recipe, registry: Registry) -> None:
    """Look into a recipe's data."""
    from condensery.tasks import build_task

    build_task(recipe.task, registry).count("train")
