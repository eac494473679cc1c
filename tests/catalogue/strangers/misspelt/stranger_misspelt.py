from __future__ import annotations

from condensery import hookimpl


@hookimpl
def register_method(register):
    register("never-seen", "nowhere:Nothing")
