"""Recipes: stages and rounds one after another, on a model and a task. Pure data; imports no torch."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from condensery.errors import UsageError, short
from condensery.recipe.checking import checked, merge
from condensery.recipe.formula import setting_at
from condensery.recipe.train_spec import Count, OptimizerSpec, Seed, Strict, TrainSpec, merge_train
from condensery.recipe.yaml_files import load_yaml

NAME = r"^([^./\\\x00-\x1f][^/\\\x00-\x1f]{0,99})?$"
"""A recipe's name is that of its folder in ``runs/``: one part of a path, which leads nowhere else."""


class SubsetSpec(Strict):
    """A fixed part of the training split, see :class:`condensery.tasks.Subset`."""

    size: Count | None = None
    per_class: Count | None = None
    without: list[int] = []


class DataSpec(Strict):
    """Which data a stage sees.

    :param labels: ``false`` hides the labels: the task loss isn't computed.
    :param augment: ``false`` shows training examples as they are stored, though the task augments them: of a student
        whose teacher alone was trained on shifted images.
    """

    subset: SubsetSpec | None = None
    labels: bool = True
    augment: bool = True


class Keyed(BaseModel):
    """Something registered, by its key, with settings of its own."""

    model_config = ConfigDict(extra="allow")

    key: str

    @property
    def config(self) -> dict[str, Any]:
        """The settings that are not fields here: those of the task itself, or of the model's builder."""
        return dict(self.model_extra or {})


class TaskSpec(Keyed):
    """A task: its key and its own settings."""


class ModelSpec(Keyed):
    """A model: its key, where its weights come from, and its builder's own settings.

    :param weights: a safetensors file, ``hub`` for the builder's published weights, or nothing.
    :param init_from: ``student`` or ``teacher``: start from the weights of that role's net.
    :param layers: keep these layers of the ``init_from`` net, ``[0, 2, 4]``.
    :param width: multiply the builder's widths.
    :param seed: of the random initial weights, added to the run's seed.
    :param dtype: of its weights and of what it computes with; as its builder makes it by default.
    """

    weights: str | None = None
    init_from: str | None = None
    layers: list[int] | None = None
    width: float | None = Field(default=None, gt=0)
    seed: int = 0
    # Left out of what is dumped where it isn't said: nets in the cache are known by that.
    dtype: Literal["float32", "float64"] | None = Field(default=None, exclude_if=lambda dtype: dtype is None)


def _keyed(value: Any) -> Any:
    """Accept ``resnet20`` for ``{key: resnet20}``."""
    return {"key": value} if isinstance(value, str) else value


Model = Annotated[ModelSpec, BeforeValidator(_keyed)]
TaskField = Annotated[TaskSpec, BeforeValidator(_keyed)]
Role = str | ModelSpec
"""``previous``, ``input``, ``original``, ``stage:<name>[.<player>][@epoch=N]``, or a model."""


class PlayerSpec(Strict):
    """How one player of a stage trains, where it differs from the stage.

    :param train: whether it has an optimizer; the student always has.
    :param every: steps its optimizer takes per batch, ``"1"`` or ``"1/5"`` (one each five batches).
    """

    train: bool = False
    optimizer: OptimizerSpec | None = None
    every: str = Field(default="1", pattern=r"^[1-9]\d*(/[1-9]\d*)?$")


class MethodSpec(Strict):
    """One method of a stage with its settings; a setting may be a list or a ``=formula`` of ``round``."""

    key: str
    settings: dict[str, Any] = {}


def _method(value: Any) -> Any:
    """Accept ``hinton-kd``, ``{hinton-kd: {T: 4}}`` and ``{key: ..., settings: ...}``."""
    if isinstance(value, str):
        return {"key": value}
    if isinstance(value, Mapping) and len(value) == 1 and "key" not in value:
        ((key, settings),) = value.items()
        return {"key": key, "settings": settings or {}}
    return value


class BaseSpec(TrainSpec):
    """How a net is trained before a recipe's first stage.

    :param methods: that act meanwhile, as where a net learns by playing.
    :param seed: of initial weights and training, the run's where there is none: runs of other seeds share the net.
    """

    # Left out of what is dumped where there are none: nets in the cache are known by that.
    methods: list[Annotated[MethodSpec, BeforeValidator(_method)]] = Field(default=[], exclude_if=lambda some: not some)
    seed: Seed | None = None


STAGES = 100_000
"""That a recipe may come to, its rounds unrolled."""
ROLE_WORDS = ("previous", "input", "original")


def _role(value: Any) -> Role:
    """Accept a word, the name of a stage, and a model by its key or as a mapping."""
    if isinstance(value, ModelSpec):
        return value
    if isinstance(value, Mapping):
        return ModelSpec.model_validate(dict(value))
    if value == "self":
        raise ValueError("'self' is not possible: one net can't be in train and eval mode; say 'input'")
    if isinstance(value, str):
        return value if value in ROLE_WORDS or value.startswith("stage:") else ModelSpec(key=value)
    raise ValueError(f"a role is a word or a model, got {short(value)}")


def _roles(value: Any) -> Role | list[Role] | None:
    """Accept no role, one, or a list of them."""
    if value is None:
        return None
    return [_role(one) for one in value] if isinstance(value, list) else _role(value)


def _epochs(value: Any) -> Any:
    """Accept a number of epochs, and for rounds a list of them or a formula."""
    if value is None or isinstance(value, list) or (isinstance(value, str) and value.startswith("=")):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"a whole number, 0 or more; in rounds a list of them or a =formula; got {short(value)}")
    return value


LISTS = ("milestones", "without")
"""Fields of ``train`` and ``data`` whose own type is a list; so may be what stands in an optimizer's ``options``."""


def _in_pass(value: Any, number: int, passes: int, where: str, *, is_list: bool = False) -> Any:
    """Return a value, and all that are in it, in one pass of a round."""
    if not isinstance(value, Mapping):
        return setting_at(value, number, passes, is_list=is_list, where=where)
    return {
        name: _in_pass(inner, number, passes, f"{where}.{name}", is_list=is_list or name in (*LISTS, "options"))
        for name, inner in value.items()
    }


class StageSpec(Strict):
    """Methods that act at the same time for some epochs.

    In a round ``epochs``, and each value in ``train`` and ``data``, may be a list with one entry for each pass, or a
    ``=formula`` of ``round``.

    :param train: fields of :class:`TrainSpec` that differ from the recipe's.
    :param data: fields of :class:`DataSpec` that differ from the recipe's.
    """

    name: str = ""
    methods: list[Annotated[MethodSpec, BeforeValidator(_method)]] = []
    student: Annotated[Any, BeforeValidator(_role)] = "previous"
    teacher: Annotated[Any, BeforeValidator(_roles)] = None
    players: dict[str, PlayerSpec] = {}
    data: dict[str, Any] = {}
    train: dict[str, Any] = {}
    epochs: Annotated[Any, BeforeValidator(_epochs)] = None

    def in_pass(self, number: int, passes: int) -> StageSpec:
        """Return the stage as it is in one pass of a round.

        :raises UsageError: for a broken formula, and a list that hasn't one entry for each pass.
        """
        where = f"stage {self.name!r}: "
        fields = ("epochs", "train", "data")
        return self.model_copy(update={f: _in_pass(getattr(self, f), number, passes, where + f) for f in fields})

    @property
    def teachers(self) -> list[Role]:
        """The teacher roles, none, one or many."""
        if self.teacher is None:
            return []
        return list(self.teacher) if isinstance(self.teacher, list) else [self.teacher]


def _item(value: Any) -> Any:
    """Accept a lone method for a stage, and tell a round from a stage by its fields."""
    if isinstance(value, str):
        return StageSpec.model_validate({"methods": [value]})
    if isinstance(value, Mapping):
        is_round = {"stages", "repeat", "until", "over"} & set(value)
        return (RoundSpec if is_round else StageSpec).model_validate(dict(value))
    return value


class RoundSpec(Strict):
    """A group of stages that is repeated.

    :param repeat: this often at most.
    :param until: stop when this holds after a pass, e.g. ``sparsity >= 0.9``.
    :param over: ``layers``: once for each layer with weights, ``stage.layer`` names it.
    """

    stages: list[Annotated[StageSpec | RoundSpec, BeforeValidator(_item)]] = Field(min_length=1)
    repeat: Count = 1
    until: str | None = None
    over: Literal["layers"] | None = None


class Recipe(Strict):
    """Stages and rounds, one after another, on a model and a task.

    :param validation: share of the training data that is held out, where the task has no validation split of its own;
        above 0, each epoch is measured on validation. A round's ``until`` that asks for quality turns it on.
    :param base: how a net without trained weights is trained first: fields of :class:`BaseSpec` laid over the
        task's own; ``none`` starts from random weights. Where fields are given, a model that comes with weights is
        trained on from them, such as an encoder with a new classifier.
    """

    name: str = Field(default="", pattern=NAME)
    paper: str | None = None
    model: Model
    task: TaskField
    seed: Seed = 0
    data: DataSpec = DataSpec()
    validation: float = Field(default=0.0, ge=0, lt=1)
    base: dict[str, Any] | Literal["none"] = {}
    train: dict[str, Any] = {}
    stages: list[Annotated[StageSpec | RoundSpec, BeforeValidator(_item)]] = []

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        """Give each stage a name; those that were given come first, so that no automatic one takes theirs."""
        taken: set[str] = set()
        for stage in flat(self.stages):
            if stage.name and stage.name in taken:
                raise ValueError(f"two stages are named {stage.name!r}")
            taken.add(stage.name)
        for stage in flat(self.stages):
            stage.name = stage.name or automatic_name([m.key for m in stage.methods], taken)
            taken.add(stage.name)
        return self

    @model_validator(mode="after")
    def _few_enough(self) -> Recipe:
        """Refuse rounds in rounds that come to more stages than are ever played; all of them are walked through."""
        if (count := _unrolled(self.stages)) > STAGES:
            raise ValueError(f"its rounds come to {count:,} stages; {STAGES:,} at most")
        return self

    @property
    def trains_first(self) -> bool:
        """Whether the base trains the model before the first stage."""
        return self.base != "none" and bool(self.base or not self.model.weights)

    def train_of(self, stage: StageSpec, where: str = "") -> TrainSpec:
        """Return how a stage trains: its own fields over the recipe's.

        :param stage: as it is in its pass.
        :param where: begins messages.
        :raises UsageError: naming the stage and the field that is wrong.
        """
        own = stage.train if stage.epochs is None else stage.train | {"epochs": stage.epochs}
        return checked(TrainSpec, merge_train(self.train, own), f"{where}stage {stage.name!r}: train")

    def data_of(self, stage: StageSpec, where: str = "") -> DataSpec:
        """Return which data a stage sees: its own fields over the recipe's; see :meth:`train_of`."""
        below = self.data.model_dump(exclude_unset=True)
        return checked(DataSpec, merge(below, stage.data), f"{where}stage {stage.name!r}: data")

    def dump(self) -> dict[str, Any]:
        """Return the resolved recipe as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True) | {"seed": self.seed}


def flat(items: Sequence[StageSpec | RoundSpec]) -> Iterator[StageSpec]:
    """Yield the stages, those inside rounds too, each once."""
    for item in items:
        if isinstance(item, RoundSpec):
            yield from flat(item.stages)
        else:
            yield item


def _unrolled(items: Sequence[StageSpec | RoundSpec]) -> int:
    """Return how many stages are played; a round over layers counts once, for the net says how many it has."""
    return sum(item.repeat * _unrolled(item.stages) if isinstance(item, RoundSpec) else 1 for item in items)


def automatic_name(methods: Sequence[str], taken: Container[str]) -> str:
    """Return the name of a stage that was given none: ``jmc-disp+jmc-dkd``, and ``#2`` for the second such stage."""
    wanted = "+".join(methods) or "train"
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}#{number}", number + 1
    return name


def parse_recipe(data: Any, where: str = "recipe") -> Recipe:
    """Turn plain data into a recipe.

    :raises UsageError: one line that names the place; also for a wrong field of ``train`` or ``base``, at any level.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: a recipe is a mapping with model, task and stages, got {short(data)}")

    recipe = checked(Recipe, dict(data), where)
    checked(TrainSpec, recipe.train, f"{where}: train")
    checked(BaseSpec, {} if recipe.base == "none" else recipe.base, f"{where}: base")
    for stage in _passes(recipe.stages):
        recipe.train_of(stage, f"{where}: ")
        recipe.data_of(stage, f"{where}: ")
    return recipe


def _passes(items: Sequence[StageSpec | RoundSpec], passes: int = 1) -> Iterator[StageSpec]:
    """Yield the stages as they are in each pass, once where all passes are the same.

    Stages in a round over layers are left out: how many passes there are is known when the net is.
    """
    for item in items:
        if isinstance(item, StageSpec):
            first = item.in_pass(0, passes)
            yield first
            # The rest of very many passes is looked at when it comes.
            yield from (item.in_pass(n, passes) for n in range(1, min(passes, 1000)) if first != item)
        elif not item.over:
            yield from _passes(item.stages, item.repeat)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    :raises UsageError: one line that names the file and the place.
    """
    return parse_recipe(load_yaml(path), str(path))
