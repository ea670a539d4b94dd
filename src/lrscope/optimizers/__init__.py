"""Update rules and the scheduler that drives them."""

from lrscope.optimizers.functional import FunctionalOptimizer, FunctionalState
from lrscope.optimizers.scheduled import ScheduledLR
from lrscope.optimizers.spec import OptimizerSpec

__all__ = ["FunctionalOptimizer", "FunctionalState", "OptimizerSpec", "ScheduledLR"]
