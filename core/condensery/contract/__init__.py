"""What a plugin's author reads: the hooks, the base class of methods, the registry, cards and the words of needs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
