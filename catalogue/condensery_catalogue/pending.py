"""``reproduce --pending``: run what lacks a result, the most claims a minute first, as long as the budget lasts.

A tier of a reproduction is made of :mod:`jobs <condensery_catalogue.jobs>`: the trials of its grid, then one run for
each seed and arm. Whatever ends the queue, it goes on later where it stood, also elsewhere once the folder is carried
there. Jobs run in processes of their own, ``--jobs`` side by side.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args

from condensery.contract import Registry
from condensery.errors import CondenseryError, UnknownKey, UsageError
from condensery.files import unwritable, write_json
from condensery.run import check_device, find_device
from condensery_catalogue.estimates import Estimates
from condensery_catalogue.jobs import Job, Jobs
from condensery_catalogue.judging import judge
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.outgrown import outgrown
from condensery_catalogue.reproduction import card_of, load_reproduction
from condensery_catalogue.results import TierName, stored_results
from condensery_catalogue.running import quiet_libraries

POLL_S, GRACE_S = 0.2, 20.0
"""How often the queue looks after its jobs, and how long it waits for one that it has interrupted."""


@dataclasses.dataclass
class Pending:
    """A tier that lacks its result.

    :param left: jobs that have not ended, trials first, then the arms of the first seed.
    :param minutes: estimate for all of them on one process.
    :param why: what stands in the way, an input that is missing, or nothing.
    """

    jobs: Jobs
    left: list[Job]
    minutes: float = 0.0
    why: str = ""

    @property
    def worth(self) -> float:
        """Claims that it answers per minute of what is left of it; a tier that is nearly done comes soon."""
        chosen = self.jobs.chosen
        compared = self.jobs.plan.compare if chosen.compare is None else chosen.compare
        return max(1, len(compared)) / max(self.minutes, 0.01)


def run_pending(
    tiers: Sequence[str], budget: str | None, jobs: int, out: Path | None, device: str, keys: Sequence[str] = ()
) -> None:
    """Run what lacks a result until it is done or the budget is spent, and print what was reached.

    :param tiers: which tiers count, ``desk`` and ``paper`` by default.
    :param budget: ``25m``, ``2h``, ``90s``; ``None``: no end but the work's.
    :param jobs: processes side by side.
    :param keys: only these reproductions, all if empty.
    :raises UnknownKey: for a tier that there isn't.
    :raises UsageError: for a budget that can't be read, and a device that isn't there; at the end, where something
        stood in a tier's way.
    :raises FileError: if ``out`` can't be written.
    """
    for tier in tiers:
        if tier not in get_args(TierName):
            raise UnknownKey("tier", tier, get_args(TierName))
    until = None if budget is None else time.monotonic() + seconds_in(budget)
    check_device(device)
    find_device(device)  # each job would find out for itself that there is none
    quiet_libraries()
    registry, home = open_registry(), out or Path("runs") / "pending"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(home, error) from None

    waiting = list(pending_tiers(registry, tiers or ("desk", "paper"), home, keys))
    if len(waiting) > 1:  # one alone has no order to be worked out
        print(f"{len(waiting)} tiers lack a result; estimating how long each takes", file=sys.stderr, flush=True)
        estimates = Estimates(home / "estimates.json", registry, device)
        for item in waiting:
            _estimate(item, estimates, until)
        waiting.sort(key=lambda item: -item.worth)

    try:
        done = play_all(waiting, jobs, device, until)
    finally:
        for item in waiting:
            conclude(item)
    print_queue(waiting, done)
    if left := [item for item in waiting if item.why]:
        raise UsageError(f"{len(left)} of {len(waiting)} tiers are left, the first because of: {left[0].why}")


def seconds_in(budget: str) -> float:
    """Return a length of time in seconds.

    :raises UsageError: for anything but a number and ``s``, ``m`` or ``h``.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if found is None:
        raise UsageError(f"budget {budget!r}: write a number and s, m or h, such as 25m")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def pending_tiers(registry: Registry, tiers: Sequence[str], home: Path, keys: Sequence[str]) -> Iterator[Pending]:
    """Yield the tiers for which no result is stored beside the recipe, or one of an older recipe, in their keys' order.

    :raises UnknownKey: for a key that no reproduction has.
    """
    for key in keys or registry.keys("recipes"):
        plan = load_reproduction(registry, key)
        stored = {result["tier"] for result in stored_results(registry, key) if not outgrown(result, plan)}
        for tier, chosen in plan.tiers.items():
            if tier in tiers and tier not in stored:
                jobs = Jobs(registry, plan, chosen, tier, home / key / tier)
                yield Pending(jobs, [job for job in jobs if not job.has_ended])


def _estimate(item: Pending, estimates: Estimates, until: float | None) -> None:
    """Work out how long the jobs of a tier take; one that can't start says why, and none is asked once time is up.

    A trial is taken to last as long as its arm's run with the values of the recipe.
    """
    recipes = item.jobs.chosen.recipes(item.jobs.plan.key)
    for job in item.left:
        if until is not None and time.monotonic() > until:
            return
        try:
            item.minutes += estimates.seconds(recipes[job.arm]) / 60
        except CondenseryError as error:
            item.why = str(error)
            return


# ---------------------------------------------------------------- playing


def play_all(waiting: Iterable[Pending], jobs: int, device: str, until: float | None) -> list[Job]:
    """Play jobs in order, some side by side, until all have ended or time is up; return those that ended well.

    A tier of which a job fails is left: its other jobs are not begun.
    """
    queue = [(item, job) for item in waiting if not item.why for job in item.left]
    running: dict[subprocess.Popen[str], tuple[Pending, Job]] = {}
    done: list[Job] = []
    try:
        while queue or running:
            if until is not None and time.monotonic() > until:
                break

            # Jobs of a tier that has failed meanwhile are dropped; one that waits for trials lets others go before it.
            queue = [(item, job) for item, job in queue if not item.why]
            for item, job in list(queue):
                if len(running) < jobs and item.jobs.is_ready(job):
                    queue.remove((item, job))
                    running[_begin(item.jobs, job, jobs, device)] = (item, job)

            time.sleep(POLL_S)
            for process in [p for p in running if p.poll() is not None]:
                item, job = running.pop(process)
                said = process.communicate()[1].strip()
                if process.returncode == 0:
                    done.append(job)
                    print(f"done: {job.title}", file=sys.stderr, flush=True)
                else:
                    item.why = said.splitlines()[-1].removeprefix("error: ") if said else "stopped"
                    print(f"left: {job.title}: {item.why}", file=sys.stderr, flush=True)
    finally:
        _interrupt(running)
    return done


def _begin(jobs: Jobs, job: Job, side_by_side: int, device: str) -> subprocess.Popen[str]:
    """Start the process of one job, with its share of the processor's cores."""
    threads = str(max(1, (os.cpu_count() or 1) // side_by_side))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    which = (job.key, job.tier, job.arm, str(job.seed), "-" if job.trial is None else str(job.trial))
    command = [sys.executable, "-m", __name__, *which, str(jobs.folder), device]
    print(f"begun: {job.title}", file=sys.stderr, flush=True)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _interrupt(running: Iterable[subprocess.Popen[str]]) -> None:
    """Stop jobs as Ctrl-C does; one that doesn't answer is killed, and resumes from its last epoch all the same."""
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


# ---------------------------------------------------------------- what was reached


def conclude(item: Pending) -> Path | None:
    """Write the result of a tier whose jobs have all ended; return its file, or ``None`` where some have not."""
    jobs = item.jobs
    if not all(job.has_ended for job in jobs):
        return None
    card = card_of(jobs.registry, jobs.plan)
    try:
        choices, reports = jobs.choices(), jobs.reports()
        result = judge(jobs.plan, jobs.ready(card), jobs.tier, card, reports, choices)
    except CondenseryError as error:
        item.why = str(error)
        return None

    target = jobs.folder / "result.json"
    write_json(target, result)
    item.left = []
    return target


def print_queue(waiting: Sequence[Pending], done: Sequence[Job]) -> None:
    """Print what is done and what is left, with its estimate or what stands in its way."""
    from rich.markup import escape

    shown = table("reproduction", "tier", "jobs left", "minutes", "state")
    ended = {job.folder for job in done}
    for item in waiting:
        left = [job for job in item.left if job.folder not in ended]
        state = item.why or ("result.json written" if not left else "pending")
        minutes = f"{item.minutes * len(left) / max(1, len(item.left)):.0f}" if item.minutes else "-"
        shown.add_row(*map(escape, (item.jobs.plan.key, item.jobs.tier, str(len(left)), minutes, state)))
    console().print(shown)


def main(arguments: Sequence[str]) -> int:
    """Play the job that the arguments name, from where an earlier process left it; its errors are one line."""
    key, tier, arm, seed, trial, folder, device = arguments
    try:
        registry = Registry.open()
        plan = load_reproduction(registry, key)
        jobs = Jobs(registry, plan, plan.tiers[tier], tier, Path(folder))  # type: ignore[index]
        jobs.play(jobs.job(arm, int(seed), None if trial == "-" else int(trial)), device)
    except CondenseryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
