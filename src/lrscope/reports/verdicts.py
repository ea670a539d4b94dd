"""What the runs and trials say: plain verdicts, also where the plan did not win."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lrscope.records import Run, Table
from lrscope.reports.load import Story
from lrscope.reports.numbers import count, listing, loss, lr, percent, plural, times
from lrscope.reports.outcome import LONG, Outcome, in_words, outcome, quantity, relative, stopped_at
from lrscope.reports.sentences import warmup_name
from lrscope.reports.trials import Cell, best_per_warmup, cells, horizons, largest_trained, seed_spread

CLOSE = 0.02  # one seed per run: below this share a difference is not called one, unless the trials say better


def outcomes(story: Story) -> list[Outcome]:
    column = quantity(story.runs)
    return [outcome(name, run, column) for name, run in story.runs.items()]


def outcome_sentence(story: Story) -> str | None:
    """Plan against the baselines, in numbers; says plainly when the plan is not better."""
    rows = {row.name: row for row in outcomes(story)}
    ours = rows.pop("planned", None)
    if ours is None:
        return None
    words = in_words(quantity(story.runs))
    if ours.status == "diverged":
        trained = [row for row in rows.values() if row.comparable]
        rest = f" {_capital(listing([_reached(row) for row in trained]))}." if trained else ""
        return f"The plan failed: its run diverged at step {count(ours.stopped or 0)}.{rest}"
    if not ours.comparable:
        return (
            f"The planned run stopped at step {count(ours.stopped or 0)} with {words} {loss(ours.final, 'unknown')}, "
            "so it is not compared with the others."
        )
    noise = max(seed_spread(story.trials) or 0.0, CLOSE)
    against = [_against(ours, row, noise) for row in rows.values()]
    if not against:
        return f"The planned run ended at {words} {loss(ours.final)}; there is no baseline to compare it with."
    better = [row for row in rows.values() if row.comparable and row.final < ours.final]
    lead = "The plan was not the best: it" if better else "The planned run"
    text = f"{lead} ended at {words} {loss(ours.final)}, {listing(against)}."
    return text + _noise_note(story, ours, list(rows.values()), noise)


def _against(ours: Outcome, other: Outcome, noise: float) -> str:
    name = LONG.get(other.name, other.name)
    if other.status == "diverged":
        return f"where {name} diverged at step {count(other.stopped or 0)}"
    if not other.comparable:
        return f"with no finished run of {name} to compare"
    share = relative(ours.final, other.final)
    if share is None:
        side = "below" if ours.final < other.final else "above"
        return f"{loss(abs(ours.final - other.final))} {side} {name} ({loss(other.final)})"
    if abs(share) < 5e-4:
        return f"the same as {name} ({loss(other.final)})"
    side = "below" if share < 0 else "above"
    close = ", too close to call" if abs(share) <= noise else ""
    return f"{percent(abs(share))} {side} {name} ({loss(other.final)}{close})"


def _noise_note(story: Story, ours: Outcome, others: list[Outcome], noise: float) -> str:
    shares = [relative(ours.final, row.final) for row in others if row.comparable]
    if not any(share is not None and abs(share) <= noise for share in shares):
        return ""
    if seed_spread(story.trials) is None:
        return f" Every run has one seed, so differences under {percent(noise)} mean little."
    return f" In the trials the seed alone moved scores by ±{percent(seed_spread(story.trials) or 0.0)}."


def _reached(row: Outcome) -> str:
    return f"{LONG.get(row.name, row.name)} reached {loss(row.final)}"


def warmup_verdict(trials: Table, chosen: float | None = None) -> tuple[str, str]:
    """Answer to "warmup long enough?" (yes, no, unclear) and the sentence that says why.

    Args:
        trials: Short runs of the plan.
        chosen: Warmup of the plan as a share of the run; ``None`` takes the best one of the trials.
    """
    for horizon in reversed(horizons(trials)):
        winners = best_per_warmup(cells(trials, horizon))
        if len(winners) > 1:
            return _judge_warmup(horizon, winners, chosen, max(seed_spread(trials) or 0.0, CLOSE))
    return "unclear", "Only one warmup length was tried, so the trials do not say whether it is long enough."


def _judge_warmup(horizon: int, winners: Mapping[float, Cell], chosen: float | None, noise: float) -> tuple[str, str]:
    top = min(winners, key=lambda w: winners[w].score or 0.0)
    ours = top if chosen is None else min(winners, key=lambda w: abs(w - chosen))
    longer = {w: cell for w, cell in winners.items() if w > ours}
    where = f"in trials of {count(horizon)} steps"
    mine = f"{warmup_name(ours)} scored {loss(winners[ours].score)} at its best peak"
    if not longer:
        return "unclear", f"{_capital(where)}, {mine}; nothing longer was tried at this horizon."
    best_longer = min(longer, key=lambda w: longer[w].score or 0.0)
    gain = relative(winners[ours].score or 0.0, longer[best_longer].score or 0.0)
    theirs = f"{warmup_name(best_longer)} {loss(longer[best_longer].score)}"
    if gain is None:
        return "unclear", f"{_capital(where)}, {mine} and {theirs}."
    if gain > noise:
        return "no", f"{_capital(where)}, {mine} but {theirs}: a longer warmup was {percent(gain)} better."
    return "yes", f"{_capital(where)}, {mine} and {theirs}: a longer warmup brought nothing beyond the noise."


def reach_sentence(trials: Table) -> str | None:
    """The largest peak that trained, with and without warmup: what warmup buys."""
    if not len(trials):
        return None
    first = cells(trials, horizons(trials)[0])
    if not any(cell.diverged for cell in first):
        return "No trial diverged, so the trials do not show an upper limit of the learning rate."
    reach = largest_trained(first)
    if 0.0 not in reach or len(reach) < 2:
        return f"{count(sum(cell.diverged for cell in first))} of the short runs diverged."
    longest = max((w for w in reach if w > 0), key=lambda w: (reach[w], -w))
    if reach[longest] > reach[0.0]:
        return (
            f"Without warmup, peaks up to {lr(reach[0.0])} trained; with {warmup_name(longest)}, "
            f"up to {lr(reach[longest])}."
        )
    return f"Warmup did not raise the largest peak that trained ({lr(reach[0.0])})."


def headroom_sentence(run: Run) -> str | None:
    """Was the learning rate within what the measured curvature allows?"""
    if "headroom" not in run.columns:
        return None
    step, value = run["headroom"]
    step, value = step[np.isfinite(value)], value[np.isfinite(value)]
    if not len(value):
        return None
    top = int(np.argmax(value))
    within = float(np.mean(value <= 1))
    if within == 1:
        return (
            "The learning rate never went beyond what the measured curvature allows: in "
            f"{plural(len(value), 'measurement')} it was at most {percent(value[top])} of "
            f"the stable limit (step {count(step[top])})."
        )
    return (
        f"The learning rate was within what the measured curvature allows in {percent(within)} of "
        f"{plural(len(value), 'measurement')}; furthest beyond it at step {count(step[top])}, "
        f"{times(value[top])} the stable limit."
    )


def catapult_sentence(run: Run, warmup_steps: int | None = None) -> str:
    """How often the loss jumped and came back."""
    found = [event for event in run.events if event.kind == "catapult"]
    if run.status == "diverged":
        before = f" after {plural(len(found), 'catapult')}" if found else ""
        return f"The loss diverged at step {count(stopped_at(run))}{before} and did not come back."
    if not found:
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


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
