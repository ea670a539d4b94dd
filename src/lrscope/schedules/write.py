"""From a schedule to the text that :func:`parse` reads."""

from __future__ import annotations

from dataclasses import fields

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.combine import Join, Product, Sum
from lrscope.schedules.cycles import CosineWave, StepDecay, WarmRestarts
from lrscope.schedules.feedback import FeedbackSchedule
from lrscope.schedules.grammar import MAX_LENGTH
from lrscope.schedules.operations import After, Bounded, Clip, First, Operation, Repeat, Reverse, Stretch
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Ramp, Sqrt
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise
from lrscope.schedules.spoken import settings_of, spoken
from lrscope.schedules.table import ExponentialWarmup, Table

_RAMPS = {Linear: "linear", Cosine: "cosine", Polynomial: "poly", Sqrt: "sqrt", Exponential: "exp"}


def to_text(schedule: Schedule | FeedbackSchedule) -> str:
    """One line with every length in steps and every value written out.

    Without a horizon ``parse`` gives an equal schedule back, with ``listening=True`` also one that listens.

    Raises:
        ScheduleError: A shape that has no text, or more than ``parse`` reads (a long Table): ``to_spec`` stores both.

    Example:
        >>> to_text(3e-4 * Linear(0.0, 1.0, 500).then(Cosine(1.0, 0.0, 9_500)))
        '0.0003 * (linear(500, from=0.0, to=1.0) > cosine(9500, from=1.0, to=0.0))'
    """
    text = _heard(schedule) if isinstance(schedule, FeedbackSchedule) else _written(schedule)
    if len(text) > MAX_LENGTH:
        raise ScheduleError(f"to_text: {len(text)} characters, parse reads {MAX_LENGTH}; store it with to_spec()")
    return text


def _heard(schedule: FeedbackSchedule) -> str:
    core, factor = schedule.parted()
    if core.kind not in spoken():
        raise ScheduleError(f"{type(core).__name__} has no text; store it with to_spec()")
    given = {f.name: getattr(core, f.name) for f in fields(core) if f.name in settings_of(type(core))}  # pyright: ignore[reportArgumentType]
    defaults = {f.name: f.default for f in fields(core)}  # pyright: ignore[reportArgumentType]
    options = [f"{name}={_value(name, v)}" for name, v in given.items() if v != defaults[name]]
    text = f"{core.kind}({', '.join(options)})"
    return text if factor == Constant(1.0) else f"{text} * {_operand(factor, Join, Sum)}"


def _value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not (value.isidentifier() and value.isascii()):
        raise ScheduleError(f"to_text: {name}={value!r} is no single word; store it with to_spec()")
    return value if isinstance(value, str) else repr(value)


def _written(schedule: Schedule) -> str:
    match schedule:
        case Join(parts=parts):
            return " > ".join(_part(p, Product, Sum) for p in parts)
        case Sum(terms=terms):
            return " + ".join(_operand(s, Join, Sum) for s in terms)
        case Product(factors=factors):
            return " * ".join(_operand(f, Join, Sum, Product) for f in factors)
        case Operation():
            return _operation(schedule)
        case Ramp(start=start, end=end, steps=steps) if type(schedule) in _RAMPS:
            power = {"power": schedule.power} if isinstance(schedule, Polynomial) else {}
            return _segment(_RAMPS[type(schedule)], steps, **{"from": start, "to": end}, **power)
        case Constant(value=value, steps=steps):
            return _segment("constant", steps, value=value)
        case InverseSqrt(start=start, timescale=timescale, steps=steps):
            return _segment("inverse_sqrt", steps, **{"from": start}, timescale=timescale)
        case Piecewise(levels=levels, boundaries=boundaries, steps=steps):
            return _segment("piecewise", steps, values=list(levels), at=list(boundaries))
        case Table(entries=entries):
            return _segment("table", None, values=list(entries))
        case ExponentialWarmup(timescale=timescale):
            return _segment("exp_warmup", None, timescale=timescale)
        case StepDecay(factor=factor, every=every, steps=steps):
            return _segment("step", steps, factor=factor, every=every)
        case CosineWave(high=high, low=low, period=period, steps=steps):
            return _segment("wave", steps, **{"from": high, "to": low}, period=period)
        case WarmRestarts(high=high, low=low, period=period, mult=mult, peak_decay=decay, steps=steps):
            return _segment("restarts", steps, **{"from": high, "to": low}, period=period, mult=mult, decay=decay)
    raise ScheduleError(f"{type(schedule).__name__} has no text; store it with to_spec()")


def _operation(schedule: Operation) -> str:
    inner = _written(schedule.schedule)
    match schedule:
        case Clip(low=low, high=high):
            return _segment("clip", inner, low=low, high=high)
        case First(steps=steps) | After(steps=steps):
            return _segment(schedule.kind, inner, steps=steps)
        case Stretch(steps=steps):
            return _segment("stretch", inner, to=steps)
        case Repeat(times=times):
            return _segment("repeat", inner, times=times)
        case Reverse() | Bounded():
            return _segment(schedule.kind, inner)
    raise ScheduleError(f"{type(schedule).__name__} has no text; store it with to_spec()")


def _segment(name: str, length: object, **options: object) -> str:
    written = [str(length)] if length is not None else []
    written += [f"{key}={value!r}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join(written)})"


def _part(schedule: Schedule, *bracketed: type[Schedule]) -> str:
    return f"({_written(schedule)})" if isinstance(schedule, bracketed) else _written(schedule)


def _operand(schedule: Schedule, *bracketed: type[Schedule]) -> str:
    """A term or factor: there, a constant without length is a plain number."""
    if isinstance(schedule, Constant) and schedule.steps is None:
        return repr(schedule.value)
    return _part(schedule, *bracketed)
