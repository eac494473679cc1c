"""Surgery on attention nets: heads, head dimensions, MLP neurons, layers and width, without patches to the nets.

Everything goes by tables of exact classes, because shapes don't tell a fused ``(3, heads, dims)`` projection from one
that is laid out head by head, or the residual stream from a classifier that happens to be as wide. What isn't in a
table is refused by name. A cut is proven before it is applied; see :mod:`condensery.surgery.attention.proof`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
