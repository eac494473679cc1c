"""The trials of a search, kept in optuna's journal: any kill leaves one that goes on. Loads optuna, but no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from condensery.errors import CondenseryError, UsageError
from condensery.files import append_lines, damaged, read_lines
from condensery.run.search import Budget, Proposal, State, Trial
from condensery.run.space import Space, figure

NAME = "search"
STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class _Journal(BaseJournalBackend):
    """A journal that one process writes: its lines have checksums, and one that a kill cut off is dropped."""

    def __init__(self, path: Path, how: str) -> None:
        self.path = path
        self.logs: list[dict[str, Any]] = read_lines(path, how)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        append_lines(self.path, logs)
        self.logs += logs


class TrialStore:
    """The trials of one search.

    :param path: of the journal, which optuna's own tools can read; ``None``: in memory alone. Whoever opens it holds
        its folder, see :func:`condensery.run.claimed`.
    :param about: what else makes this search the one it is, as plain data: a journal of another one is refused.
    :param pruner: says which trials to stop; it looks at the only objective.
    :raises UsageError: if the journal is another search's, or a pruner has more than one objective to look at.
    :raises ArtifactError: if it is damaged.
    """

    def __init__(
        self,
        path: Path | None,
        space: Space,
        about: Mapping[str, Any] | None = None,
        pruner: BasePruner | None = None,
    ) -> None:
        if pruner is not None and len(space.objectives) > 1:
            raise UsageError("trials are pruned by one objective; the space has several")
        self.space, self.prunes = space, pruner is not None
        optuna.logging.set_verbosity(optuna.logging.WARNING)

        how = "remove it to search anew"
        wanted = json.loads(json.dumps({"space": space.model_dump(mode="json"), **(about or {})}))
        try:
            self.storage: BaseStorage = InMemoryStorage() if path is None else JournalStorage(_Journal(path, how))
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=NAME,
                load_if_exists=True,
                directions=list(space.objectives.values()),
                pruner=pruner or optuna.pruners.NopPruner(),
            )
            self._id = self.storage.get_study_id_from_name(NAME)
            known = self.study.user_attrs.get("about", wanted)
            other = [name for name in wanted if known.get(name) != wanted[name]]
            if other:
                raise UsageError(f"{path} holds another search: its {other[0]} is another one; say another --out")
            self.trials()
        except CondenseryError:
            raise
        except Exception as error:  # noqa: BLE001  Its lines are whole, but anything may be made of what they say.
            raise damaged(path or Path(NAME), error, how) from None
        if not self.study.user_attrs:
            self.study.set_user_attr("about", wanted)

    def trials(self) -> list[Trial]:
        """Return all trials, in order."""
        return [self._trial(found) for found in self.storage.get_all_trials(self._id, deepcopy=False)]

    def again(self) -> Trial | None:
        """Return a trial that was not finished, to be begun again, or ``None``."""
        for trial in self.trials():
            if trial.state == "running":
                self._set(trial, starts=trial.starts + 1)
                return self._get(trial)
        return None

    def begin(self, proposal: Proposal, budget: Budget) -> Trial:
        """Store a trial that is about to be evaluated, with one line of the journal."""
        parameters = {path: self.space.parameters[path] for path in proposal.overrides}
        made = create_trial(
            state=TrialState.RUNNING,
            params={path: parameters[path].encoded(value) for path, value in proposal.overrides.items()},
            distributions={path: parameter.distribution() for path, parameter in parameters.items()},
            user_attrs={
                "overrides": dict(proposal.overrides),
                "notes": dict(proposal.notes),
                "start": proposal.start,
                "budget": budget,
                "starts": 1,
            },
        )
        return self._trial(self.storage.get_trial(self.storage.create_new_trial(self._id, made)))

    def stopped(self, trial: Trial) -> None:
        """Note that a user stopped a trial: that is no kill, and doesn't count."""
        self._set(trial, starts=trial.starts - 1)

    def prune(self, trial: int, epoch: int, report: Mapping[str, Any]) -> bool:
        """Store what was measured after an epoch, and tell whether the trial is to be stopped.

        :raises UnknownKey: if the objective isn't measured by epoch.
        """
        (path,) = self.space.objectives
        number = figure(report, path)
        identity = self.storage.get_trial_id_from_study_id_trial_number(self._id, trial)
        if math.isfinite(number):
            self.storage.set_trial_intermediate_value(identity, epoch, number)
        return self.study.pruner.prune(self.study, self.storage.get_trial(identity))

    def end(
        self,
        trial: Trial,
        state: State,
        *,
        report: Mapping[str, Any] | None = None,
        values: Sequence[float] | None = None,
        error: str = "",
    ) -> Trial:
        """Store how a trial ended, and return it so."""
        self._set(trial, **({"error": error} if report is None else {"report": dict(report)}))
        (ended,) = (theirs for theirs, ours in STATES.items() if ours == state)
        self.storage.set_trial_state_values(self._identity(trial), ended, values)
        return self._get(trial)

    # ---------------------------------------------------------------- in optuna's terms

    def _identity(self, trial: Trial) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)

    def _get(self, trial: Trial) -> Trial:
        return self._trial(self.storage.get_trial(self._identity(trial)))

    def _set(self, trial: Trial, **attributes: Any) -> None:
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(self._identity(trial), name, value)

    def _trial(self, found: FrozenTrial) -> Trial:
        kept = found.user_attrs
        complete = found.state == TrialState.COMPLETE
        return Trial(
            overrides=kept["overrides"],
            notes=kept["notes"],
            start=kept["start"],
            number=found.number,
            budget=kept["budget"],
            state=STATES[found.state],
            epochs=found.intermediate_values,
            report=kept["report"] if complete else None,
            values=tuple(found.values) if complete else (),
            excess=self.space.excess(kept["report"]) if complete else {},
            error=kept.get("error", ""),
            starts=kept["starts"],
        )
