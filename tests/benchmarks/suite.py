"""``make bench``, suite: seconds of the contract suite by part, for a few methods of each kind.

The parts are the suite's tests: what is called so takes its own time alone, but the first test of a method also runs
the recipe that the others share, which is told apart as ``set-up``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

METHODS = ("magnitude", "network-slimming", "lsq", "kmeans-sharing", "hinton-kd")


class Parts:
    """Adds up seconds by test function, and those of set-ups."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one test's part."""
        name = report.nodeid.partition("::")[2].partition("[")[0]
        self.seconds["set-up" if report.when == "setup" else name] += report.duration


def main() -> None:
    """Print and store the figures; in a process of its own, because pytest changes what it imports."""
    if sys.argv[1:] != ["run"]:
        subprocess.run([sys.executable, __file__, "run"], check=True)
        return

    parts = Parts()
    chosen = [f"--condensery-method={method}" for method in METHODS]
    code = pytest.main(["-q", "tests/plugins/test_contract.py", *chosen], plugins=[parts])
    whole = sum(parts.seconds.values())
    print(f"contract suite of {len(METHODS)} methods: {whole:.1f} s" + (" (failed)" if code else ""))
    for name, took in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(f"  {took:6.1f} s {100 * took / whole:4.0f} %  {name}")
    print("  (at first 33 % were dry runs, and 30 % measuring)")
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-suite.json").write_text(json.dumps(dict(parts.seconds), indent=1) + "\n")


if __name__ == "__main__":
    main()
