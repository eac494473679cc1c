"""``make test-kill``: runs killed at random times, and before each write in turn; each goes on to the same artifact."""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import random
import sys
import time
from functools import partial

from tests.kill.killed import Ended, Reference, killed, reference, warm
from tests.kill.kinds import KINDS


def main() -> int:
    """Kill runs, print the counts and what fell; returns 1 if something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", type=int, default=200)
    parser.add_argument("--aimed", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()

    begun = time.monotonic()
    kinds = given.kind or list(KINDS)
    for kind in kinds:
        warm(kind)
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        known = dict(zip(kinds, pool.map(reference, kinds, chunksize=1), strict=True))
        numbers = range(given.random + given.aimed)
        ended = pool.map(partial(case, known, given.seed, given.random), numbers, chunksize=1)

    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    fallen = []
    for number, (kind, how, found) in enumerate(ended):
        counts[kind][found.kind] += 1
        if found.kind != "equal":
            fallen.append(f"{kind} {number}, killed {how}: {found.kind}: {found.said}")

    shown = sorted(
        {word for one in counts.values() for word in one} | {"equal"}, key=lambda word: (word != "equal", word)
    )
    print(f"{'':12}" + "".join(f"{word:>12}" for word in shown) + f"{'writes':>12}")
    for kind, one in counts.items():
        print(f"{kind:12}" + "".join(f"{one[word]:12}" for word in shown) + f"{known[kind].writes:12}")
    took = time.monotonic() - begun
    kills = f"{given.random} random and {given.aimed} aimed kills, seed {given.seed}"
    print(f"{kills}: {len(fallen)} fell; {took:.0f} s in all")
    print("\n".join(fallen))
    return min(len(fallen), 1)


def case(known: dict[str, Reference], seed: int, randoms: int, number: int) -> tuple[str, str, Ended]:
    """Play one case, which the seed and its number decide; returns its kind, how it was killed, and how it ended.

    :param randoms: cases before this number are killed at a random time, the others before a write: spread over all.
    """
    kinds = list(known)
    kind, rng = kinds[number % len(kinds)], random.Random(f"{seed} {number}")
    aimed = None if number < randoms else rng.randint(1, known[kind].writes)
    how = "at a random time" if aimed is None else f"before write {aimed} of {known[kind].writes}"
    return kind, how, killed(kind, known[kind], rng, aimed=aimed)


if __name__ == "__main__":
    sys.exit(main())
