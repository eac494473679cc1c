"""Nets as compression sees them: weights under transforms, codings, registered layers, taps, roles and builders."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
