from __future__ import annotations

from condensery import hookimpl

condensery_api = 1


@hookimpl
def register_method(register):
    register("never-seen", "nowhere:Nothing")
