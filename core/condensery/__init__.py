"""Condensery's core: hook specs, registry, recipes, stages and the engine. It knows no method.

Importing this package doesn't import torch. What it offers stands in ``__init__.pyi``, here and in every room: names
are loaded when first used, and type checkers read the same file, so that a misspelt import is an error in both.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
