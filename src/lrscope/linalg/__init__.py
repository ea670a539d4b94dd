"""Solvers that know only a matrix-vector product; they have never heard of a network."""

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.lobpcg import lobpcg
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import (
    EigenPairs,
    Inner,
    Matvec,
    Which,
    all_reduced,
    dot,
    orthonormalise,
    without_autocast,
    working_dtype,
)
from lrscope.linalg.power import power_iteration
from lrscope.linalg.slq import Spectrum, slq
from lrscope.linalg.trace import Estimate, hutch_pp, hutchinson, xtrace
from lrscope.linalg.track import EigenTracker

__all__ = [
    "EigenPairs",
    "EigenTracker",
    "Estimate",
    "Inner",
    "Matvec",
    "ProductMemory",
    "Spectrum",
    "Which",
    "all_reduced",
    "dot",
    "hutch_pp",
    "hutchinson",
    "lanczos",
    "lobpcg",
    "orthonormalise",
    "power_iteration",
    "slq",
    "without_autocast",
    "working_dtype",
    "xtrace",
]
