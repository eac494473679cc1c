"""Recipes as plain data: their fields, the one-line spelling, overrides, rounds and formulas. Imports no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
