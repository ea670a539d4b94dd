"""Eigenvalue solvers that know only a matrix-vector product; they have never heard of a network."""

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.pairs import EigenPairs, Matvec, orthonormalise
from lrscope.linalg.power import power_iteration

__all__ = ["EigenPairs", "Matvec", "lanczos", "orthonormalise", "power_iteration"]
