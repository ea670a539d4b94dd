"""Where a map ends and where it is best: the stability boundary and the ridge, row by row, with what is uncertain.

One rule for both, so that pictures, sentences and planners never disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from lrscope.records import Table
from lrscope.reports.phase.cells import Better, Criterion, Row, bar_of, checked, finite, rows_by, rows_of, trains


@dataclass(frozen=True)
class Limit:
    """How far up one seed trains.

    Attributes:
        trains: Largest x below the first failure, going up from the best; ``None`` if none trains.
        fails: That failure; ``None`` if there is none.
        ragged: Whether a still larger x trains again.
        seed: Which one.
    """

    trains: float | None
    fails: float | None
    ragged: bool = False
    seed: Any = None

    @property
    def middle(self) -> float:
        """Geometric mean of both; 0 or infinity where one end is open."""
        if self.trains is None or self.fails is None:
            return 0.0 if self.trains is None else math.inf
        return math.sqrt(self.trains * self.fails)


def limits(table: Table, x: str = "lr", *, of: Criterion = "trains", bar: float = math.inf) -> list[Limit]:
    """One :class:`Limit` for each seed of one row of the map."""
    seeds: dict[Any, list[Row]] = {}
    for row in checked(table, x):
        if trains(row, of) is not None:
            seeds.setdefault(row.get("seed"), []).append(row)
    return [replace(_limit(sorted(rows, key=lambda r: r[x]), x, of, bar), seed=s) for s, rows in seeds.items()]


def _limit(rows: list[Row], x: str, of: Criterion, bar: float) -> Limit:
    good = [bool(trains(row, of, bar)) for row in rows]
    if not any(good):
        return Limit(None, float(rows[0][x]))
    losses = [math.inf if (v := finite(row.get("final_loss"))) is None else v for row in rows]
    # Small rates that are merely too slow fail, too: the boundary is looked for upwards from the best.
    best = min((i for i in range(len(rows)) if good[i]), key=losses.__getitem__)
    for i in range(best + 1, len(rows)):
        if not good[i]:
            return Limit(float(rows[i - 1][x]), float(rows[i][x]), any(good[i:]))
    return Limit(float(rows[-1][x]), None)


def boundary(
    table: Table,
    x: str = "lr",
    by: Sequence[str] | None = None,
    *,
    of: Criterion = "trains",
    bar: float | None = None,
) -> Table:
    """The largest learning rate that trains, for each row of the map.

    For each seed the boundary lies between the largest rate that trains, going up from the best one, and the first
    above it that does not; its middle is their geometric mean. Nothing is claimed that is finer than the rates tried.

    Args:
        table: One row per run: axes, ``seed``, ``status``, and ``trains`` or ``first_loss`` and ``final_loss``.
        x: The axis along which to look.
        by: Axes that tell the rows of the map apart; by default ``warmup``, where there is one.
        of: ``"trains"``, or ``"finished"``: up to where training merely does not diverge.
        bar: Final loss below which a run counts as trained; by default a quarter of the way from the best of the
            table to the first loss.

    Returns:
        A table with the columns of ``by`` and

        - ``boundary``: median over seeds; ``None`` where it lies beyond the rates tried, then ``open`` says
          on which side, ``"above"`` or ``"below"``,
        - ``low``: the largest rate that trains in every seed, ``high``: the smallest from which on none does;
          ``None`` where open,
        - ``resolution``: ratio of the two rates that enclose it, the coarsest over seeds,
        - ``seeds``: how many, ``ragged``: in how many a rate above the first failure trains again, ``raised``: runs
          that ended in an error and are left out.

    Raises:
        ValueError: A column is missing, or two runs share place and seed.
    """
    bar = bar_of(table) if bar is None else bar
    by = rows_by(table) if by is None else by
    return Table.of({**key, **_boundary_row(part, x, of, bar)} for key, part in rows_of(table, by))


def _boundary_row(part: Table, x: str, of: Criterion, bar: float) -> dict[str, Any]:
    found = limits(part, x, of=of, bar=bar)
    middle = _median([limit.middle for limit in found])
    closed = [limit for limit in found if limit.trains is not None and limit.fails is not None]
    lows, highs = [limit.trains for limit in found], [limit.fails for limit in found]
    return {
        "boundary": middle if middle is not None and 0 < middle < math.inf else None,
        "low": None if not lows or None in lows else min(v for v in lows if v is not None),
        "high": None if not highs or None in highs else max(v for v in highs if v is not None),
        "open": {0.0: "below", math.inf: "above"}.get(-1.0 if middle is None else middle),
        "resolution": max(
            (limit.fails / limit.trains for limit in closed if limit.fails and limit.trains), default=None
        ),
        "seeds": len(found),
        "ragged": sum(limit.ragged for limit in found),
        "raised": sum(trains(row) is None for row in part.rows()),
    }


def _median(values: list[float]) -> float | None:
    """In logarithms, where 0 and infinity are ends."""
    if not values:
        return None
    logs = [-math.inf if v == 0 else math.log(v) for v in values]
    middle = median(logs)
    if math.isnan(middle):  # of two seeds one is open below, the other above
        return None
    return math.exp(middle) if math.isfinite(middle) else 0.0 if middle < 0 else math.inf


@dataclass(frozen=True)
class Best:
    """The best x of one seed.

    Attributes:
        x: Lowest point of the parabola in log x through the best and its two neighbours; the best itself at an edge.
        value: At the best one that was run.
        low, high: Its neighbours, between which the optimum lies; ``None`` at the edge of what was tried.
    """

    x: float
    value: float
    low: float | None
    high: float | None


def best_of(points: Sequence[tuple[float, float | None]], better: Better = "low") -> Best | None:
    """The optimum of ``(x, value)``, rising in x; a value of ``None`` is infinitely bad. ``None`` if all are."""
    sign = 1 if better == "low" else -1
    values = [math.inf if v is None else sign * v for _, v in points]
    if not values or not math.isfinite(min(values)):
        return None
    at = values.index(min(values))
    low = points[at - 1][0] if at > 0 else None
    high = points[at + 1][0] if at + 1 < len(points) else None
    x = points[at][0]
    if low is not None and high is not None and math.isfinite(values[at - 1]) and math.isfinite(values[at + 1]):
        x = _vertex((low, x, high), (values[at - 1], values[at], values[at + 1]))
    return Best(x, sign * values[at], low, high)


def _vertex(x: tuple[float, float, float], y: tuple[float, float, float]) -> float:
    a, b, c = (math.log(v) for v in x)
    if min(y) > 0:
        y = (math.log(y[0]), math.log(y[1]), math.log(y[2]))
    left, right = (b - a) * (y[1] - y[2]), (b - c) * (y[1] - y[0])
    if left == right:  # all three as good
        return x[1]
    return math.exp(b - 0.5 * ((b - a) * left - (b - c) * right) / (left - right))


def ridge(
    table: Table,
    x: str = "lr",
    by: Sequence[str] | None = None,
    *,
    value: str = "final_loss",
    better: Better = "low",
    bar: float | None = None,
) -> Table:
    """The best learning rate for each row of the map.

    Each seed's optimum is the lowest point of a parabola in log x through its best run and the two beside it.

    Args:
        table, x, by, bar: As for :func:`boundary`.
        value: Column that judges.
        better: Whether low or high values are.

    Returns:
        A table with the columns of ``by`` and ``best`` (median over seeds), ``low`` and ``high`` (smallest and
        largest over seeds; with one seed the rates tried on either side), ``value`` (median over seeds, at the best
        rate tried of each), ``edge`` (``"low"`` or ``"high"`` if in the median seed the best is the smallest or
        largest rate tried, so that the optimum may lie outside; else ``None``) and ``seeds``. Rows in which nothing
        trained are missing.

    Raises:
        ValueError: A column is missing, or two runs share place and seed.
    """
    bar = bar_of(table) if bar is None else bar
    by = rows_by(table) if by is None else by
    found = ((key, _ridge_row(part, x, value, better, bar)) for key, part in rows_of(table, by))
    return Table.of({**key, **row} for key, row in found if row is not None)


def _ridge_row(part: Table, x: str, value: str, better: Better, bar: float) -> dict[str, Any] | None:
    seeds: dict[Any, list[tuple[float, float | None]]] = {}
    for row in checked(part, x, value):
        if (ok := trains(row, bar=bar)) is not None:
            seeds.setdefault(row.get("seed"), []).append((float(row[x]), finite(row[value]) if ok else None))
    bests = [b for b in (best_of(sorted(points, key=lambda p: p[0]), better) for points in seeds.values()) if b]
    if not bests:
        return None
    places = [b.x for b in bests]
    one = bests[0] if len(bests) == 1 else None
    at_low, at_high = (2 * sum(getattr(b, end) is None for b in bests) > len(bests) for end in ("low", "high"))
    return {
        "best": _median(places),
        "low": (one.low or one.x) if one else min(places),
        "high": (one.high or one.x) if one else max(places),
        "value": median([b.value for b in bests]),
        "edge": "low" if at_low else "high" if at_high else None,
        "seeds": len(bests),
    }
