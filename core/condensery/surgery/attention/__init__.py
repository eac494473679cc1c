"""Surgery on attention nets: heads, head dimensions, MLP neurons and layers, without patches to the nets.

How a net is laid out is told by rows that plugins offer, one for each exact class; see
:mod:`condensery.surgery.attention.rows`. What no row tells is refused by name. A cut is proven before it is applied;
see :mod:`condensery.surgery.attention.proof`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
