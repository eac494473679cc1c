from __future__ import annotations

from dataclasses import dataclass

from condensery import Method, hookimpl

condensery_api = 1


@hookimpl
def register_methods(register):
    register("defaulted", "stranger_default:Defaulted")


@dataclass(eq=False, kw_only=True)
class Defaulted(Method):
    key = "defaulted"

    @hookimpl
    def after_step(self, stage=None):
        pass
