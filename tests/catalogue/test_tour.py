"""The tour shows what the commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from condensery_catalogue.tour import PAGE, STOPS, page

TOUR = (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8")


def plain(text: str) -> list[str]:
    """Return the lines of a page, of masked figures only that they are there: width and sign are a machine's own."""
    for pattern, one in ((r"─+", "─"), (r"[█▏]+", "█"), (r"[+-]?#[#,.]*", "#")):
        text = re.sub(pattern, one, text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_it_shows_ten_commands_within_80_columns() -> None:
    assert len({stop.command.split()[1] for stop in STOPS}) == 10
    blocks = re.findall(r"^```console\n\$ (.+?)\n(.+?)^```", TOUR, flags=re.MULTILINE | re.DOTALL)
    assert [command for command, _ in blocks] == [stop.command for stop in STOPS]
    for command, said in blocks:
        assert len(said.splitlines()) >= 3, command
        assert all(len(line) <= 80 for line in said.splitlines() if len(line.split()) > 1), command


@pytest.mark.slow
def test_the_commands_print_what_it_shows(tmp_path: Path) -> None:
    assert plain(page(tmp_path)) == plain(TOUR)
