"""The pytest plugin: which methods the suite tries, and a test for each of them on each kind of network."""

from __future__ import annotations

import pytest

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.testing.cases import cases_of, chosen_methods


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a package say which methods are its own."""
    group = parser.getgroup("condensery", "contract suite of compression methods")
    for option, name, what in (("plugin", "NAME", "all methods of this plugin"), ("method", "KEY", "this method")):
        group.addoption(f"--condensery-{option}", metavar=name, action="append", help=f"try {what}; may be repeated")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test one of the cases that its argument stands for.

    ``contract_case``: a method on a network that it applies to; ``contract_refusal``: on one that it must refuse;
    ``contract_method``: on the first that it applies to.
    """
    wanted = {"contract_case", "contract_refusal", "contract_method"}.intersection(metafunc.fixturenames)
    if not wanted:
        return

    registry = Registry.open()
    options = [metafunc.config.getoption(f"condensery_{name}", None) or () for name in ("plugin", "method")]
    try:
        cases = cases_of(registry, chosen_methods(registry, *options))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None

    applying = [case for case in cases if case.applies]
    found = {
        "contract_case": applying,
        "contract_refusal": [case for case in cases if not case.applies],
        "contract_method": list({case.key: case for case in reversed(applying)}.values())[::-1],
    }
    for name in wanted:
        ids = [f"{case.key}-{case.network}" for case in found[name]]
        # With this scope pytest runs all tests of one case after each other, so that they share one run of it.
        metafunc.parametrize(name, found[name], ids=ids, scope="module")
