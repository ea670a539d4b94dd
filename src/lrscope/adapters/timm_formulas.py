"""What timm's schedulers compute, as schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules import (
    After,
    Constant,
    Cosine,
    Exponential,
    Join,
    Linear,
    Piecewise,
    Polynomial,
    Schedule,
    Sqrt,
    StepDecay,
    Table,
)
from lrscope.schedules.checks import number, whole


def after(body: Schedule, steps: int) -> Schedule:
    """What remains of ``body``, also of a part of it, without what is over."""
    if not isinstance(body, Join):
        return body if isinstance(body, Constant) and body.steps is None else body.after(steps)
    parts = list(body.parts)
    while len(parts) > 1 and (length := parts[0].num_steps or 0) <= steps:
        steps -= length
        parts.pop(0)
    first = after(parts[0], steps) if steps else parts[0]
    return first if len(parts) == 1 else Join((first, *parts[1:]))


def curve(kind: str, s: Any, low: float, count: int | None) -> Schedule:
    """The curve without its warmup, as factors; ``count`` is the length of the run, where it is given."""
    if kind == "step":
        return _steps(s, count)
    if kind == "multistep":
        return _multi_step(s)
    return _wsd(s, low) if kind == "wsd" else _cycles(kind, s, low)


def _cycles(kind: str, s: Any, low: float) -> Schedule:
    """Cosine, tanh and polynomial: cycles from ever lower peaks, then the floor."""
    limit = whole("timm", "cycle_limit", s.cycle_limit)
    lengths = [s.t_initial * s.cycle_mul**i for i in range(limit)]
    peaks = [s.cycle_decay**i for i in range(limit)]
    if limit and kind != "tanh" and s.k_decay == 1 and all(n == int(n) for n in lengths):
        ramps = [
            Cosine(p, low, int(n)) if kind == "cosine" else Polynomial(p, low, int(n), s.power)
            for p, n in zip(peaks, lengths, strict=True)
        ]
        return ramps[0] if limit == 1 else Join(tuple(ramps))
    begins = list(itertools.accumulate(lengths, initial=0.0))
    values = [
        low + (peaks[i] - low) * _fall(kind, s, t - begin, lengths[i])
        for i, (begin, end) in enumerate(itertools.pairwise(begins))
        for t in range(math.ceil(begin), math.ceil(end))
    ]
    return Table((*values, low))


def _fall(kind: str, s: Any, t: float, length: float) -> float:
    """From 1 to 0 in ``length``."""
    if kind == "tanh":
        x = t / length
        return 0.5 * (1 - math.tanh(s.lb * (1.0 - x) + s.ub * x))
    x = t**s.k_decay / length**s.k_decay
    return 0.5 * (1 + math.cos(math.pi * x)) if kind == "cosine" else (1 - x) ** s.power


def _steps(s: Any, count: int | None) -> Schedule:
    rate, every = number("timm", "decay_rate", s.decay_rate), s.decay_t
    if rate == 1:
        return Constant(1.0)
    if every == int(every) and rate > 0:
        return StepDecay(rate, int(every))
    if count is None:
        raise ScheduleError(
            f"steps: needed to tabulate the values, since the rate falls every {every:g} epochs or updates, which is "
            "not a whole number"
        )
    return Table(tuple(rate ** (t // every) for t in range(count + 1)))


def _multi_step(s: Any) -> Schedule:
    """A milestone applies one step before its number, as in timm."""
    at = sorted(max(math.ceil(m) - 1, 0) for m in s.decay_t)
    times = {m: len(list(same)) for m, same in itertools.groupby(at)}
    drops = [m for m in times if m > 0]
    counts = itertools.accumulate((times[m] for m in drops), initial=times.get(0, 0))
    return Piecewise(tuple(float(s.decay_rate) ** n for n in counts), tuple(drops))


def _wsd(s: Any, low: float) -> Schedule:
    length, decay = whole("timm", "t_initial", s.t_initial), whole("timm", "decay_t", s.decay_t)
    falls: dict[str, Callable[[], Schedule]] = {
        "linear": lambda: Linear(1.0, low, decay),
        "1-sqrt": lambda: Sqrt(1.0, low, decay),
        "cosine": lambda: Cosine(1.0, low, decay),
        "power": lambda: Polynomial(low, 1.0, decay, s.decay_power).reverse(),
        "exp": lambda: _exponential_fall(s.decay_ratio, low, decay),
    }
    if s.stable_fn == "constant" and s.decay_fn in falls and low <= 1:
        fall = falls[s.decay_fn]()
        return Constant(1.0, length - decay).then(fall) if length > decay else fall
    fall = s.decay_fn if callable(s.decay_fn) else falls_to_zero(s)[s.decay_fn]
    powers: dict[str, float] = {"constant": 0.0, "rsqrt": 0.5, "power": s.stable_power}
    power = powers[s.stable_fn]
    values = []
    for t in range(length + 1):
        stable = max((1 + t / (s.stable_timescale or 1)) ** -power, low)
        done = (t - (length - decay)) / decay
        values.append(stable if done <= 0 else low + (stable - low) * fall(min(done, 1.0)))
    return Table(tuple(values))


def falls_to_zero(s: Any) -> dict[str, Callable[[float], float]]:
    """The shapes of a decay from 1 to 0, of the share that is done."""
    r = s.decay_ratio
    return {
        "linear": lambda x: 1 - x,
        "1-sqrt": lambda x: 1 - math.sqrt(x),
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
        "power": lambda x: 1 - x**s.decay_power,
        "exp": lambda x: (r**x - r) / (1 - r),
    }


def _exponential_fall(ratio: float, low: float, steps: int) -> Schedule:
    """An exponential from 1 to ``ratio``, stretched so that it reaches ``low``."""
    slope = (1.0 - low) / (1.0 - ratio)
    return (slope * Exponential(1.0, ratio, steps) + (low - slope * ratio)).first(steps).then(low)


def stairs(s: Schedule, width: int) -> Schedule:
    """``s`` with one stair of ``width`` updates for each of its steps."""
    if isinstance(s, Join):
        return Join(tuple(stairs(part, width) for part in s.parts))
    if isinstance(s, After):
        return stairs(s.schedule, width).after(s.steps * width)
    if isinstance(s, Constant):
        return Constant(s.value, None if s.steps is None else s.steps * width)
    if isinstance(s, StepDecay):
        return StepDecay(s.factor, s.every * width)
    if isinstance(s, Piecewise):
        return Piecewise(s.levels, tuple(b * width for b in s.boundaries))
    count = s.num_steps
    assert count is not None, "every other curve ends"
    levels = s.values(count + 1).tolist()
    changes = [t for t in range(1, count + 1) if levels[t] != levels[t - 1]]
    return Piecewise((levels[0], *(levels[t] for t in changes)), tuple(t * width for t in changes), count * width)
