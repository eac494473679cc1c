from __future__ import annotations


def register_methods(register):
    register("never-seen", "nowhere:Nothing")
