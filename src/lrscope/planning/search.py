"""Successive halving over peak learning rate and warmup, by short runs that keep the real shape.

Three rungs share the budget. The first looks wide: peaks in factors of four from the critical learning rate down,
with the shortest and the longest warmup, and on past an edge of the range for as long as the best run lies on it.
The second looks closely: factors of two around the best peak, with every warmup. The third takes the best three
cells to the longest horizon the budget buys, with more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrscope.errors import MeasurementError
from lrscope.planning.trials import Row, Trial, Trials

SHARES = (0.25, 0.30, 0.45)
"""Budget of each rung. The last gets most: it decides, and its horizon is closest to the real one."""
BELOW = (1, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
"""First columns of peaks, in units of the critical learning rate. Best peaks were found between 1/64 and 1 of it;
loss against peak can have more than one valley, so the range is looked at whole."""
CELLS = (10, 9, 3)
"""Cells each rung is planned for."""
MIN_HORIZON = 10
MAX_COLUMNS = 11
"""Columns of peaks the first rung tries at most: a factor of 4^10 from end to end."""


@dataclass(frozen=True)
class Horizons:
    """Length of the short runs on each rung, in updates."""

    wide: int
    close: int
    final: int

    @classmethod
    def for_budget(cls, steps: int, gradients: int, num_seeds: int) -> Horizons:
        """Horizons that spend about ``gradients`` evaluations.

        Raises:
            ValueError: The budget buys fewer than MIN_HORIZON updates on the first rung.
        """
        wide = int(SHARES[0] * gradients / CELLS[0])
        if wide < MIN_HORIZON:
            need = MIN_HORIZON * CELLS[0] / SHARES[0]
            raise ValueError(
                f"budget: it buys {gradients} gradient evaluations ({steps} are one full run), but the smallest "
                f"useful plan needs {need:.0f}; give budget={math.ceil(100 * need / steps) / 100:g} or more"
            )
        wide = min(wide, max(steps // 3, 1))
        close = min(int(SHARES[1] * gradients / CELLS[1]), max(steps // 2, 1))
        final = int(SHARES[2] * gradients / (CELLS[2] * num_seeds))
        return cls(wide, max(close, wide), min(max(final, close, wide), steps))


def search(
    trials: Trials,
    center: float,
    horizons: Horizons,
    warmups: Sequence[float],
    seeds: Sequence[int],
    *,
    on_rung: Callable[[int], None],
) -> None:
    """Run the three rungs; every row ends up in ``trials.rows``.

    Raises:
        MeasurementError: Every run of the first rung diverged, down to the smallest peak tried.
    """
    on_rung(1)
    wide = _wide(trials, center, horizons.wide, warmups, seeds[0])
    on_rung(2)
    close = _close(trials, wide, horizons.close, warmups, seeds[0])
    on_rung(3)
    best = ranked(close)[:3]
    trials.run([Trial(horizons.final, r["lr"], r["warmup_frac"], s) for s in seeds for r in best], 3)


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
    """Factors of two around the best peak of each warmup; one more, twice at most, where the best lies on an edge."""
    order = ranked(wide)
    rows: list[Row] = []
    for warmup in warmups:
        # A warmup between the ends starts from the best peak of the shortest.
        like = warmup if warmup == max(warmups) else min(warmups)
        center = next((row["lr"] for row in order if row["warmup_frac"] == like), order[0]["lr"])
        peaks = [center / 2, center, center * 2]
        mine = trials.run([Trial(horizon, lr, warmup, seed) for lr in peaks], 2)
        while len(peaks) < 5 and ranked(mine) and (best := ranked(mine)[0]["lr"]) in (min(peaks), max(peaks)):
            peaks.append(best * 2 if best == max(peaks) else best / 2)
            mine += trials.run([Trial(horizon, peaks[-1], warmup, seed)], 2)
        rows += mine
    return rows if ranked(rows) else wide


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows that finished, best score first."""
    return sorted((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
