"""Eigenvalue solvers that know only a matrix-vector product; they have never heard of a network."""

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import EigenPairs, Matvec, orthonormalise, working_dtype
from lrscope.linalg.power import power_iteration
from lrscope.linalg.track import EigenTracker

__all__ = [
    "EigenPairs",
    "EigenTracker",
    "Matvec",
    "ProductMemory",
    "lanczos",
    "orthonormalise",
    "power_iteration",
    "working_dtype",
]
