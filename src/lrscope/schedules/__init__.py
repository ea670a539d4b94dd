"""Learning-rate schedules as values: numbers as functions of the step, in closed form. No torch in here."""

from lrscope.schedules.auto_ensemble import AutoEnsemble
from lrscope.schedules.base import Schedule
from lrscope.schedules.combine import Join, Product, Sum, nonzero_warmup, warmup
from lrscope.schedules.cycles import CosineWave, StepDecay, WarmRestarts
from lrscope.schedules.exponential import (
    EquivalentMomentum,
    ExponentialEquivalent,
    exponential_equivalent,
    exponential_rate,
)
from lrscope.schedules.feedback import FeedbackSchedule
from lrscope.schedules.horizon import Horizon
from lrscope.schedules.lookup import Lookup
from lrscope.schedules.operations import After, Bounded, Clip, First, Repeat, Reverse, Stretch
from lrscope.schedules.plateau import Plateau
from lrscope.schedules.preview import chart, csv_rows, segments, sparkline
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Sqrt
from lrscope.schedules.recipes import (
    cooldown,
    multistep,
    one_cycle,
    triangular,
    untuned_exponential_warmup,
    untuned_linear_warmup,
    wsd,
)
from lrscope.schedules.refine import refined
from lrscope.schedules.replan import Replanned, replan
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise
from lrscope.schedules.spec import from_spec, to_spec
from lrscope.schedules.table import ExponentialWarmup, Table
from lrscope.schedules.tapered import texp, texp_minus
from lrscope.schedules.text import parse
from lrscope.schedules.two_phase import TwoPhase
from lrscope.schedules.write import to_text

__all__ = [
    "After",
    "AutoEnsemble",
    "Bounded",
    "Clip",
    "Constant",
    "Cosine",
    "CosineWave",
    "EquivalentMomentum",
    "Exponential",
    "ExponentialEquivalent",
    "ExponentialWarmup",
    "FeedbackSchedule",
    "First",
    "Horizon",
    "InverseSqrt",
    "Join",
    "Linear",
    "Lookup",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "Product",
    "Repeat",
    "Replanned",
    "Reverse",
    "Schedule",
    "Sqrt",
    "StepDecay",
    "Stretch",
    "Sum",
    "Table",
    "TwoPhase",
    "WarmRestarts",
    "chart",
    "cooldown",
    "csv_rows",
    "exponential_equivalent",
    "exponential_rate",
    "from_spec",
    "multistep",
    "nonzero_warmup",
    "one_cycle",
    "parse",
    "refined",
    "replan",
    "segments",
    "sparkline",
    "texp",
    "texp_minus",
    "to_spec",
    "to_text",
    "triangular",
    "untuned_exponential_warmup",
    "untuned_linear_warmup",
    "warmup",
    "wsd",
]
