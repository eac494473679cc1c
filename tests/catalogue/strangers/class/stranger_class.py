from __future__ import annotations

from condensery import hookimpl


class Offers:
    condensery_api = 1

    @hookimpl
    def register_methods(self, register):
        register("never-seen", "nowhere:Nothing")
