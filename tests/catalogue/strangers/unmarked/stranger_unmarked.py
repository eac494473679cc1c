from __future__ import annotations

condensery_api = 1


def register_methods(register):
    register("never-seen", "nowhere:Nothing")
