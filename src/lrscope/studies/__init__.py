"""Restarts, warmup and distillation looked at whole, one call each; and two trained networks compared."""

from lrscope.studies.distillation import Distillation, distillation
from lrscope.studies.restarts import Pair, Restarts, restarts
from lrscope.studies.warmup import Warmup, warmup

__all__ = [
    "Distillation",
    "Pair",
    "Restarts",
    "Warmup",
    "distillation",
    "restarts",
    "warmup",
]
