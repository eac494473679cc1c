"""Cutting channels, heads, neurons and layers out of a net; every cut is proven before it is applied."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
