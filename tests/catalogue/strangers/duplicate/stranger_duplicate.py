from __future__ import annotations

from condensery import hookimpl

condensery_api = 1


@hookimpl
def register_methods(register):
    register("lsq", "nowhere:Other")
    register("works-beside", "stranger_duplicate:WorksBeside")


WorksBeside = type("WorksBeside", (), {"key": "works-beside"})
"""A class that isn't a method: named when it is used."""
