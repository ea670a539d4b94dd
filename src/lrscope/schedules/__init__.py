"""Learning-rate schedules as values: numbers as functions of the step, in closed form. No torch in here."""

from lrscope.schedules.base import Schedule
from lrscope.schedules.combine import Join, Product, nonzero_warmup, warmup
from lrscope.schedules.exponential import (
    EquivalentMomentum,
    ExponentialEquivalent,
    exponential_equivalent,
    exponential_rate,
)
from lrscope.schedules.horizon import Horizon
from lrscope.schedules.preview import chart, csv_rows, segments, sparkline
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Sqrt
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise
from lrscope.schedules.spec import from_spec, to_spec
from lrscope.schedules.tapered import texp, texp_minus
from lrscope.schedules.text import parse
from lrscope.schedules.write import to_text

__all__ = [
    "Constant",
    "Cosine",
    "EquivalentMomentum",
    "Exponential",
    "ExponentialEquivalent",
    "Horizon",
    "InverseSqrt",
    "Join",
    "Linear",
    "Piecewise",
    "Polynomial",
    "Product",
    "Schedule",
    "Sqrt",
    "chart",
    "csv_rows",
    "exponential_equivalent",
    "exponential_rate",
    "from_spec",
    "nonzero_warmup",
    "parse",
    "segments",
    "sparkline",
    "texp",
    "texp_minus",
    "to_spec",
    "to_text",
    "warmup",
]
