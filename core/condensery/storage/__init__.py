"""What is written to disk: structure, checkpoints and artifacts; safetensors and JSON only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
