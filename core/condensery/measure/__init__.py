"""Measuring nets: quality, work, bytes, latency, and where a figure was taken."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
