"""What the full runs say: plain verdicts, also where the plan did not win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from lrscope.records import Plan, Run, Table
from lrscope.reports.numbers import capital, count, listing, loss, percent, plural, times
from lrscope.reports.outcome import (
    LONG,
    Outcome,
    apart,
    gap,
    in_words,
    outcome,
    quantity,
    readings,
    relative,
    stopped_at,
    unjudged,
    watched,
)
from lrscope.reports.trials import seed_spread

CLOSE = 0.02  # one seed per run: below this share a difference is not called one, unless the trials say better


def outcomes(runs: Mapping[str, Run]) -> list[Outcome]:
    column = quantity(runs)
    return [outcome(name, run, column) for name, run in runs.items()]


def outcome_sentence(runs: Mapping[str, Run], trials: Table | None = None) -> str | None:
    """The run of the plan against the baselines, in numbers; says plainly when the plan is not better."""
    rows = {row.name: row for row in outcomes(runs)}
    ours = rows.pop("planned", None) or rows.pop("run", None)
    if ours is None:
        return None
    plan, words = ours.name == "planned", in_words(quantity(runs))
    who = "The planned run" if plan else "The run"
    if ours.status == "diverged":
        trained = [row for row in rows.values() if row.comparable]
        rest = f" {capital(listing([_reached(row) for row in trained]))}." if trained else ""
        if ours.unjudged:
            lead = "The plan failed: the" if plan else "The"
            return f"{lead} evaluation loss was {ours.unjudged} after step {count(ours.stopped or 0)}.{rest}"
        lead = "The plan failed: its run" if plan else who
        return f"{lead} diverged at step {count(ours.stopped or 0)}.{rest}"
    if not ours.comparable:
        had = f", its {words} then at {loss(ours.final)}" if ours.final == ours.final else ""
        so = "; it is not compared with the others" if rows else ""
        return f"{who} has got to {_place(runs, ours)} so far{had}{so}."
    spread = seed_spread(trials) if trials is not None else None
    noise = max(spread or 0.0, CLOSE)
    against = [_against(ours, row, noise) for row in rows.values()]
    if not against:
        nothing = "; there is no baseline to compare it with" if plan else ""
        return f"{who} ended at {words} {loss(ours.final)}{nothing}."
    better = [row for row in rows.values() if row.comparable and row.final < ours.final]
    lead = "The plan was not the best: its run" if better and plan else who
    text = f"{lead} ended at {words} {loss(ours.final)}, {listing(against)}."
    return text + _noise_note(ours, list(rows.values()), noise, spread)


def expectation_sentence(plan: Plan, runs: Mapping[str, Run]) -> str | None:
    """Did the full run end where the trials said it would?"""
    run = runs.get("planned")
    low, high = plan.expected_low, plan.expected_high
    if run is None or plan.expected_loss is None or low is None or high is None:
        return None
    ours = outcome("planned", run, quantity(runs))
    if not ours.comparable:
        return None
    where = "inside that range" if low <= ours.final <= high else "better than that"
    return (
        f"The short runs had led to expect {loss(plan.expected_loss)} (between {loss(low)} and {loss(high)}): "
        f"the run ended {where if ours.final <= high else 'worse than that'}."
    )


def standing(runs: Mapping[str, Run], trials: Table | None = None) -> Literal["failed", "beaten", "fine"]:
    """How the plan stands: its run diverged, another run was clearly better, or neither."""
    rows = {row.name: row for row in outcomes(runs)}
    ours = rows.pop("planned", None)
    if ours is not None and ours.status == "diverged":
        return "failed"
    noise = max((seed_spread(trials) if trials is not None else None) or 0.0, CLOSE)
    others = [row.final for row in rows.values() if row.comparable]
    beaten = ours is not None and ours.comparable and any(apart(ours.final, other) > noise for other in others)
    return "beaten" if beaten else "fine"


def _place(runs: Mapping[str, Run], ours: Outcome) -> str:
    done = ours.stopped or 0
    return plural(done, "update") if watched(runs[ours.name]) else f"step {count(done)}"


def _against(ours: Outcome, other: Outcome, noise: float) -> str:
    name = LONG.get(other.name, other.name)
    if other.status == "diverged":
        if other.unjudged:
            return f"where the evaluation loss of {name} was {other.unjudged} after step {count(other.stopped or 0)}"
        return f"where {name} diverged at step {count(other.stopped or 0)}"
    if not other.comparable:
        return f"with no finished run of {name} to compare"
    share = apart(ours.final, other.final)
    if abs(share) < 5e-4:
        return f"the same as {name} ({loss(other.final)})"
    side = "below" if share < 0 else "above"
    close = ", too close to call" if abs(share) <= noise else ""
    by = gap(ours.final, other.final)
    if share >= 9 and relative(ours.final, other.final) is not None:
        by, side = times(1 + share), "that of"
    return f"{by} {side} {name} ({loss(other.final)}{close})"


def _noise_note(ours: Outcome, others: list[Outcome], noise: float, spread: float | None) -> str:
    if not any(abs(apart(ours.final, row.final)) <= noise for row in others if row.comparable):
        return ""
    if spread is None:
        return f" Every run has one seed, so differences under {percent(noise)} mean little."
    return f" In the trials the seed alone moved scores by ±{percent(spread)}."


def _reached(row: Outcome) -> str:
    return f"{LONG.get(row.name, row.name)} reached {loss(row.final)}"


def headroom_sentence(run: Run) -> str | None:
    """Was the learning rate within the curvature limit?"""
    step, value = readings(run, "headroom")
    if not len(value):
        return None
    top = int(np.argmax(value))
    within = float(np.mean(value <= 1))
    if within == 1:
        return (
            "The learning rate never went beyond the curvature limit: in "
            f"{plural(len(value), 'measurement')} it was at most {percent(value[top])} of it (step "
            f"{count(step[top])})."
        )
    worst = f"by {percent(value[top] - 1)}" if value[top] < 1.1 else f"{times(value[top])} the limit"
    return (
        f"The learning rate was within the curvature limit in {percent(within)} of "
        f"{plural(len(value), 'measurement')}; furthest beyond it at step {count(step[top])}, {worst}."
    )


def catapult_sentence(run: Run, warmup_steps: int | None = None) -> str | None:
    """How often the loss jumped and came back; ``None`` if nobody looked."""
    found = [event for event in run.events if event.kind == "catapult"]
    if run.status == "diverged" and unjudged(run) is None:
        before = f" after {plural(len(found), 'catapult')}" if found else ""
        return f"The loss diverged at step {count(stopped_at(run))}{before} and did not come back."
    jumps = sum(event.kind == "jump" for event in run.events)
    if not found and jumps:  # nobody measured the sharpness, which alone could tell
        often = "once" if jumps == 1 else f"{count(jumps)} times"
        return f"The loss jumped {often} and came back at once: bad batches or a very fast catapult."
    if not found and "sharpness" not in run.columns:
        return None
    if not found:
        spikes = sum(event.kind == "spike" for event in run.events)
        if spikes:
            often = "once" if spikes == 1 else f"{count(spikes)} times"
            return f"The loss jumped and came back {often}, but the sharpness did not fall by it: no catapults."
        return "The loss never jumped and came back (no catapults)."
    worst = max(found, key=lambda event: float(event.detail.get("ratio") or 0))
    steps = listing([count(event.step) for event in found[:5]]) + (" …" if len(found) > 5 else "")
    text = (
        f"The loss jumped and came back {'once' if len(found) == 1 else f'{count(len(found))} times'} (step {steps})"
    )
    if worst.detail.get("ratio"):
        text += f"; the largest jump was {times(float(worst.detail['ratio']))} the loss before it"
    if worst.detail.get("end") is not None:
        text += f" and was over by step {count(worst.detail['end'])}"
    if warmup_steps and warmup_steps > 1:
        inside = sum(event.step < warmup_steps for event in found)
        text += f"; {'all' if inside == len(found) else inside if inside else 'none'} during warmup"
    return text + "."
