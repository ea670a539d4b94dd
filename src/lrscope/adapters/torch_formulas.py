"""What each class of ``torch.optim.lr_scheduler`` computes, as a schedule of one group."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch.optim import lr_scheduler as tl
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from lrscope.adapters.imported import share
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.schedules import (
    Constant,
    Cosine,
    CosineWave,
    Join,
    Linear,
    Piecewise,
    Polynomial,
    Product,
    Schedule,
    StepDecay,
    Table,
    WarmRestarts,
    triangular,
)
from lrscope.schedules.checks import short, whole


class NoFormulaError(Exception):
    """The values can only be had by running the scheduler."""


@dataclass(frozen=True)
class Place:
    """Where a scheduler is read: for which group, with what base rate, for how many steps.

    In a sequence, ``entry`` is the factor of the step before the part takes over; ``None`` for the first part.
    """

    group: int
    base: float
    steps: int | None
    in_sequence: bool = False
    entry: float | None = None

    def share(self, value: Any, what: str) -> float:
        return share(value, self.base, what)


def base_of(scheduler: LRScheduler, group: int) -> float:
    """The rate that a group started from."""
    groups = scheduler.optimizer.param_groups
    for leaf in leaves(scheduler):
        if type(leaf) in READERS and len(leaf.base_lrs) != len(groups):
            raise ScheduleError(
                f"{type(leaf).__name__}: was built for {len(leaf.base_lrs)} parameter groups, and there are "
                f"{len(groups)} now; build it anew, so that the later ones have a schedule"
            )
    return float(groups[group].get("initial_lr", groups[group]["lr"]))


def leaves(scheduler: LRScheduler) -> list[LRScheduler]:
    """The schedulers that are not made of others."""
    parts = getattr(scheduler, "_schedulers", None)
    return [scheduler] if parts is None else [leaf for part in parts for leaf in leaves(part)]


def read(s: Any, at: Place) -> Schedule:
    """The schedule of one group."""
    reader = READERS.get(type(s)) or COMPOSITES.get(type(s))
    if reader is None:
        raise ScheduleError(
            f"{type(s).__name__}: not a scheduler of torch, so its formula is not known; "
            "lrscope.adapters.torch_schedulers.simulate(scheduler, steps) tabulates it"
        )
    if reader not in (_sequential, _chained, _cyclic) and float(s.base_lrs[at.group]) != at.base:
        raise NoFormulaError(f"{type(s).__name__}: was built on another base rate than the group has now")
    return reader(s, at)


# One reader per class. ``at.entry`` matters to the few whose first value in a sequence is another one than alone.


def _lambda(s: Any, at: Place) -> Schedule:
    return Table(tuple(_asked(s, at)))


def _multiplicative(s: Any, at: Place) -> Schedule:
    first, *factors = _asked(s, at)
    first = 1.0 if at.entry is None else at.entry * first
    return Table(tuple(itertools.accumulate(factors, lambda a, b: a * b, initial=first)))


def _asked(s: Any, at: Place) -> list[float]:
    """What a function of the user's gives for each step; it must give the same whenever it is asked."""
    count = _needed(s, at)
    function = own_copy(s.lr_lambdas[at.group])
    values = [float(function(t)) for t in range(count)]
    again = float(function(0))
    if again != values[0] and not math.isnan(again):
        raise ScheduleError(
            f"{type(s).__name__}: its function gives {values[0]:g} for step 0, and {again:g} when asked again; write "
            "it as a function of the step alone, without a state or random numbers"
        )
    return values


def own_copy(function: Any) -> Any:
    """A callable object of our own, since calling it may change it; a plain function is its own copy."""
    try:
        return copy.deepcopy(function)
    except Exception:  # it holds what cannot be copied, such as an open file
        return function


def _needed(s: Any, at: Place) -> int:
    if at.steps is None:
        raise NoFormulaError(f"{type(s).__name__}: its factors are a function of the user's, known by calling it")
    return at.steps


def _step(s: Any, _: Place) -> Schedule:
    return _decay(s.gamma, whole("StepLR", "step_size", s.step_size, at_least=1))


def _exponential(s: Any, _: Place) -> Schedule:
    return _decay(s.gamma, 1)


def _decay(gamma: Any, every: int) -> Schedule:
    return Piecewise((1.0, 0.0), (every,)) if gamma == 0 else StepDecay(float(gamma), every)


def _multi_step(s: Any, _: Place) -> Schedule:
    times = {int(m): n for m, n in s.milestones.items() if m == int(m) and m >= 0}
    drops = sorted(m for m in times if m > 0)
    counts = itertools.accumulate((times[m] for m in drops), initial=times.get(0, 0))
    return Piecewise(tuple(float(s.gamma) ** n for n in counts), tuple(drops))


def _constant(s: Any, at: Place) -> Schedule:
    end = s.total_iters
    if end <= 0 or end != int(end):
        # torch restores the rate at the step that equals total_iters, and that step never comes. In a sequence its
        # other formula is asked first, which compares by "at least".
        return Constant(1.0 if at.entry is not None and end <= 0 else float(s.factor))
    return Piecewise((float(s.factor), 1.0), (int(end),))


def _linear(s: Any, _: Place) -> Schedule:
    start, end, total = float(s.start_factor), float(s.end_factor), s.total_iters
    count = max(math.floor(total), 0)
    return Linear(start, end if count == total > 0 else start + (end - start) * count / (total or 1), count)


def _polynomial(s: Any, _: Place) -> Schedule:
    total, power, count = s.total_iters, float(s.power), max(math.floor(s.total_iters), 0)
    if count == 0 or power == 0:
        return Constant(1.0)
    if count == total:
        return Polynomial(1.0, 0.0, count, power)
    return Table(tuple((1.0 - t / total) ** power for t in range(count + 1)))


def _cosine(s: Any, at: Place) -> Schedule:
    return CosineWave(1.0, at.share(s.eta_min, "eta_min"), 2.0 * s.T_max)


def _warm_restarts(s: Any, at: Place) -> Schedule:
    return WarmRestarts(1.0, at.share(s.eta_min, "eta_min"), s.T_0, s.T_mult)


def _swa(s: Any, at: Place) -> Schedule:
    group = s.optimizer.param_groups[at.group]
    end = at.share(group["swa_lr"], "swa_lr")
    if s.anneal_epochs == 0:
        return Constant(end)
    ramp = Linear if s._anneal_strategy == "linear" else Cosine
    start = (1.0 if at.entry is None else at.entry) if at.in_sequence else _swa_start(s, group, at)
    return ramp(start, end, s.anneal_epochs)


def _swa_start(s: Any, group: dict[str, Any], at: Place) -> float:
    """The rate at which SWALR found the group. It is kept nowhere, so the present one is wound back."""
    done = s.anneal_func(min(1.0, (s._step_count - 1) / s.anneal_epochs))
    if done == 1:
        warnings.warn(
            "SWALR: it has finished, and no longer knows the rate at which it began; the group's initial_lr is "
            "taken for it",
            LrscopeWarning,
            stacklevel=5,
        )
        return 1.0
    start = at.share((float(group["lr"]) - done * float(group["swa_lr"])) / (1 - done), "lr")
    return 1.0 if math.isclose(start, 1.0, rel_tol=1e-9) else start


def _cyclic(s: Any, at: Place) -> Schedule:
    return _triangles(s, *(at.share(lrs[at.group], "base_lr or max_lr") for lrs in (s.base_lrs, s.max_lrs)))


def _triangles(s: Any, low: float, high: float) -> Schedule:
    up = round(s.total_size * s.step_ratio)
    if s._scale_fn_custom is not None or s.gamma <= 0:
        raise NoFormulaError("CyclicLR: its scale_fn is a function of the user's, known by calling it")
    if s.total_size != round(s.total_size) or not math.isclose(up / s.total_size, s.step_ratio, rel_tol=1e-12):
        raise NoFormulaError("CyclicLR: its step sizes are not whole numbers")
    decay = {"triangular2": {"cycle_decay": 0.5}, "exp_range": {"step_decay": float(s.gamma)}}.get(s.mode, {})
    return triangular(low, high, up, round(s.total_size) - up, **decay)


def _one_cycle(s: Any, at: Place) -> Schedule:
    group = s.optimizer.param_groups[at.group]
    return _phases(s, lambda phase, end: at.share(group[phase[f"{end}_lr"]], phase[f"{end}_lr"]))


def _phases(s: Any, value: Callable[[Any, str], float]) -> Schedule:
    """The phases of a one-cycle schedule, whose boundaries are real numbers."""
    parts: list[Schedule] = []
    begin, first, last = 0.0, 0, s.total_steps - 1
    for phase in s._schedule_phases:
        end = float(phase["end_step"])
        until = min(math.ceil(end), last)
        if until > first or end >= last:
            parts.append(_arc(s, value(phase, "start"), value(phase, "end"), (begin, end), (first, until)))
        if end >= last:  # the run ends in this phase, which may be before the last one
            break
        begin, first = end, max(first, until)
    return parts[0] if len(parts) == 1 else Join(tuple(parts))


def _arc(s: Any, start: float, end: float, real: tuple[float, float], whole_steps: tuple[int, int]) -> Schedule:
    """The steps from ``whole_steps[0]`` to ``whole_steps[1]`` of a ramp between two real-valued times."""
    (begin, finish), (first, until) = real, whole_steps
    length, count = finish - begin, until - first
    done = [min((t - begin) / length, 1.0) for t in range(first, until + 1)]
    if s._anneal_func_type == "linear":
        first_value = start + (end - start) * done[0]
        if until == finish or count < 2:
            return Linear(first_value, start + (end - start) * done[-1], count)
        return Linear(first_value, first_value + (end - start) / length * count, count)
    if begin == first and finish == until:
        return Cosine(start, end, count)
    if count > 1 and begin == first:
        return CosineWave(start, end, 2 * length, count)
    if count > 1 and begin == int(begin):
        return CosineWave(start, end, 2 * length).after(first - int(begin)).first(count)
    if count > 1 and finish == until:
        return CosineWave(end, start, 2 * length, count).reverse()
    return Table(tuple(end + (start - end) * (1.0 + math.cos(math.pi * x)) / 2.0 for x in done)).first(count)


READERS: dict[type[LRScheduler], Callable[[Any, Place], Schedule]] = {
    tl.LambdaLR: _lambda,
    tl.MultiplicativeLR: _multiplicative,
    tl.StepLR: _step,
    tl.MultiStepLR: _multi_step,
    tl.ConstantLR: _constant,
    tl.LinearLR: _linear,
    tl.ExponentialLR: _exponential,
    tl.PolynomialLR: _polynomial,
    tl.CosineAnnealingLR: _cosine,
    tl.CosineAnnealingWarmRestarts: _warm_restarts,
    tl.CyclicLR: _cyclic,
    tl.OneCycleLR: _one_cycle,
    SWALR: _swa,
}
_MULTIPLIES = (
    tl.MultiplicativeLR,
    tl.StepLR,
    tl.MultiStepLR,
    tl.ConstantLR,
    tl.LinearLR,
    tl.ExponentialLR,
    tl.PolynomialLR,
)
"""Classes that only ever multiply the rate they find, so that in a chain their factors multiply."""


def _chained(s: Any, at: Place) -> Schedule:
    parts = _flat(s)
    if len(parts) == 1:
        return read(parts[0], at)
    for part in parts:
        if type(part) not in _MULTIPLIES:
            raise NoFormulaError(
                f"ChainedScheduler: {type(part).__name__} does more than multiply the rate that it finds"
            )
    return Product(tuple(read(part, at) for part in parts))


def _flat(s: Any) -> list[Any]:
    return [leaf for part in s._schedulers for leaf in _flat(part)] if type(s) is tl.ChainedScheduler else [s]


def _sequential(s: Any, at: Place) -> Schedule:
    milestones = [whole("SequentialLR", "milestones", m) for m in s._milestones]
    if milestones != sorted(milestones):
        raise ScheduleError(f"SequentialLR: milestones must increase, got {short(milestones)}")
    parts: list[Schedule] = []
    entry = None
    for i in range(bisect_right(milestones, 0), len(s._schedulers)):
        begin = milestones[i - 1] if i else 0
        count = milestones[i] - begin if i < len(milestones) else None
        if count == 0:
            continue
        part = s._schedulers[i]
        if type(part) in COMPOSITES:
            _warn_of_nesting(i, part)
        steps = count if count is not None or at.steps is None else max(at.steps - begin, 1)
        own = read(part, replace(at, steps=steps, in_sequence=True, entry=entry))
        parts.append(own if count is None or own.num_steps == count else own.first(count))
        entry = own(count - 1) if count else None
    return parts[0] if len(parts) == 1 else Join(tuple(parts))


def _warn_of_nesting(index: int, part: Any) -> None:
    warnings.warn(
        f"SequentialLR: part {index} is a {type(part).__name__}, which torch starts one step too far or cannot start "
        "at all. It is read as it was meant, from its own step 0; simulate(scheduler, steps) has torch's values",
        LrscopeWarning,
        stacklevel=5,
    )


COMPOSITES: dict[type[LRScheduler], Callable[[Any, Place], Schedule]] = {
    tl.SequentialLR: _sequential,
    tl.ChainedScheduler: _chained,
}


def momentum(s: Any, group: int) -> Schedule | None:
    """The values of a cycled momentum."""
    if not any(getattr(leaf, "cycle_momentum", False) for leaf in leaves(s)):
        return None
    if type(s) is tl.CyclicLR:
        return _triangles(s, float(s.max_momentums[group]), float(s.base_momentums[group]))
    if type(s) is tl.OneCycleLR:
        values = s.optimizer.param_groups[group]
        return _phases(s, lambda phase, end: float(values[phase[f"{end}_momentum"]]))
    raise NoFormulaError(f"{type(s).__name__}: a part of it cycles momentum too")
