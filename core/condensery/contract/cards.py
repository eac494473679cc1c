"""What the survey and the papers say, as data: the schema of a card.

Every card is validated with it when it is registered; what was valid is kept by content, see :class:`Papers`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, ValidationInfo, field_validator, model_validator

from condensery.contract.methods import check_value, in_words
from condensery.errors import UnknownKey, UsageError
from condensery.recipe import Strict, checked, flat, load_yaml, parse, parse_recipe

Source = Literal["read", "second-hand", "recalled", "derived"]
Granularity = Literal["weight", "neuron", "group", "block", "kernel", "filter", "channel", "head", "layer"]
Network = Literal["CNN", "ViT", "Transformer", "RNN", "DQN", "GNN", "GAN"]
Domain = Literal[
    "classification",
    "detection",
    "segmentation",
    "pose",
    "SAR",
    "speech recognition",
    "speech enhancement",
    "text",
    "control",
]
Text = Annotated[str, Field(min_length=1)]
Number = int | Annotated[float, Field(allow_inf_nan=False)]
LACKS = ("data", "net", "hardware", "method", "recipe", "same")
"""What may keep a claim from being compared: all but the last two put it out of reach; ``same`` names another claim."""
Target = Annotated[str, Field(pattern=r"^(\w+:)?[A-Za-z_]\w*$")]
"""``Name`` in the Python file beside the card, or ``sibling:Name`` in another file of the folder."""

TYPES: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str, "dict": dict, "list": list}
FAMILIES = {
    "architecture": set(),
    "pruning": {"granularity", "criterion", "scope", "schedule", "target"},
    "quantization": {"target", "bits", "levels", "training", "precision"},
    "distillation": {"knowledge", "scheme", "teacher_source", "student_source"},
    "joint": {"combination", "order", "coupling"},
}
"""Which fields of :class:`Taxonomy` each family has."""
PARTS = {"KD": "distillation", "P": "pruning", "Q": "quantization", "NAS": "architecture"}
"""The families that a joint method's combination, ``KD+P``, is made of; it has their fields too."""


@contextmanager
def _for_pydantic() -> Iterator[None]:
    """Turn an error of ours into the only kind that pydantic reports with its place."""
    try:
        yield
    except UsageError as error:
        raise ValueError(str(error)) from None


def _words(hint: Any) -> list[str]:
    """Return the fixed words that a type allows, none if it is free."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return [word for part in get_args(hint) for word in _words(part)]


class Worded(Strict):
    """A model that answers a wrong word with the nearest right one."""

    @field_validator("*", mode="before")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        words = _words(cls.model_fields[str(info.field_name)].annotation)
        texts = [word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]

        # What is no text at all is left to pydantic, which says what type it should have.
        with _for_pydantic():
            for word in texts if words else ():
                if word not in words:
                    raise UnknownKey("word", word, words)
        return value


class Paper(Strict):
    """Where a method was published."""

    title: Text
    authors: Text
    year: int = Field(ge=1980, le=2100)
    venue: Text
    arxiv: str | None = Field(None, pattern=r"^(\d{4}\.\d{4,5}|[a-z-]+/\d{7})$")
    doi: str | None = Field(None, pattern=r"^10\.\d{4,}/\S+$")
    code: str | None = Field(None, pattern=r"^https://\S+$")


class Hyperparameter(Worded):
    """One setting: type, default, range (of a list or a dict: of each entry) and meaning; equal to the method's own.

    :param amount: of the one number that says how much a method takes away: whether a larger value takes ``more`` or
        ``less``.
    """

    type: Literal["float", "int", "bool", "str", "dict", "list"]
    default: Any
    gt: Number | None = None
    ge: Number | None = None
    lt: Number | None = None
    le: Number | None = None
    choices: list[str] | None = None
    unit: str | None = None
    amount: Literal["more", "less"] | None = None
    meaning: Text

    @model_validator(mode="after")
    def _bounds_leave_a_number(self) -> Hyperparameter:
        low = max((bound for bound in (self.gt, self.ge) if bound is not None), default=-math.inf)
        high = min((bound for bound in (self.lt, self.le) if bound is not None), default=math.inf)

        # Where both are the same number, it is left only if neither bound excludes it.
        if low > high or (low == high and low in (self.gt, self.lt)):
            raise ValueError(f"no number is {in_words(self.model_dump())}")
        return self

    @model_validator(mode="after")
    def _default_fits(self) -> Hyperparameter:
        if self.default is not None:
            with _for_pydantic():
                check_value("default", self.default, TYPES[self.type], self.model_dump(exclude={"type", "default"}))
        return self


class Figure(Worded):
    """A number, or a statement, and how we know it.

    :param source: ``read`` in the paper or on the authors' page: this figure, in this row, under this protocol;
        ``second-hand``, the paper's figure as another text gives it; ``recalled``; or ``derived`` by us.
    :param where: table, section, or public page; of a second-hand figure the other text.
    """

    value: Number | Text
    source: Source
    where: str | None = None

    @field_validator("value", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, bool):  # YAML reads a bare yes or no as one
            raise ValueError("write a statement as a text in quotes")  # noqa: TRY004  pydantic turns only ValueError into a message
        return value


class Claim(Worded):
    """One figure of a paper. A result never edits it.

    :param better: which way the metric is better; a recipe's measured metric has to agree.
    :param row: the row of the table, or the sentence, that a figure was read in, and ``protocol`` how it was measured
        there: schedule, which epoch, how counted. A number that was read has both.
    :param note: the paper's sentence, where ``says`` isn't what the figures alone would say.
    :param lacks: why no recipe compares it at the paper's scale: what is missing, and its name.
    :param says: what kind of statement it is, where that doesn't follow from kind and figures: a ``gain`` over the
        baseline, a ``loss`` of no more than the figures show, a ``level``, a ``bound`` or a ``count``. A gain or loss
        without a baseline states the difference itself, and a statement that says ``gain`` means any gain.
    :param margin: of a loss, a level or a bound, in the claim's unit, where the default isn't meant.
    :param at: the id of the quality claim that this size, count or speed was claimed at.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    kind: Literal["quality", "count", "size", "speed", "qualitative"]
    metric: str
    unit: str
    model: str
    dataset: str
    setting: str = ""
    baseline: Figure | None = None
    value: Figure
    better: Literal["higher", "lower"] = "higher"
    says: Literal["gain", "loss", "level", "bound", "count"] | None = None
    margin: float | None = Field(None, gt=0, allow_inf_nan=False)
    at: str | None = None
    by: Literal["authors", "third party"] = "authors"
    table: str | None = None
    row: str = ""
    protocol: str = ""
    note: str = ""
    lacks: str = Field("", pattern=rf"^(({'|'.join(LACKS)}): \S.*)?$")

    @model_validator(mode="after")
    def _says_where(self) -> Claim:
        for name, figure in (("baseline", self.baseline), ("value", self.value)):
            if figure is None:
                continue
            if figure.source == "read" and not (figure.where or self.table):
                raise ValueError(f"{name}: say where it was read")
            if figure.source == "second-hand" and not figure.where:
                raise ValueError(f"{name}: say which text gives it")
            if figure.source == "read" and not isinstance(figure.value, str) and not (self.row and self.protocol):
                raise ValueError(f"{name}: a figure that was read needs its row and protocol")
        return self

    @model_validator(mode="after")
    def _says_why(self) -> Claim:
        if self.says != "loss" or self.note or self.baseline is None:
            return self
        worse, better = (self.baseline.value, self.value.value)[:: 1 if self.better == "higher" else -1]
        if not isinstance(worse, str) and not isinstance(better, str) and worse < better:
            raise ValueError("it says loss of a figure that came out better: quote the paper's sentence in note")
        return self


class Identity(Worded):
    """How sure it is that this is the paper the survey means."""

    confidence: Literal["certain", "likely", "guess"] = "certain"
    note: str = ""
    alternatives: list[str] = []


class Citation(Strict):
    """Where the survey cites it, as what, and what it gets wrong."""

    section: str
    role: str
    slip: str | None = None


class Taxonomy(Worded):
    """The survey's words for a method; only those of its families may be set, see :data:`FAMILIES`."""

    granularity: list[Granularity] = []
    criterion: str | None = None
    scope: list[Literal["global", "local"]] = []
    schedule: list[Literal["one-shot", "iterative", "dynamic"]] = []
    target: list[Literal["weight", "activation", "gradient", "error"]] = []
    bits: Literal["8", "very low", "mixed"] | None = None
    levels: Literal["uniform", "non-uniform", "clustered"] | None = None
    training: Literal["PTQ", "QAT"] | None = None
    precision: Literal["fixed", "dynamic", "discrete values"] | None = None
    knowledge: list[Literal["output", "intermediate", "relation", "structural"]] = []
    scheme: Literal["offline", "online", "self"] | None = None
    teacher_source: Literal["input", "original", "separate", "co-trained", "self"] | None = None
    student_source: list[Literal["pruned", "quantized", "designed", "searched", "same"]] = []
    combination: Literal["KD+P", "KD+Q", "P+Q", "P+Q+NAS", "KD+P+Q"] | None = None
    order: str | None = None
    coupling: Literal["iterated", "coupled", "searched"] | None = None


class Contract(Strict):
    """What the contract suite, :mod:`condensery.testing`, can't know of a method from its class and its card.

    :param stage: fields of the method's stage, such as ``{teacher: "stage:pruned"}``; a method that needs a teacher
        gets the original net without being told.
    :param settings: of the method, where by its own it would take long even on a small net, as a search does.
    :param before: stages that must come first.
    :param nets: by network, the model and the task that take the place of the suite's own, for a method that needs
        another kind of task; of a network that the suite doesn't know, what makes it known.
    :param refuses: by network, a regular expression that must be found in the reason why the method doesn't apply. It
        is needed only where the sentence matters, or where the card names the network but the suite's small net lacks
        what the method needs.
    :param once: a regular expression that is found in the reason why a second copy can't act in the same stage, where
        neither the method's words nor its hooks tell that.
    """

    stage: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    before: list[dict[str, Any]] = []
    nets: dict[Network, dict[str, Any]] = {}
    refuses: dict[Network, re.Pattern[str]] = {}
    once: re.Pattern[str] | None = None


class Card(Worded):
    """One paper or method.

    :param ref: number in the survey's references; none for a method that the survey doesn't cite by itself.
    :param class_: ``class`` in the file: the method in the Python file beside the card; none for a paper without one.
    :param layers: transforms and registered layers that the method leaves in a net, by key; ``codecs`` likewise.
    :param composition: how a joint method is spelt as a composition.
    :param formula: what the method computes as it is built here, in LaTeX, one formula a line.
    :param pitfalls: what goes wrong for those who use the method or read its figures, a sentence or two each.
    :param contract: where the contract suite must treat the method differently, see :mod:`condensery.testing`.
    """

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)
    class_: str | None = Field(None, alias="class", pattern=r"^[A-Za-z_]\w*$")
    layers: dict[str, Target] = {}
    codecs: dict[str, Target] = {}
    ref: int | None = Field(None, ge=1, le=120)
    name: Text
    summary: Text
    paper: Paper
    family: Literal["architecture", "pruning", "quantization", "distillation", "joint"]
    taxonomy: Taxonomy = Taxonomy()
    network: list[Network] = []
    domain: list[Domain] = []
    hyperparameters: dict[str, Hyperparameter] = {}
    composition: str | None = None
    formula: Text | None = None
    departures: list[str] = []
    pitfalls: list[Text] = []
    identity: Identity = Identity()
    cited_as: list[Citation] = []
    status: Literal["draft", "tested", "reproduced"] = "draft"
    claims: list[Claim] = []
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _once(self) -> Card:
        ids = [c.id for c in self.claims]
        twice = {i for i in ids if ids.count(i) > 1}
        if twice:
            raise ValueError(f"two claims have the id {min(twice)!r}")

        qualities = [c.id for c in self.claims if c.kind in ("quality", "qualitative")]
        with _for_pydantic():
            for claim in self.claims:
                if claim.at is not None and claim.at not in qualities:
                    raise UnknownKey("quality claim", claim.at, qualities, where=f"claim {claim.id!r}: at")
        return self

    @model_validator(mode="after")
    def _own_words(self) -> Card:
        combination = self.taxonomy.combination if self.family == "joint" else ""
        if combination is None:
            raise ValueError("taxonomy: a joint card says its combination, e.g. KD+P")

        parts = [PARTS[part] for part in combination.split("+") if part]
        allowed = FAMILIES[self.family].union(*(FAMILIES[part] for part in parts))
        for name in sorted(self.taxonomy.model_fields_set - allowed):
            kind, words = combination or self.family, ", ".join(sorted(allowed)) or "no words"
            raise ValueError(f"taxonomy.{name}: not for {kind}, which has {words}")
        return self

    @model_validator(mode="after")
    def _can_be_composed(self) -> Card:
        with _for_pydantic():
            composed_of(self)
        return self


def read_card(path: Path) -> Card:
    """Read one card.

    :raises UsageError: naming the file and the field, in one line.
    """
    return checked_card(load_yaml(path), str(path))


def checked_card(data: Any, where: str) -> Card:
    """Validate plain data as a card.

    :raises UsageError: naming ``where`` and the field, in one line.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: a card is a mapping")
    return checked(Card, data, where)


def card_data(card: Card) -> dict[str, Any]:
    """Return a card as plain data, with what can be worked out from it: the methods that a composition is made of."""
    data = card.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, setting in card.hyperparameters.items():
        data["hyperparameters"][name]["default"] = setting.default  # A default of null is a value, not an absence.
    if card.composition:
        data["composed_of"] = composed_of(card)
    return data


def composed_of(card: Card) -> list[str]:
    """Return the keys of the methods in a card's composition.

    :raises UsageError: if the composition can't be read.
    """
    if not card.composition:
        return []
    recipe = parse_recipe({"model": "any", "task": "any", "stages": parse(card.composition)}, "composition")
    return sorted({method.key for stage in flat(recipe.stages) for method in stage.methods})
