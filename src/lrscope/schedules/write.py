"""From a schedule to the text that :func:`parse` reads."""

from __future__ import annotations

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.combine import Join, Product
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Ramp, Sqrt
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise

_RAMPS = {Linear: "linear", Cosine: "cosine", Polynomial: "poly", Sqrt: "sqrt", Exponential: "exp"}


def to_text(schedule: Schedule) -> str:
    """One line with every length in steps and every value written out.

    Without a horizon ``parse`` gives an equal schedule back.

    Example:
        >>> to_text(3e-4 * Linear(0.0, 1.0, 500).then(Cosine(1.0, 0.0, 9_500)))
        '0.0003 * (linear(500, from=0.0, to=1.0) > cosine(9500, from=1.0, to=0.0))'
    """
    match schedule:
        case Join(parts=parts):
            return " > ".join(f"({to_text(p)})" if isinstance(p, Product) else to_text(p) for p in parts)
        case Product(factors=factors):
            return " * ".join(_factor(f) for f in factors)
        case Ramp(start=start, end=end, steps=steps) if type(schedule) in _RAMPS:
            power = f", power={schedule.power!r}" if isinstance(schedule, Polynomial) else ""
            return f"{_RAMPS[type(schedule)]}({steps}, from={start!r}, to={end!r}{power})"
        case Constant(value=value, steps=steps):
            return _segment("constant", steps, f"value={value!r}")
        case InverseSqrt(start=start, timescale=timescale, steps=steps):
            return _segment("inverse_sqrt", steps, f"from={start!r}", f"timescale={timescale}")
        case Piecewise(levels=levels, boundaries=boundaries, steps=steps):
            return _segment("piecewise", steps, f"values={list(levels)}", f"at={list(boundaries)}")
    raise ScheduleError(f"{type(schedule).__name__} has no text; store it with to_spec()")


def _segment(name: str, steps: int | None, *options: str) -> str:
    return f"{name}({', '.join(([] if steps is None else [str(steps)]) + list(options))})"


def _factor(schedule: Schedule) -> str:
    if isinstance(schedule, Constant) and schedule.steps is None:
        return repr(schedule.value)
    return f"({to_text(schedule)})" if isinstance(schedule, Join | Product) else to_text(schedule)
