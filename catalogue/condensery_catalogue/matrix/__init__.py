"""The matrix: what was really run, each method alone and pairs of them on small nets, and what it came to.

Read it with :func:`stored_matrix`; ``condensery matrix`` makes it. Imports no torch.
"""

from condensery_catalogue.matrix.cells import KINDS, OUTCOMES, Cell, Kind, Made, Matrix, NetFacts, stored_matrix
from condensery_catalogue.matrix.orders import Order, one_way, orders, surprises

__all__ = [
    "KINDS",
    "OUTCOMES",
    "Cell",
    "Kind",
    "Made",
    "Matrix",
    "NetFacts",
    "Order",
    "one_way",
    "orders",
    "stored_matrix",
    "surprises",
]
