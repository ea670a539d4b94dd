"""Scales and ticks of phase diagrams: powers of two stay powers of two, other numbers look as people write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrscope.reports import numbers
from lrscope.reports.figures import marks

if TYPE_CHECKING:
    from matplotlib.axis import Axis

SPAN = 4
"""From this ratio of the largest to the smallest on, an axis of positive numbers is logarithmic."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_log(values: Sequence[float]) -> bool:
    return len(values) > 0 and min(values) > 0 and max(values) / min(values) > SPAN


def power_of_two(value: float) -> int | None:
    """The exponent, if ``value`` is a power of two up to rounding."""
    if value <= 0:
        return None
    exponent = round(math.log2(value))
    return exponent if abs(value / 2.0**exponent - 1) < 1e-6 else None


def spread_ticks(axis: Axis, places: Sequence[float], *, most: int = 7) -> None:
    """Ticks of an axis that holds the numbers ``places``."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_minor_locator(NullLocator())
    low, high = min(places), max(places)
    if not is_log(places):
        if len(places) <= most:
            axis.set_major_locator(FixedLocator(list(places)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: numbers.lr(float(f"{v:.6g}"))))
        return
    exponents = [power_of_two(v) for v in places]
    whole = [e for e in exponents if e is not None]
    if 2 * len(whole) > len(places) and not (low >= 0.1 and high <= 64):  # between these, plain numbers read better
        stride = next(s for s in (1, 2, 3, 4, 5, 8, 16, 1000) if (whole[-1] - whole[0]) // s < most)
        ticks = [e for e in range(min(whole), max(whole) + 1) if e % stride == 0]
        axis.set_major_locator(FixedLocator([2.0**e for e in ticks]))
        axis.set_major_formatter(FuncFormatter(lambda v, _: "2" + str(round(math.log2(v))).translate(_RAISED)))
        return
    if len(whole) == len(places) and len(places) <= most:
        axis.set_major_locator(FixedLocator(list(places)))
        axis.set_major_formatter(FuncFormatter(lambda v, _: numbers.lr(v)))
        return
    marks.log_lr(axis, low, high, most=most)


def round_ticks(low: float, high: float, *, log: bool, most: int = 6) -> list[float]:
    """Round numbers between two ends, at least two of them where there are any."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in (range(1, 10), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
            if len(ticks) <= most:
                return ticks
        return ticks[:: -(-len(ticks) // most)]
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(most - 1).tick_values(low, high) if low <= v <= high] or [low, high]


def log_if_wide(values: Sequence[float]) -> bool:
    """Whether a loss axis should be logarithmic."""
    kept = [v for v in values if np.isfinite(v)]
    return is_log(kept)
