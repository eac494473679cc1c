from __future__ import annotations

from condensery import hookimpl


class Offers:
    @hookimpl
    def register_methods(self, register):
        register("never-seen", "nowhere:Nothing")
