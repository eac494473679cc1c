"""What is killed: runs of recipes of all kinds, a search over one, and a reproduction that is published."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tests.catalogue.made_up import KEY, distribution, result
from tests.core.helpers import recipe, registry

from condensery import Run
from condensery.files import read_json
from condensery.recipe import parse
from condensery.run import Checked

SMALL = {"key": "mlp", "hidden": [8]}
CUT = {"model": {"key": "resnet8", "width": 0.5}}


class Kind(NamedTuple):
    """One kind of command that is killed, and begun again until it ends.

    :param play: runs it in a folder, or goes on with what that holds.
    :param outcome: what it came to, which is the same however often it was killed.
    :param prepare: writes what it reads into a new folder.
    :param holds: raises if what it leaves to others isn't whole, at any time.
    """

    play: Callable[[Path], object]
    outcome: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    holds: Callable[[Path], object] = lambda folder: None


def quietly(play: Callable[[], object]) -> None:
    """Run a command whose output nobody reads."""
    with contextlib.redirect_stdout(io.StringIO()):
        play()


def files_in(folder: Path) -> dict[str, list[str]]:
    """Return the names of the files in the folders of runs, by folder."""
    runs = [path.parent for path in folder.rglob("recipe.json")]
    return {str(run.relative_to(folder)): sorted(path.name for path in run.iterdir()) for run in runs}


def artifacts_in(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all artifacts by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("artifact.safetensors"))}


# ---------------------------------------------------------------- runs of recipes


def _recipe(line: str | list[Any], **changes: Any) -> Any:
    stages = parse(line) if isinstance(line, str) else line
    train = {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
    return recipe(stages, **{"model": SMALL, "train": train, **changes})


RECIPES: dict[str, Callable[[], Any]] = {
    "mask": lambda: _recipe("gradual-magnitude-pruning(sparsity=0.6) -> magnitude(sparsity=0.7)"),
    "quantizer": lambda: _recipe("lsq -> magnitude(sparsity=0.5)"),
    "players": lambda: _recipe("deep-mutual-learning -> hinton-kd{teacher=original}"),
    "rounds": lambda: _recipe("(magnitude(sparsity==1-0.6**(round+1)) + hinton-kd{teacher=original}) * 3"),
    "cut": lambda: _recipe("l1-filter-pruning(ratio=0.3) -> hinton-kd{teacher=original}", **CUT),
    "snapshots": lambda: _recipe(
        [
            {"name": "p", "epochs": 3},
            {"repeat": 2, "stages": [{"name": "q", "methods": ["hinton-kd"], "teacher": "stage:p@epoch=2"},
                                     {"name": "r", "methods": ["hinton-kd"], "teacher": "stage:q@epoch=1"}]},
        ]
    ),
    "searched": lambda: _recipe("magnitude(sparsity=0.5)", validation=0.5),
    "base": lambda: _recipe("magnitude{teacher=original}", base={"epochs": 2, "batch_size": 16, "max_steps": 3}),
}  # fmt: skip
"""By what is at stake; one of them is searched."""


def of_run(make: Callable[[], Any]) -> Kind:
    """Return the kind of one recipe: its report says what it did, its artifact is the same byte for byte."""
    known: list[Checked] = []  # by the first run: a dry run writes nothing, so that no kill within it tells anything

    def play(folder: Path) -> None:
        out = folder / "out"
        checked = known[0] if known else None
        job = Run(make(), registry(), out=out, resume=out.is_dir(), device="cpu", checked=checked)
        job.execute()
        known[:] = [job.check()]

    return Kind(
        play=play,
        outcome=lambda folder: (
            artifacts_in(folder),
            files_in(folder),
            read_json(folder / "out/report.json", "")["after"]["quality"],
        ),
    )


# ---------------------------------------------------------------- a search

SPACE = {
    "parameters": {"stages.0.magnitude.sparsity": {"low": 0.2, "high": 0.8}},
    "objectives": {"validation.accuracy": "maximize"},
}


def search(folder: Path) -> None:
    """Search with three trials, or go on."""
    from condensery_catalogue.running import RunOptions
    from condensery_catalogue.searching import search_recipe

    options = RunOptions(device="cpu", out=folder / "out", as_json=True)
    quietly(lambda: search_recipe(folder / "r.yaml", folder / "space.yaml", 3, "tpe(startup=1)", "full", None, options))


def searched(folder: Path) -> object:
    """Return the trials of a search, its best one's recipe and all nets."""
    from condensery.run import Space, TrialStore

    trials = TrialStore(folder / "out/trials.jsonl", Space.model_validate(SPACE)).trials()
    best = {path.name: path.read_text().replace(str(folder), "") for path in (folder / "out").glob("*.yaml")}
    said = [(trial.number, dict(trial.overrides), trial.state, trial.values) for trial in trials]
    return said, best, artifacts_in(folder), files_in(folder)


def to_search(folder: Path) -> None:
    """Write the recipe and the space."""
    data = RECIPES["searched"]().dump()
    (folder / "r.yaml").write_text(yaml.safe_dump(data))
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))


# ---------------------------------------------------------------- a reproduction


def reproduce(folder: Path) -> None:
    """Reproduce the made-up paper and publish its result, in a checkout that is the folder."""
    from condensery_catalogue import results
    from condensery_catalogue.reproduce import reproduce_paper
    from condensery_catalogue.running import RunOptions

    sys.path.insert(0, str(folder / "reproductions"))
    os.chdir(folder)
    results.changed_files = list  # all is as it was committed
    options = RunOptions(device="cpu", out=folder / "out", as_json=True)
    quietly(lambda: reproduce_paper(KEY, "paper", None, options, store=True))


def reproduced(folder: Path) -> object:
    """Return what was measured, which was published as it is, and all nets."""
    published = stored(folder)
    assert published == read_json(folder / "out/paper/result.json", "", sealed=True)
    figures = {arm: [found["quality"], found["storage"]] for arm, found in published["arms"].items()}
    return figures, artifacts_in(folder), files_in(folder)


def stored(folder: Path) -> Any:
    """Return the published result, which is never missing and always whole."""
    return read_json(folder / "reproductions/killed" / KEY / "paper.json", "", sealed=True)


def to_reproduce(folder: Path) -> None:
    """Write the paper, and an older result of it."""
    distribution(folder / "reproductions", "killed", result("paper", {"plain": [6.0], "better": [4.6]}))


KINDS = {name: of_run(make) for name, make in RECIPES.items() if name != "searched"} | {
    "search": Kind(search, searched, to_search),
    "reproduce": Kind(reproduce, reproduced, to_reproduce, stored),
}
