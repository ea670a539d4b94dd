"""From measurement to a plan."""

from lrscope.planning.plan import plan
from lrscope.planning.recipe import recipe, warmup_steps
from lrscope.records import Plan

__all__ = ["Plan", "plan", "recipe", "warmup_steps"]
