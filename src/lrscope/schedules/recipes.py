"""Well-known schedules, put together from the shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean, number, several, short, whole
from lrscope.schedules.combine import Join, nonzero_warmup
from lrscope.schedules.cycles import StepDecay
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Ramp, Sqrt
from lrscope.schedules.shapes import Constant, Piecewise
from lrscope.schedules.table import ExponentialWarmup

_COOLDOWNS: dict[str, type[Ramp]] = {"linear": Linear, "cosine": Cosine, "sqrt": Sqrt, "exponential": Exponential}


def cooldown(start: float, steps: int, shape: str = "sqrt", end: float = 0.0) -> Ramp:
    """From ``start`` to ``end`` in ``steps`` steps, by one of the shapes in use for the end of a run."""
    if shape not in tuple(_COOLDOWNS):
        raise ScheduleError(f"cooldown: unknown shape {short(shape)}; {did_you_mean(shape, _COOLDOWNS)}")
    return _COOLDOWNS[shape](start, end, steps)


def wsd(steps: int, *, warmup: int, cooldown: int, shape: str = "sqrt", end: float = 0.0) -> Join:
    """Warmup, stable, decay: up to 1, flat, and down in the last ``cooldown`` steps.

    ``nonzero_warmup(warmup)``, then a constant 1, then ``Sqrt(1, end, cooldown)`` or another shape. Its flat part
    can be run on from any checkpoint, and cooled down from there: :meth:`Schedule.cool_down`.

    Args:
        steps: Updates in the whole run.
        warmup: Updates of the warmup; update k runs at (k+1)/warmup of the peak. 0 for none.
        cooldown: Updates of the cooldown.
        shape: ``"linear"``, ``"cosine"``, ``"sqrt"`` (1 - sqrt) or ``"exponential"`` (its ``end`` greater than 0).
        end: Where the cooldown ends, as a factor of the peak.

    Raises:
        ScheduleError: Warmup and cooldown overlap.

    Example:
        >>> wsd(8, warmup=2, cooldown=4, shape="linear").values()
        array([0.5 , 1.  , 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25])

    References:
        Hu et al., MiniCPM, 2024, arXiv 2404.06395; Hägele et al., 2024, arXiv 2405.18392 (the 1-sqrt cooldown).
    """
    rise = nonzero_warmup(whole("wsd", "warmup", warmup))
    flat = whole("wsd", "steps", steps) - rise.steps - whole("wsd", "cooldown", cooldown)
    if flat < 0:
        raise ScheduleError(f"wsd: warmup {warmup} and cooldown {cooldown} overlap in a run of {steps} steps")
    return rise.then(Constant(1.0, flat)).then(_cooldown(1.0, cooldown, shape, end))


_cooldown = cooldown  # under a name that the arguments of wsd do not hide


def one_cycle(
    steps: int,
    *,
    peak_at: float = 0.3,
    start: float = 1 / 25,
    end: float = 4e-6,
    shape: str = "cosine",
    momentum: tuple[float, float] | None = None,
) -> dict[str, Schedule]:
    """One cycle: the learning rate up and far down, momentum the other way.

    For ``ScheduledLR(optimizer, one_cycle(...))``; with momentum, which is meant as it is written and not as a
    factor, ``ScheduledLR(optimizer, one_cycle(..., momentum=(0.85, 0.95)), absolute=["momentum"])``.

    Args:
        steps: Updates in the whole run; the last one has the rate ``end``.
        peak_at: Where the peak is, as a share of the run. It is rounded to a whole step; 1 is the last one.
        start: First learning rate, as a factor of the peak.
        end: Last learning rate, as a factor of the peak.
        shape: ``"cosine"`` or ``"linear"``.
        momentum: Lowest and highest momentum (beta1 for Adam); ``None`` leaves momentum alone.

    Returns:
        ``{"lr": ...}``, and ``"momentum"`` if it was asked for.

    Raises:
        ScheduleError: Fewer than two steps, a peak outside the run, an unknown shape, or momentum that is no pair.

    Example:
        >>> one_cycle(5, peak_at=0.4, start=0.0, end=0.0, shape="linear")["lr"].values(5).round(2)
        array([0.  , 1.  , 0.67, 0.33, 0.  ])

    References:
        Smith, Topin, Super-Convergence, 2018, arXiv 1708.07120. PyTorch's ``OneCycleLR`` with ``start`` =
        1/div_factor and ``end`` = 1/(div_factor * final_div_factor).
    """
    last = whole("one_cycle", "steps", steps, at_least=2) - 1
    if not 0 <= number("one_cycle", "peak_at", peak_at) <= 1:
        raise ScheduleError(f"one_cycle: peak_at must be a share of the run, from 0 to 1, got {peak_at:g}")
    if shape not in ("cosine", "linear"):
        raise ScheduleError(f"one_cycle: unknown shape {short(shape)}; {did_you_mean(shape, ('cosine', 'linear'))}")
    up = min(max(round(peak_at * steps) - 1, 0), last)

    def cycle(first: float, middle: float, final: float) -> Schedule:
        rise = _COOLDOWNS[shape](first, middle, up)
        return rise if up == last else rise.then(_COOLDOWNS[shape](middle, final, last - up))

    keys: dict[str, Schedule] = {"lr": cycle(start, 1.0, end)}
    if momentum is not None:
        pair = several("one_cycle", "momentum", momentum)
        if len(pair) != 2:
            raise ScheduleError(f"one_cycle: momentum must be a pair, lowest and highest, got {short(momentum)}")
        low, high = (number("one_cycle", "momentum", m) for m in pair)
        keys["momentum"] = cycle(high, low, high)
    return keys


def multistep(boundaries: Sequence[int], factor: float = 0.1) -> Piecewise:
    """1, and ``factor`` times the level before at each boundary.

    Example:
        >>> multistep([2, 3], 0.5).values(5)
        array([1.  , 1.  , 0.5 , 0.25, 0.25])
    """
    factor, bounds = number("multistep", "factor", factor), several("multistep", "boundaries", boundaries)
    levels = itertools.accumulate(bounds, lambda level, _: level * factor, initial=1.0)
    return Piecewise(tuple(levels), bounds)


def triangular(
    low: float, high: float, up: int, down: int | None = None, *, cycle_decay: float = 1.0, step_decay: float = 1.0
) -> Schedule:
    """Up from ``low`` to ``high`` and down again, over and over: a cyclical learning rate.

    ``low + (high - low) * triangle(t) * cycle_decay**cycle * step_decay**t``

    Args:
        low: Value at step 0 and at every whole cycle.
        high: Value of the first peak, ``up`` steps later.
        up: Steps up.
        down: Steps down; as many as up, unless given.
        cycle_decay: Each peak stands so many times as high above ``low`` as the one before ("triangular2": 0.5).
        step_decay: The same for each step ("exp_range").

    Example:
        >>> triangular(0.0, 1.0, 2, cycle_decay=0.5).values(8)
        array([0.  , 0.5 , 1.  , 0.5 , 0.  , 0.25, 0.5 , 0.25])

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv 1506.01186.
    """
    down = up if down is None else down
    low, high = number("triangular", "low", low), number("triangular", "high", high)
    wave: Schedule = Linear(0.0, high - low, up).then(Linear(high - low, 0.0, down)).repeat()
    if cycle_decay != 1:
        wave = wave * StepDecay(cycle_decay, every=up + down)
    if step_decay != 1:
        wave = wave * StepDecay(step_decay)
    return wave if low == 0 else low + wave


def untuned_linear_warmup(beta2: float) -> Linear:
    """The linear warmup that Adam needs for its second moment: ``min(1, (t + 1) / W)``, W = ``2 / (1 - beta2)``.

    W is rounded down to a whole number: 2 000 updates for 0.999. It is ``nonzero_warmup(W)``.

    References:
        Ma, Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021, arXiv 1910.04209.
    """
    return nonzero_warmup(math.floor(2.0 / _one_minus(beta2) * (1 + 1e-12)))


def untuned_exponential_warmup(beta2: float) -> ExponentialWarmup:
    """The exponential warmup that Adam needs for its second moment: ``1 - exp(-(t + 1) (1 - beta2))``.

    ``ExponentialWarmup(1 / (1 - beta2))``.

    References:
        Ma, Yarats, On the Adequacy of Untuned Warmup for Adaptive Optimization, 2021, arXiv 1910.04209.
    """
    return ExponentialWarmup(1.0 / _one_minus(beta2))


def _one_minus(beta2: Any) -> float:
    beta2 = number("untuned warmup", "beta2", beta2)
    if not 0 <= beta2 < 1:
        raise ScheduleError(f"untuned warmup: beta2 must be at least 0 and less than 1, got {beta2:g}")
    return 1.0 - beta2
