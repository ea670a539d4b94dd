"""From measurement to a plan."""

from lrscope.planning.plan import horizons_for, plan
from lrscope.planning.recipe import recipe, warmup_steps
from lrscope.planning.refinement import Refinement, refine
from lrscope.records import Plan

__all__ = ["Plan", "Refinement", "horizons_for", "plan", "recipe", "refine", "warmup_steps"]
