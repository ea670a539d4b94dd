"""The plan in three sentences: where to start, how high, how long a warmup and why."""

from __future__ import annotations

import math

from lrscope.records import CriticalLR, Plan
from lrscope.reports.numbers import count, lr, percent
from lrscope.reports.trials import best_per_warmup, cells, horizons, largest_trained, warmup_name

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
        f"{count(plan.warmup_steps)} of {count(plan.steps)} steps, then {decay(plan)}."
        if has_warmup(plan)
        else f"Start directly at {lr(plan.peak_lr)}, no warmup, then {decay(plan)} over {count(plan.steps)} steps."
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
    spread = f" (between {lr(low)} and {lr(high)} over {seeds} seeds)" if seeds > 1 and low < high else ""
    if plan.start_lr <= low:
        where = "below"
    elif plan.start_lr <= high:
        where = "about at"
    else:
        where = "above"
    rest = "" if where != "above" else ", so the first updates may raise the loss"
    return f"{text}, {where} the largest stable learning rate of the untrained model, {lr(middle)}{spread}{rest}."


def _no_critical(critical: tuple[CriticalLR, ...]) -> str:
    if not critical:
        return "the largest stable learning rate of the untrained model was not measured"
    reading = critical[0]
    return f"on the untrained model, {reading}" if reading.status != "found" else "no finite reading was found"


def _peak(plan: Plan) -> str:
    text = f"Climb to {lr(plan.peak_lr)}" if has_warmup(plan) else f"The peak is {lr(plan.peak_lr)}"
    if plan.peak_low < plan.peak_high:
        return (
            f"{text}; peaks from {lr(plan.peak_low)} to {lr(plan.peak_high)} were not told apart by the trials, "
            "so anything in this range is a fair choice."
        )
    return f"{text}; the trials told it apart from every other peak tried."


def _warmup(plan: Plan) -> str:
    if has_warmup(plan):
        text = f"Warm up for {count(plan.warmup_steps)} steps ({percent(plan.warmup_frac)} of the run)"
    else:
        text = "Use no warmup"
    return f"{text}, {warmup_reason(plan)}."


def warmup_reason(plan: Plan) -> str:
    """Why this warmup: what the same trials gave without it."""
    reached = largest_trained(cells(plan.trials, horizons(plan.trials)[0])) if len(plan.trials) else {}
    ours = min(reached, key=lambda w: abs(w - plan.warmup_frac)) if reached else None
    for horizon in reversed(horizons(plan.trials)):
        winners = best_per_warmup(cells(plan.trials, horizon))
        if len(winners) > 1:
            order = sorted(winners.values(), key=lambda cell: cell.score or 0.0)
            first = order[0]
            text = f"because in trials of {count(horizon)} steps the best score came with {warmup_name(first.warmup)}"
            if has_warmup(plan) != (first.warmup > 0):
                text = (
                    f"although in trials of {count(horizon)} steps the best score came with "
                    f"{warmup_name(first.warmup)}"
                )
            if ours and 0.0 in reached and reached[ours] > 1.2 * reached[0.0]:
                gain = f"from {lr(reached[0.0])} to {lr(reached[ours])}"
                text += f", and warmup raised the largest peak that trained {gain}"
            return text
    return "the only length tried, so the trials do not say whether another is better"
