"""From trial rows to a choice: the peak, how sure it is, and what the trials say in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lrscope.planning.search import ranked
from lrscope.planning.trials import Row

SAME = 0.01
"""Scores within one percent are not told apart, whatever the seeds say."""
LARGE = 0.05
"""Nor are those five percent apart called the same, however much the seeds differ."""


@dataclass(frozen=True)
class CellScore:
    """One cell of the longest runs: its scores over seeds."""

    lr: float
    warmup_frac: float
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


def final_cells(rows: Sequence[Row]) -> list[CellScore]:
    """Cells of the longest runs that finished for every seed (else for most seeds), best mean first."""
    # By length, not by rung: where two rungs share a horizon, a run of the earlier one serves both.
    longest = max(row["horizon"] for row in ranked(rows))
    last = [row for row in rows if row["horizon"] == longest]
    groups: dict[tuple[float, float], list[Row]] = {}
    for row in last:
        groups.setdefault((row["lr"], row["warmup_frac"]), []).append(row)
    # A cell that diverged for one seed is not a cell to recommend while another finished for all.
    kept = {cell: [r["score"] for r in group if r["score"] is not None] for cell, group in groups.items()}
    most = max(len(scores) for scores in kept.values())
    cells = [CellScore(lr, w, tuple(scores)) for (lr, w), scores in kept.items() if len(scores) == most]
    return sorted(cells, key=lambda c: c.mean)


def choose(cells: Sequence[CellScore]) -> CellScore:
    """The cell to recommend: of those within one percent of the best mean, the lowest peak.

    Such a difference is not worth standing nearer to divergence for: just above the best peak a single seed can
    end far worse, and the few seeds of the trials need not have met it.
    """
    best = min(c.mean for c in cells)
    near = [c for c in cells if c.mean - best <= SAME * abs(best)]
    return min(near, key=lambda c: (c.lr, c.mean))


def peak_interval(best: CellScore, cells: Sequence[CellScore], tried: Iterable[float]) -> tuple[float, float]:
    """Peaks not told apart from the best, out to half way (in log) to the nearest peak that was told apart.

    A cell is told apart when its mean is worse than the best by more than two standard errors of the best cell,
    one percent at least and five at most.
    """
    same = {best.lr}
    for cell in cells:
        if cell.warmup_frac == best.warmup_frac and not _worse(cell, best):
            same.add(cell.lr)
    tried = sorted(set(tried))
    below = [lr for lr in tried if lr < min(same)]
    above = [lr for lr in tried if lr > max(same)]
    low = math.sqrt(min(same) * below[-1]) if below else min(same)
    high = math.sqrt(max(same) * above[0]) if above else max(same)
    return low, high


def _worse(cell: CellScore, best: CellScore) -> bool:
    """Whether a cell is worse by more than the best cell's own noise, one percent at least, five at most.

    The noise of the other cell does not count in its favour: near divergence it is large because runs go wrong.
    """
    noise = 2 * np.std(best.scores, ddof=1) / math.sqrt(len(best.scores)) if len(best.scores) > 1 else 0.0
    return cell.mean - best.mean > float(min(max(SAME * abs(best.mean), noise), LARGE * abs(best.mean)))


def expected_loss(
    rows: Sequence[Row], best: CellScore, steps: int
) -> tuple[float | None, float | None, float | None]:
    """Final score of the full run, extrapolated from the last two rungs, with a range; Nones if too far away.

    The score (its log, where scores are positive) is taken to keep falling linearly in the log of the horizon. The
    range runs from that continued at twice the pace to no further fall at all, widened by the spread over seeds; it
    is a guess with a ruler, so it is only offered up to four times the longest horizon tried.
    """
    horizon = max(row["horizon"] for row in rows)
    if steps > 4 * horizon or not best.scores:
        return None, None, None
    finished = ranked(rows)
    # Losses fall by factors: in logs no extrapolation crosses zero.
    to, back = (math.log, math.exp) if finished[0]["score"] > 0 else (float, float)
    scores = [to(score) for score in best.scores]
    here = float(np.mean(scores))
    spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else SAME * (abs(here) if to is float else 1.0)
    shorter = max((r["horizon"] for r in finished if r["horizon"] < horizon), default=None)
    fall = 0.0
    if shorter is not None and steps > horizon:
        before = min(to(r["score"]) for r in finished if r["horizon"] == shorter)
        fall = max(before - here, 0.0) / math.log(horizon / shorter) * math.log(steps / horizon)
    return back(here - fall), back(here - 2 * fall - 2 * spread), back(here + 2 * spread)


def notes(rows: Sequence[Row], best: CellScore) -> list[str]:
    """What the trials say about horizon and warmup, one plain sentence each."""
    return [*_horizon_notes(rows), *_warmup_notes([r for r in rows if r["rung"] == 1], best)]


def _horizon_notes(rows: Sequence[Row]) -> list[str]:
    peaks = {}
    for horizon in sorted({row["horizon"] for row in rows}):
        if order := ranked([r for r in rows if r["horizon"] == horizon]):
            peaks[horizon] = order[0]["lr"]
    if len(peaks) < 2:
        return []
    short, long = min(peaks), max(peaks)
    first, last = peaks[short], peaks[long]
    moved = (
        "hardly moved"
        if max(first, last) <= 2.01 * min(first, last)
        else "moved up"
        if last > first
        else "moved down"
    )
    return [f"the best peak {moved} with the length of the run: {first:.3g} for {short} steps, {last:.3g} for {long}"]


def _warmup_notes(wide: Sequence[Row], best: CellScore) -> list[str]:
    said = []
    trained = [r for r in wide if r["score"] is not None]
    largest = {w: max(r["lr"] for r in trained if r["warmup_frac"] == w) for w in {r["warmup_frac"] for r in trained}}
    without = largest.get(0.0)
    for warmup, lr in sorted(largest.items()):
        if warmup > 0 and without is not None and lr > 1.01 * without:
            said.append(
                f"{warmup:.0%} warmup trains up to a peak of {lr:.3g}; no warmup diverges above {without:.3g}"
            )
    first = {}
    for row in ranked(wide):
        first.setdefault(row["warmup_frac"], row["score"])
    if 0.0 in first and best.warmup_frac in first and best.warmup_frac > 0:
        gain = first[best.warmup_frac] / first[0.0] - 1
        way = f"{abs(gain):.1%} {'lower' if gain < 0 else 'higher'}"
        with_, at = f"{best.warmup_frac:.0%} warmup", f"{wide[0]['horizon']} steps"
        said.append(f"at {at}, each with its best peak, {with_} ended {way} than no warmup")
    return said
