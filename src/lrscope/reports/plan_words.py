"""The plan in sentences: where to start, how high, how long a warmup and why."""

from __future__ import annotations

import math

from lrscope.records import CriticalLR, Plan
from lrscope.reports.numbers import count, lr, percent, plural
from lrscope.reports.reasons import peak_evidence, peak_reason, warmup_reason

_ONE_STEP = "the largest stable learning rate of the untrained model by the one-step test"
_DECAY = {"linear": "fall linearly to zero", "cosine": "follow a cosine to zero"}


def has_warmup(plan: Plan) -> bool:
    """A warmup of one update is none: update 0 is at the peak already."""
    return plan.warmup_steps > 1


def decay(plan: Plan) -> str:
    return _DECAY.get(plan.decay, f"decay ({plan.decay})")


def answer(plan: Plan) -> str:
    """The whole schedule in one sentence."""
    return (
        f"Start at {lr(plan.start_lr)}, climb linearly to {lr(plan.peak_lr)} over the first "
        f"{count(plan.warmup_steps)} of {plural(plan.steps, 'step')}, then {decay(plan)}."
        if has_warmup(plan)
        else f"Start directly at {lr(plan.peak_lr)}, no warmup, then {decay(plan)} over {plural(plan.steps, 'step')}."
    )


def plan_sentences(plan: Plan) -> list[str]:
    """Where to start, how high, how long a warmup and why."""
    return [_start(plan), _peak(plan), _warmup(plan)]


def critical_range(plan: Plan) -> tuple[float, float, float] | None:
    """Geometric mean, smallest and largest of the critical learning rates found at initialisation."""
    found = [c.lr for c in plan.critical if c.status == "found" and c.lr > 0 and math.isfinite(c.lr)]
    if not found:
        return None
    return math.exp(sum(map(math.log, found)) / len(found)), min(found), max(found)


def _start(plan: Plan) -> str:
    text = f"Start at learning rate {lr(plan.start_lr)}"
    critical = critical_range(plan)
    if critical is None:
        return f"{text}; {_no_critical(plan.critical)}."
    middle, low, high = critical
    seeds = sum(c.status == "found" for c in plan.critical)
    spread = f" ({lr(low)} to {lr(high)} over {seeds} seeds)" if seeds > 1 and low < high else ""
    if plan.start_lr <= low:
        where = "below"
    elif plan.start_lr <= high:
        where = "about at"
    else:
        where = "above"
    rest = "" if where != "above" else "; the first updates may raise the loss"
    return f"{text}, {where} {lr(middle)}{spread}, {_ONE_STEP}{rest}."


def _no_critical(critical: tuple[CriticalLR, ...]) -> str:
    if not critical:
        return f"{_ONE_STEP} was not measured"
    reading = critical[0]
    return f"on the untrained model, {reading}" if reading.status != "found" else "no finite reading was found"


def _peak(plan: Plan) -> str:
    text = f"Climb to {lr(plan.peak_lr)}" if has_warmup(plan) else f"The peak is {lr(plan.peak_lr)}"
    return f"{text}{peak_reason(peak_evidence(plan), plan)}."


def _warmup(plan: Plan) -> str:
    if has_warmup(plan):
        text = f"Warm up for {count(plan.warmup_steps)} steps ({percent(plan.warmup_frac)} of the run)"
    else:
        text = "Use no warmup"
    return f"{text}, {warmup_reason(plan)}."
