"""``make fuzz``: seeded damage to everything that is read, each case in a process of its own; counts by outcome.

A case ends in a valid result, or in one line under 300 characters that says what is wrong and would end a command with
exit code 2: within 5 seconds and the limit of memory, with nothing imported, nothing run, and nothing half-written.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import sys
import time
from functools import partial

from tests.fuzz.cases import KINDS, STAGES, reached, warm
from tests.fuzz.forked import GOOD, Outcome, run_case, started


def outcome(kind: str, number: int, seed: int) -> Outcome:
    """Run one case, which its kind, number and the seed decide."""
    return run_case(KINDS[kind](random.Random(f"{seed} {kind} {number}")))


def timed(kinds: list[str], seed: int, number: int) -> tuple[Outcome, float]:
    """Run one case; returns how it ended, and its seconds."""
    at = time.monotonic()
    return outcome(kinds[number % len(kinds)], number, seed), time.monotonic() - at


def main() -> int:
    """Run the cases, print the counts and what fell; returns how many did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()

    warm()
    begun = started()
    kinds = [given.kind] if given.kind else list(KINDS)
    play = partial(timed, kinds, given.seed)
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        ended = list(pool.imap(play, range(given.cases), chunksize=10))
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    depth: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    fallen: list[str] = []
    slowest = max(seconds for _, seconds in ended)
    for number, (found, _) in enumerate(ended):
        kind = kinds[number % len(kinds)]
        counts[kind][found.kind] += 1
        if found.kind == "refused":
            depth[kind][reached(kind, found.through)] += 1
        if found.kind not in GOOD:
            fallen.append(f"{kind} {number}: {found.kind}: {' '.join(found.said.split())[:400]}")

    shown = sorted({outcome for one in counts.values() for outcome in one}, key=lambda word: (word not in GOOD, word))
    print(f"{'':16}" + "".join(f"{word:>16}" for word in shown))
    for kind, one in counts.items():
        print(f"{kind:16}" + "".join(f"{one[word]:16}" for word in shown))
    for kind in STAGES.keys() & set(kinds):
        got = ", ".join(f"{depth[kind][name]} {name}" for name in STAGES[kind] if depth[kind][name])
        print(f"{kind} refused in: {got}")
    took = time.monotonic() - begun
    print(f"{given.cases} cases, seed {given.seed}: {len(fallen)} fell; slowest {slowest:.1f} s; {took:.0f} s in all")
    for line in fallen[:40]:
        print(line)
    return min(len(fallen), 1)


if __name__ == "__main__":
    sys.exit(main())
