"""What the survey and the papers say, as data: the schema of a card.

Only tools and tests validate with it; ``list`` and ``show`` read the generated index as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from condensery.errors import UsageError
from condensery.recipe import Strict, checked, load_yaml

Source = Literal["read", "recalled", "derived"]
Granularity = Literal["weight", "neuron", "group", "block", "kernel", "filter", "channel", "head", "layer"]
Network = Literal["CNN", "ViT", "Transformer", "RNN", "DQN", "GNN", "GAN"]
Vision = Literal["classification", "detection", "segmentation", "pose", "SAR"]
Other = Literal["speech recognition", "speech enhancement", "text", "control"]
Domain = Vision | Other


class Paper(Strict):
    """Where a method was published."""

    title: str
    authors: str
    year: int = Field(ge=1980, le=2100)
    venue: str
    arxiv: str | None = None
    doi: str | None = None
    code: str | None = None


class Hyperparameter(Strict):
    """One setting: type, default, range and meaning; equal to the method's own field."""

    type: Literal["float", "int", "bool", "str", "dict", "list"]
    default: Any
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    choices: list[str] | None = None
    unit: str | None = None
    meaning: str


class Figure(Strict):
    """A number, or a statement, and how we know it.

    :param source: ``read`` in the paper or its authors' code, ``recalled``, or ``derived`` by us.
    :param where: table, section, or public page.
    """

    value: float | str
    source: Source
    where: str | None = None


class Claim(Strict):
    """One figure of a paper. A result never edits it."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    kind: Literal["quality", "count", "size", "speed", "qualitative"]
    metric: str
    unit: str
    model: str
    dataset: str
    setting: str = ""
    baseline: Figure | None = None
    value: Figure
    by: Literal["authors", "third party"] = "authors"
    table: str | None = None


class Identity(Strict):
    """How sure it is that this is the paper the survey means."""

    confidence: Literal["certain", "likely", "guess"] = "certain"
    note: str = ""
    alternatives: list[str] = []


class Citation(Strict):
    """Where the survey cites it, as what, and what it gets wrong."""

    section: str
    role: str
    slip: str | None = None


class Taxonomy(Strict):
    """The survey's words for a method; only those of its families are set."""

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


class Card(Strict):
    """One paper or method.

    :param ref: number in the survey's references; none for a method that the survey doesn't cite by itself.
    :param composition: how a joint method is spelt as a composition.
    """

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    ref: int | None = Field(None, ge=1, le=120)
    name: str
    summary: str
    paper: Paper
    family: Literal["architecture", "pruning", "quantization", "distillation", "joint"]
    taxonomy: Taxonomy = Taxonomy()
    network: list[Network] = []
    domain: list[Domain] = []
    hyperparameters: dict[str, Hyperparameter] = {}
    composition: str | None = None
    departures: list[str] = []
    identity: Identity = Identity()
    cited_as: list[Citation] = []
    status: Literal["draft", "tested", "reproduced"] = "draft"
    claims: list[Claim] = []

    @model_validator(mode="after")
    def _once(self) -> Card:
        ids = [c.id for c in self.claims]
        twice = {i for i in ids if ids.count(i) > 1}
        if twice:
            raise ValueError(f"two claims have the id {min(twice)!r}")
        return self


def load_cards(folder: Path) -> dict[str, Card]:
    """Read all cards of a folder, by key.

    :raises UsageError: naming the file and the field, in one line.
    """
    cards: dict[str, Card] = {}
    for path in sorted(folder.glob("*.yaml")):
        data = load_yaml(path)
        if not isinstance(data, Mapping):
            raise UsageError(f"{path}: a card is a mapping")
        card = checked(Card, data, str(path))
        if card.key != path.stem:
            raise UsageError(f"{path}: the file must be named after its key, {card.key!r}")
        cards[card.key] = card
    return cards
