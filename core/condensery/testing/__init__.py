"""The contract suite: what every method must do on every kind of net, for any package that brings methods.

``pytest -p condensery.testing.plugin --pyargs condensery.testing --condensery-plugin NAME`` tries the methods of one
plugin. Its tables are read from the cards; what it offers helps with tests of your own. It needs pytest.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
