from __future__ import annotations

import shlex

import pytest
from jinja2 import UndefinedError

from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.site.building import Writer
from condensery_catalogue.site.gathering import gather


def test_each_method_says_how_to_reproduce_it() -> None:
    """In full: an empty tier would be taken for the name of one."""
    registry = own_registry()
    lines = [shlex.split(line) for entry in gather(registry)["methods"] for line in entry["reproduce"]]
    assert {key for _, _, key, *_ in lines} == set(registry.keys("recipes"))
    for *command, key, option, tier in lines:
        assert [*command, option] == ["condensery", "reproduce", "--tier"]
        assert tier in load_reproduction(registry, key).tiers


def test_a_template_may_ask_for_what_isnt_there_but_not_write_it() -> None:
    filled = Writer({}).environment.from_string
    assert filled("{% if m.doi %}doi{% endif %}{{ m.doi or 'none' }}").render(m={}) == "none"
    for text in ("--tier {{ m.usual }}", "{{ '--tier ' ~ m.usual }}"):
        with pytest.raises(UndefinedError, match="has no attribute 'usual'"):
            filled(text).render(m={})
