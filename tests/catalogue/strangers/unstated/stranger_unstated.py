from __future__ import annotations

from condensery import hookimpl


@hookimpl
def register_methods(register):
    register("never-seen", "nowhere:Nothing")
