"""A search as a stranger may write it: small steps away from the best trial so far, from whose net it goes on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from condensery.run import Proposal, Search, Trial, best_trials


@dataclasses.dataclass(eq=False, kw_only=True)
class HillClimb(Search):
    """Changes one number of the best trial so far, ever less as it fails; needs a space of plain numbers."""

    key = "hill-climb"
    radius: float = 0.5

    def __post_init__(self) -> None:
        """Begin with large steps."""
        self.reach_ = self.radius
        self.seen_: list[Trial] = []

    def propose(self, history: Sequence[Trial]) -> Proposal:
        """Step away from the best, whose net is trained on."""
        draw = random.Random(f"{self.seed}:{len(history)}")
        bounds = {path: (one.low or 0.0, one.high or 0.0) for path, one in self.space.parameters.items()}
        best = best_trials(self.space, history)
        if not best:
            return Proposal({path: draw.uniform(low, high) for path, (low, high) in bounds.items()})

        point = dict(best[0].overrides)
        path = draw.choice(sorted(point))
        low, high = bounds[path]
        step = self.reach_ * (high - low) * draw.uniform(-1, 1)
        point[path] = min(max(point[path] + step, low), high)
        return Proposal(point, {"from": best[0].number, "reach": self.reach_}, start=best[0].number)

    def observe(self, trial: Trial) -> None:
        """Step less far after a trial that is not the best."""
        self.seen_.append(trial)
        if best_trials(self.space, self.seen_)[:1] != [trial]:
            self.reach_ *= 0.8
