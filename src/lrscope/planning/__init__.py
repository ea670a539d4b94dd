"""From measurement to a plan."""

from lrscope.planning.plan import horizons_for, plan
from lrscope.planning.recipe import recipe, warmup_steps
from lrscope.records import Plan

__all__ = ["Plan", "horizons_for", "plan", "recipe", "warmup_steps"]
