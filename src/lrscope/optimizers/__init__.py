"""Update rules and the scheduler that drives them."""

from lrscope.optimizers.equivalent import EquivalentLR
from lrscope.optimizers.functional import FunctionalOptimizer, FunctionalState
from lrscope.optimizers.giadam import GIAdam, GIAdamW, RIAdam
from lrscope.optimizers.lanes import group_rates
from lrscope.optimizers.leap import leap
from lrscope.optimizers.scheduled import ScheduledLR
from lrscope.optimizers.spec import OptimizerSpec

__all__ = [
    "EquivalentLR",
    "FunctionalOptimizer",
    "FunctionalState",
    "GIAdam",
    "GIAdamW",
    "OptimizerSpec",
    "RIAdam",
    "ScheduledLR",
    "group_rates",
    "leap",
]
