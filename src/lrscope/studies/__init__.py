"""Restarts, warmup and distillation looked at whole, one call each; and two trained networks compared."""

from lrscope.studies.checkpoints import read_checkpoint
from lrscope.studies.compare import Comparison, compare
from lrscope.studies.distillation import Distillation, distillation
from lrscope.studies.restarts import Pair, Restarts, restarts
from lrscope.studies.warmup import Warmup, warmup

__all__ = [
    "Comparison",
    "Distillation",
    "Pair",
    "Restarts",
    "Warmup",
    "compare",
    "distillation",
    "read_checkpoint",
    "restarts",
    "warmup",
]
