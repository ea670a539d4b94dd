"""Successive halving over peak learning rate and warmup, by short runs that keep the real shape.

Three rungs share the budget. The first looks wide: peaks in factors of four around the critical learning rate, no
warmup, a short and a long one, and goes on past an edge of the range for as long as the best run lies on it. The
second looks closely, in factors of two around the best peak of the two best warmups, for about twice as long. The
third takes the best three cells to the longest horizon the budget buys, with more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lrscope.errors import MeasurementError
from lrscope.planning.trials import Row, Trial, Trials

SHARES = (0.30, 0.25, 0.45)
"""Budget of each rung. The last gets most: it decides, and its horizon is closest to the real one."""
CELLS = (15, 6, 3)
"""Cells each rung is planned for; the first is 9 and usually two more columns past an edge."""
MIN_HORIZON = 10
MAX_COLUMNS = 9
"""Columns of peaks the first rung tries at most: a factor of 4^8 from end to end."""


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
        wide = min(wide, max(steps // 4, 1))
        close = min(int(SHARES[1] * gradients / CELLS[1]), max(steps // 2, 1))
        final = int(SHARES[2] * gradients / (CELLS[2] * num_seeds))
        return cls(wide, close, min(max(final, close), steps))


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
    close = _close(trials, wide, horizons.close, seeds[0])
    on_rung(3)
    best = ranked(close)[:3]
    trials.run([Trial(horizons.final, r["lr"], r["warmup_frac"], s) for s in seeds for r in best], 3)


def _wide(trials: Trials, center: float, horizon: int, warmups: Sequence[float], seed: int) -> list[Row]:
    columns = [center / 4, center, center * 4]
    rows = trials.run([Trial(horizon, lr, w, seed) for lr in columns for w in warmups], 1)
    while len(columns) < MAX_COLUMNS:
        best = ranked(rows)
        if not best or best[0]["lr"] == min(columns):
            columns.append(min(columns) / 4)
        elif best[0]["lr"] == max(columns):
            columns.append(max(columns) * 4)
        else:
            break
        rows += trials.run([Trial(horizon, columns[-1], w, seed) for w in warmups], 1)
    if not ranked(rows):
        raise MeasurementError(
            f"plan: every short run diverged, down to a peak learning rate of {min(columns):.3g}; look at the loss "
            "and the initialisation of the task (is the loss finite and of order 1 at the start?)"
        )
    return rows


def _close(trials: Trials, wide: list[Row], horizon: int, seed: int) -> list[Row]:
    """Factors of two around the best peak of the two best warmups; one more where the best lies on an edge."""
    rows: list[Row] = []
    best_of = {row["warmup_frac"]: row for row in reversed(ranked(wide))}
    for warmup in list(dict.fromkeys(row["warmup_frac"] for row in ranked(wide)))[:2]:
        center = best_of[warmup]["lr"]
        mine = trials.run([Trial(horizon, lr, warmup, seed) for lr in (center / 2, center, center * 2)], 2)
        order = ranked(mine)
        if order and order[0]["lr"] != center:
            further = order[0]["lr"] * (2 if order[0]["lr"] > center else 0.5)
            mine += trials.run([Trial(horizon, further, warmup, seed)], 2)
        rows += mine
    return rows if ranked(rows) else wide


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Rows that finished, best score first."""
    return sorted((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
