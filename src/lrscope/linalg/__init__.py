"""Solvers that know only a matrix-vector product; they have never heard of a network."""

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.lobpcg import lobpcg
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import EigenPairs, Inner, Matvec, Which, dot, orthonormalise, working_dtype
from lrscope.linalg.power import power_iteration
from lrscope.linalg.track import EigenTracker

__all__ = [
    "EigenPairs",
    "EigenTracker",
    "Inner",
    "Matvec",
    "ProductMemory",
    "Which",
    "dot",
    "lanczos",
    "lobpcg",
    "orthonormalise",
    "power_iteration",
    "working_dtype",
]
