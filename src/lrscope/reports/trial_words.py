"""What the short runs say: warmup long enough, the largest peak that trained, the best so far."""

from __future__ import annotations

from collections.abc import Mapping

from lrscope.records import Table
from lrscope.reports.numbers import capital, count, loss, lr, plural
from lrscope.reports.outcome import apart, gap
from lrscope.reports.trials import (
    Cell,
    best,
    best_per_warmup,
    cells,
    horizons,
    largest_trained,
    seed_spread,
    warmup_name,
)

CLOSE = 0.02  # scores closer than this are not told apart, however little the seeds moved them


def warmup_verdict(trials: Table, chosen: float) -> tuple[str, str]:
    """Answer to "warmup long enough?" (yes, no, unclear) and the sentence that says why.

    Warmups are compared at the longest horizon that tried both, over the peaks that both tried.

    Args:
        trials: Short runs of the plan.
        chosen: Warmup of the plan as a share of the run.
    """
    noise = max(seed_spread(trials) or 0.0, CLOSE)
    longest = None  # the longest trials, if ours is the longest warmup they tried, and that warmup
    for horizon in reversed(horizons(trials)):
        some = cells(trials, horizon)
        tried = sorted({cell.warmup for cell in some})
        ours = next((w for w in tried if abs(w - chosen) <= 0.1 * chosen + 0.005), None)
        if ours is None or len(tried) < 2:
            continue
        if not any(w > ours for w in tried):
            longest = longest or (horizon, ours)
            continue
        pairs = [pair for w in tried if w > ours if (pair := _fair(some, ours, w))]
        if pairs:
            return _judge(horizon, *min(pairs, key=lambda pair: pair[1].score or 0.0), noise)
    if longest is not None:
        horizon, ours = longest
        where, some = f"In trials of {plural(horizon, 'step')}", cells(trials, horizon)
        pairs = [pair for w in sorted({c.warmup for c in some}) if w < ours if (pair := _fair(some, ours, w))]
        for mine, other in pairs:
            if abs(apart(other.score or 0.0, mine.score or 0.0)) <= noise:
                same = f"{warmup_name(other.warmup)} scored the same as {warmup_name(ours)} within the noise"
                return "yes", f"{where} {same}, so a longer one has nothing to bring."
        return "unclear", f"{where} nothing longer than {warmup_name(chosen)} was tried."
    return "unclear", "No two warmup lengths were tried with the same peaks, so the trials do not say."


def _fair(some: list[Cell], ours: float, other: float) -> tuple[Cell, Cell] | None:
    """Best cell of either warmup, over the peaks tried with both."""
    shared = {c.lr for c in some if c.warmup == ours} & {c.lr for c in some if c.warmup == other}
    winners: Mapping[float, Cell] = best_per_warmup([c for c in some if c.lr in shared])
    return (winners[ours], winners[other]) if ours in winners and other in winners else None


def _judge(horizon: int, ours: Cell, other: Cell, noise: float) -> tuple[str, str]:
    theirs_score, our_score = other.score or 0.0, ours.score or 0.0
    where = f"in trials of {plural(horizon, 'step')}"
    mine = f"{where}, {warmup_name(ours.warmup)} scored {loss(our_score)} at its best peak"
    theirs = f"{warmup_name(other.warmup)} {loss(theirs_score)}"
    if apart(theirs_score, our_score) < -noise:
        by = gap(theirs_score, our_score)
        return "no", f"{capital(mine)} but {theirs}: a longer warmup ended {by} lower."
    return "yes", f"{capital(mine)} and {theirs}: a longer warmup brought nothing beyond the noise."


def so_far(trials: Table) -> str:
    """Where an unfinished planning stands."""
    for horizon in reversed(horizons(trials)):
        top = best(cells(trials, horizon))
        if top is not None:
            return (
                f"So far the best of the trials of {plural(horizon, 'step')} is {loss(top.score)}, with a peak of "
                f"{lr(top.lr)} and {warmup_name(top.warmup)}. Planning would have gone on from there."
            )
    return "So far every trial diverged."


def reach_sentence(trials: Table) -> str | None:
    """The largest peak that trained, with and without warmup: what warmup buys."""
    if not len(trials):
        return None
    first = cells(trials, horizons(trials)[0])
    if not any(cell.diverged for cell in first):
        return "No trial diverged, so the trials do not show an upper limit of the learning rate."
    reach = largest_trained(first)
    if 0.0 not in reach or len(reach) < 2:
        return f"{count(sum(cell.diverged for cell in first))} of the {plural(len(first), 'short run')} diverged."
    longest = max((w for w in reach if w > 0), key=lambda w: (reach[w], -w))
    if reach[longest] > reach[0.0]:
        return (
            f"Without warmup, peaks up to {lr(reach[0.0])} trained; with {warmup_name(longest)}, "
            f"up to {lr(reach[longest])}."
        )
    return f"Warmup did not raise the largest peak that trained ({lr(reach[0.0])})."
