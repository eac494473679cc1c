"""What the whole suite does: few passes are timed, and it says which files take longer than they should."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from condensery.measure import quick

BUDGET_S = 40.0
"""Seconds that a file's tests may take together, on one of the two slow cores that the suite is made for."""


@pytest.fixture(scope="session", autouse=True)
def few_passes() -> Iterator[None]:
    """Time few passes of each net: a report has latencies, and no test reads them."""
    with quick():
        yield


class Budget:
    """Adds up the seconds of each file's tests, set-up and end included, and names the files over the budget."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one test's part; where several processes share the tests, theirs are told here too."""
        self.seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the files, the longest first."""
        over = sorted((-took, path) for path, took in self.seconds.items() if took > BUDGET_S)
        if over:
            terminalreporter.section(f"files over {BUDGET_S:.0f} s: split them, or test less of the same")
        for took, path in over:
            terminalreporter.line(f"{-took:7.1f} s  {path}")


def pytest_configure(config: pytest.Config) -> None:
    """Count, in the process that reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Budget(), "time-budget")
