"""Successive halving over peak learning rate and warmup, by short runs that keep the real shape.

Three rungs share the budget. The first looks wide: peaks in factors of four from the critical learning rate down,
with the shortest and the longest warmup, and on past an edge of the range for as long as the best run lies on it.
The second looks closely: factors of two around the best peak, with every warmup. The third takes the best three
cells, one of them with the longest warmup, to the longest horizon the budget buys, with more than one seed, and again
goes on past an edge: the best peak moves with the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrscope.errors import MeasurementError
from lrscope.planning.trials import Row, Trial, Trials

SHARES = (0.20, 0.25)
"""Budget of the first two rungs. The last gets the rest: it decides, and its runs are closest to the real one."""
BELOW = (1, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
"""First columns of peaks, in units of the critical learning rate. Best peaks were found between 1/64 and 1 of it;
loss against peak can have more than one valley, so the range is looked at whole."""
FINALISTS = 3
MIN_HORIZON = 10
MAX_COLUMNS = 11
"""Columns of peaks the first rung tries at most: a factor of 4^10 from end to end."""
MAX_FURTHER = 2
"""Steps past an edge on the later rungs."""


@dataclass(frozen=True)
class Horizons:
    """Length of the short runs on the first two rungs, and the most it can be on the last, in updates."""

    wide: int
    close: int
    most: int

    @classmethod
    def for_budget(cls, steps: int, gradients: int, num_warmups: int) -> Horizons:
        """Horizons of the first two rungs that spend their share of ``gradients`` evaluations.

        Raises:
            ValueError: The budget buys fewer than MIN_HORIZON updates on the first rung.
        """
        columns = len(BELOW) * min(num_warmups, 2)
        wide = int(SHARES[0] * gradients / columns)
        if wide < MIN_HORIZON:
            need = MIN_HORIZON * columns / SHARES[0]
            raise ValueError(
                f"budget: it buys {gradients} gradient evaluations ({steps} are one full run), but the smallest "
                f"useful plan needs {math.ceil(need)}; give budget={math.ceil(100 * need / steps) / 100:g} or more"
            )
        wide = min(wide, max(steps // 3, 1))
        close = max(min(int(SHARES[1] * gradients / (3 * num_warmups)), max(steps // 2, 1)), wide)
        return cls(wide, close, steps)


def search(
    trials: Trials,
    center: float,
    horizons: Horizons,
    gradients: int,
    warmups: Sequence[float],
    seeds: Sequence[int],
    *,
    on_rung: Callable[[int, int], None],
) -> None:
    """Run the three rungs; every row ends up in ``trials.rows``.

    ``gradients`` is what all of them may spend: the last rung is as long as what the others left allows, since they
    go past edges, and end early where runs diverge. ``on_rung`` hears the rung and the length of its runs.

    Raises:
        MeasurementError: Every run of the first rung diverged, down to the smallest peak tried.
    """
    on_rung(1, horizons.wide)
    wide = _wide(trials, center, horizons.wide, warmups, seeds[0])
    on_rung(2, horizons.close)
    close = _close(trials, wide, horizons.close, warmups, seeds[0])
    left = gradients - trials.cost.gradients
    final = min(max(int(left / ((FINALISTS + 1) * len(seeds))), horizons.close), horizons.most)
    on_rung(3, final)
    _final(trials, _finalists(close, max(warmups)), final, seeds)


def _wide(trials: Trials, center: float, horizon: int, warmups: Sequence[float], seed: int) -> list[Row]:
    ends = sorted({min(warmups), max(warmups)})
    columns = [center * factor for factor in BELOW]
    rows = trials.run([Trial(horizon, lr, w, seed) for lr in columns for w in ends], 1)
    while len(columns) < MAX_COLUMNS:
        best = ranked(rows)
        if not best or best[0]["lr"] == min(columns):
            columns.append(min(columns) / 4)
        elif best[0]["lr"] == max(columns):
            columns.append(max(columns) * 4)
        else:
            break
        rows += trials.run([Trial(horizon, columns[-1], w, seed) for w in ends], 1)
    if not ranked(rows):
        raise MeasurementError(
            f"plan: every short run diverged, down to a peak learning rate of {min(columns):.3g}; look at the loss "
            "and the initialisation of the task (is the loss finite and of order 1 at the start?)"
        )
    return rows


def _close(trials: Trials, wide: list[Row], horizon: int, warmups: Sequence[float], seed: int) -> list[Row]:
    """Factors of two around the best peak of each warmup; further where the best lies on an edge."""
    order = ranked(wide)
    rows: list[Row] = []
    for warmup in warmups:
        # A warmup between the ends starts from the best peak of the shortest.
        like = warmup if warmup == max(warmups) else min(warmups)
        center = next((row["lr"] for row in order if row["warmup_frac"] == like), order[0]["lr"])
        peaks = [center / 2, center, center * 2]
        mine = trials.run([Trial(horizon, lr, warmup, seed) for lr in peaks], 2)
        for _ in range(MAX_FURTHER):
            further = _past_the_edge(mine, peaks)
            if further is None:
                break
            peaks.append(further)
            mine += trials.run([Trial(horizon, further, warmup, seed)], 2)
        rows += mine
    return rows if ranked(rows) else wide


def _finalists(rows: Sequence[Row], longest: float) -> list[tuple[float, float]]:
    """Peak and warmup of the cells to run longest: the best, with a seat for the longest warmup and one for others.

    What a long warmup is good for shows late, and a shorter one may have been lucky with the one seed so far.
    """
    order = ranked(rows)
    seats = [
        next((r for r in order if (r["warmup_frac"] == longest) is is_longest), None) for is_longest in (True, False)
    ]
    chosen = [row for row in seats if row is not None]
    chosen += [row for row in order if row not in chosen][: FINALISTS - len(chosen)]
    return [(row["lr"], row["warmup_frac"]) for row in chosen]


def _final(trials: Trials, cells: list[tuple[float, float]], horizon: int, seeds: Sequence[int]) -> None:
    """The finalists with every seed; then past an edge, with the other seeds only where the first one gains."""
    trials.run([Trial(horizon, lr, w, s) for s in seeds for lr, w in cells], 3)
    first = trials.run([Trial(horizon, lr, w, seeds[0]) for lr, w in cells], 3)
    for _ in range(MAX_FURTHER):
        if not ranked(first):
            return
        warmup = ranked(first)[0]["warmup_frac"]
        alike = [row for row in first if row["warmup_frac"] == warmup]
        further = _past_the_edge(alike, [row["lr"] for row in alike])
        if further is None:
            return
        (row,) = trials.run([Trial(horizon, further, warmup, seeds[0])], 3)
        first.append(row)
        if ranked(first)[0] is row:
            trials.run([Trial(horizon, further, warmup, s) for s in seeds[1:]], 3)


def _past_the_edge(rows: Sequence[Row], peaks: Sequence[float]) -> float | None:
    """The next peak to try where the best lies on an edge of those tried, upward first; ``None`` inside the range."""
    order = ranked(rows)
    if not order:
        return None
    best = order[0]["lr"]
    return best * 2 if best == max(peaks) else best / 2 if best == min(peaks) else None


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows that finished, best score first."""
    return sorted((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
