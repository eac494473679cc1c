"""The pytest plugin: which methods the suite tries, and a test for each of them on each kind of network."""

from __future__ import annotations

import pytest

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.testing.cases import cases_of, chosen_methods, one_each


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a package say which methods are its own."""
    group = parser.getgroup("condensery", "contract suite of compression methods")
    for option, name, what in (("plugin", "NAME", "all methods of this plugin"), ("method", "KEY", "this method")):
        group.addoption(f"--condensery-{option}", metavar=name, action="append", help=f"try {what}; may be repeated")


def pytest_configure(config: pytest.Config) -> None:
    """Say what the suite's marks mean."""
    config.addinivalue_line("markers", "dear: a law of the contract that is tried on one network for each method")
    config.addinivalue_line("markers", "slow: a law of the contract on the other networks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test one of the cases that its argument stands for.

    ``contract_case``: a method on a network that it applies to; ``contract_refusal``: on one that it must refuse. A
    test that is marked ``dear`` is marked ``slow`` too, on all networks but one for each method.
    """
    wanted = {"contract_case", "contract_refusal"}.intersection(metafunc.fixturenames)
    if not wanted:
        return

    registry = Registry.open()
    options = [metafunc.config.getoption(f"condensery_{name}", None) or () for name in ("plugin", "method")]
    try:
        cases = cases_of(registry, chosen_methods(registry, *options))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None

    dear = metafunc.definition.get_closest_marker("dear") is not None
    tried = one_each([case for case in cases if case.applies]) if dear else cases
    for name in wanted:
        values = [
            pytest.param(case, id=f"{case.key}-{case.network}", marks=() if case in tried else pytest.mark.slow)
            for case in cases
            if case.applies == (name == "contract_case")
        ]
        # With this scope pytest runs all tests of one case after each other, so that they share one run of it.
        metafunc.parametrize(name, values, scope="module")
