"""The local sum `y_i = sum_j w_ij * x_ij`: a readable reference and fast kernels behind one call."""

from .aggregate import generate_and_aggregate, local_aggregate
from .backend import use_backend
from .products import window_products

__all__ = ["generate_and_aggregate", "local_aggregate", "use_backend", "window_products"]
