from __future__ import annotations

from condensery import hookimpl

condensery_api = 2


@hookimpl
def register_methods(register):
    register("never-seen", "nowhere:Nothing")
