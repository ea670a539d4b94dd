"""The plan in three sentences, what it cost, and what is missing: the user's words first."""

from __future__ import annotations

import math

from lrscope.records import CriticalLR, Plan
from lrscope.reports.load import Story
from lrscope.reports.numbers import count, listing, lr, percent, plural
from lrscope.reports.outcome import LONG, in_words, quantity, stopped_at
from lrscope.reports.trials import best_per_warmup, cells, horizons, largest_trained

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
                    f"{warmup_name(first.warmup)}; the scores were too close to decide"
                )
            if ours and 0.0 in reached and reached[ours] > 1.2 * reached[0.0]:
                gain = f"from {lr(reached[0.0])} to {lr(reached[ours])}"
                text += f", and warmup raised the largest peak that trained {gain}"
            return text
    return "the only length tried, so the trials do not say whether another is better"


def warmup_name(share: float) -> str:
    return "no warmup" if share == 0 else f"{percent(share)} warmup"


def cost_sentence(story: Story) -> str | None:
    """What planning cost, in gradient evaluations and in full runs."""
    if story.plan is not None:
        work = count(story.plan.cost.in_gradients())
        share = story.plan.share
        runs = f"{share:.2g} full run" if share <= 1 else f"{share:.3g} full runs"
        seconds = story.plan.cost.seconds
        clock = f", {duration(seconds)} on this machine" if seconds >= 1 else ""
        return f"Planning cost {work} gradient evaluations = {runs}{clock}."
    spent = [row.get("gradients") or row.get("horizon") or 0 for row in story.trials.rows()]
    if not spent:
        return None
    runs = f" = {sum(spent) / story.steps:.2g} full runs" if story.steps else ""
    return f"The {plural(len(spent), 'trial')} done so far cost {count(sum(spent))} gradient evaluations{runs}."


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f}\u202fs"
    if seconds < 5400:
        return f"{seconds / 60:.0f}\u202fmin"
    return f"{seconds / 3600:.1f}\u202fh"


def missing(story: Story) -> list[str]:
    """One plain sentence for everything that the report would show but could not."""
    found = list(story.unreadable)
    if story.plan is None and len(story.trials):
        found.append(
            f"Planning did not finish: there is no plan yet, only the {plural(len(story.trials), 'trial')} done so "
            "far. Running the same command again continues where it stopped."
        )
    elif story.plan is None and not any(text.startswith("plan.json") for text in story.unreadable):
        found.append("There is no plan in this directory: only training was asked for, or planning never started.")
    elif story.plan is not None and not len(story.trials):
        found.append("The plan holds no trials, so there is no evidence for the peak and the warmup.")
    found += _missing_runs(story)
    return found


def _missing_runs(story: Story) -> list[str]:
    if not story.runs:
        return ["No full run was trained, so nothing is said about how the plan turned out."]
    found = []
    if "planned" not in story.runs:
        found.append("The planned schedule was not run in full.")
    absent = [LONG[name] for name in ("default", "cosine") if name not in story.runs]
    if absent:
        found.append(f"Not run for comparison: {listing(absent)}.")
    for name, run in story.runs.items():
        if run.status == "interrupted":
            total = run.config.get("steps")
            whole = f" of {count(total)}" if total else ""
            label = LONG.get(name, name)
            found.append(f"The run of {label} was interrupted at step {count(stopped_at(run))}{whole}.")
    if quantity(story.runs) == "loss":
        found.append(
            f"There is no evaluation set: the {in_words('loss')} judges, and says nothing of generalisation."
        )
    planned = story.runs.get("planned")
    if planned is not None and "stable_lr" not in planned.columns:
        found.append("Curvature was not measured during the planned run, so its stability limit is unknown.")
    return found
