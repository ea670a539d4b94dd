"""A sweep's table read as a map: what trains, the cells over their seeds, the rows in order, the best cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from lrscope.records import Table

Better = Literal["low", "high"]
Criterion = Literal["trains", "finished"]
Row = Mapping[str, Any]

_SEEN = ("first_loss", "final_loss", "best_loss", "eval_loss", "trains", "catapult", "regime", "headroom_end")
_KEPT = ("cell", "seed", "status", "error", "diverged_at", "engine", "seconds", "gradients", "warmup_steps")
OUTCOMES = frozenset((*_SEEN, *_KEPT, "sharpness_start", "sharpness_end"))
"""Columns of a sweep's table that say what happened; the others say what was asked."""
SHARE = 0.25
"""A run trains if it comes this near to the best run, as a share of the way from there back to the first loss."""


def bar_of(table: Table) -> float:
    """The final loss from which on a run counts as not having trained, unless told: a quarter of the way from the
    best final loss of the table to its first loss (median); infinite where these were not recorded.

    A network that has died often ends well below its first loss, at that of guessing, so to be below the first is
    not enough. Where the first outputs are so large that even guessing is below the bar, give one.
    """
    ends = [finite(v) for v, status in zip(table.columns.get("final_loss", ()), table["status"], strict=False)
            if status == "finished"]  # fmt: skip
    starts = [v for v in map(finite, table.columns.get("first_loss", ())) if v is not None]
    kept = [v for v in ends if v is not None]
    if not kept or not starts:
        return math.inf
    best, first = min(kept), median(starts)
    return best + SHARE * (first - best) if first > best else math.inf


def trains(row: Row, of: Criterion = "trains", bar: float = math.inf) -> bool | None:
    """Whether a run trained (or, with ``of="finished"``, did not diverge); ``None`` if it raised an error.

    It trained if it finished, the table's column ``trains`` does not say otherwise, and its final loss is below the
    bar.
    """
    if row.get("status") not in ("finished", "diverged"):
        return None
    if row["status"] == "diverged" or of == "finished":
        return row["status"] == "finished"
    if row.get("trains") is False:
        return False
    final = finite(row.get("final_loss"))
    return bar == math.inf if final is None else final < bar


def ordered(values: Iterable[Any], sizes: Mapping[Any, float] | None = None) -> list[Any]:
    """Distinct values of an axis in their natural order: numbers by size, also as text, shares such as "5%" likewise,
    other text as it came.

    Args:
        values: As they come.
        sizes: Sizes by which to order values that have one here, such as a warmup's length in steps.
    """
    distinct = list(dict.fromkeys(values))

    def key(value: Any) -> tuple[int, float]:
        size = (sizes or {}).get(value, size_of(value))
        return (1, distinct.index(value)) if size is None else (0, size)

    return sorted(distinct, key=key)


def size_of(value: Any) -> float | None:
    """A number, also as text, as itself; "5%" as 0.05; ``None`` of anything else."""
    share = share_of(value)
    if share is not None or isinstance(value, bool):
        return share
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def share_of(value: Any) -> float | None:
    """0.05 of "5%"; ``None`` of anything else."""
    if not isinstance(value, str) or not value.strip().endswith("%"):
        return None
    try:
        return float(value.strip()[:-1]) / 100
    except ValueError:
        return None


def in_order(table: Table, name: str) -> list[Any]:
    """Distinct values of an axis; warmups by their length in steps, where the table has it."""
    sizes = None
    if f"{name}_steps" in table.columns:
        pairs = zip(table[name], table[f"{name}_steps"], strict=True)
        sizes = {value: float(steps) for value, steps in pairs if steps is not None}
    return ordered(table[name], sizes)


def judging(table: Table) -> str:
    """The column that judges, unless told: ``eval_loss`` where runs were evaluated, else ``final_loss``."""
    return "eval_loss" if any(v is not None for v in table.columns.get("eval_loss", ())) else "final_loss"


def rows_by(table: Table) -> tuple[str, ...]:
    """The axes that tell rows of a map apart, unless told: the warmup, where there is one."""
    return ("warmup",) if "warmup" in table.columns else ()


def asked(table: Table) -> list[str]:
    """Columns of what was asked for: in a sweep's table they stand before the outcomes."""
    names: list[str] = []
    for name in table.columns:
        if name in OUTCOMES - {"seed", "warmup_steps"}:
            break
        names.append(name)
    return names


@dataclass(frozen=True)
class Spot:
    """All seeds at one place of the map.

    Attributes:
        x: Place on the axis, usually a learning rate.
        value: Median over the seeds, where a diverged run counts as infinitely bad; ``None`` if the median is that.
        state: What most seeds did: ``"trains"``, ``"fails"`` (finished without getting anywhere), ``"diverged"``, or
            ``"raised"`` where every seed ended in an error.
        seeds: Seeds that say something, those that raised an error left out.
        trained: How many of them trained.
        values: Of those that have one.
    """

    x: float
    value: float | None
    state: Literal["trains", "fails", "diverged", "raised"]
    seeds: int
    trained: int
    values: tuple[float, ...] = ()


def spots(
    table: Table, x: str = "lr", *, value: str = "final_loss", better: Better = "low", bar: float = math.inf
) -> list[Spot]:
    """The places of one row of the map, rising in x.

    Raises:
        ValueError: A column is missing, or two runs share place and seed, so that another axis was left out.
    """
    places: dict[float, list[Row]] = {}
    for row in checked(table, x, value):
        places.setdefault(float(row[x]), []).append(row)
    return [_spot(at, places[at], value, better, bar) for at in sorted(places)]


def _spot(at: float, rows: list[Row], value: str, better: Better, bar: float) -> Spot:
    said = [row for row in rows if trains(row) is not None]
    if not said:
        return Spot(at, None, "raised", 0, 0)
    sign = 1 if better == "low" else -1
    found = [finite(row.get(value)) if row["status"] == "finished" else None for row in said]
    middle = median([math.inf if v is None else sign * v for v in found])
    trained = sum(bool(trains(row, bar=bar)) for row in said)
    diverged = sum(row["status"] == "diverged" for row in said)
    state = "diverged" if 2 * diverged >= len(said) - trained else "fails"
    state = "trains" if 2 * trained > len(said) else state
    return Spot(
        at,
        sign * middle if math.isfinite(middle) else None,
        state,
        len(said),
        trained,
        tuple(v for v in found if v is not None),
    )


def finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def rows_of(table: Table, by: Sequence[str]) -> list[tuple[dict[str, Any], Table]]:
    """The table split by the values of some columns, in their natural order."""
    by = [by] if isinstance(by, str) else by
    for name in by:
        if name not in table.columns:
            raise ValueError(f"by: there is no column {name!r}; there are {', '.join(table.columns) or 'none'}")
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table.rows():
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    ranks = [{value: i for i, value in enumerate(in_order(table, name))} for name in by]
    keys = sorted(groups, key=lambda k: [rank[v] for rank, v in zip(ranks, k, strict=True)])
    return [(dict(zip(by, key, strict=True)), Table.of(groups[key])) for key in keys]


def checked(table: Table, x: str, *columns: str) -> list[Row]:
    """The rows, if ``x`` is a number above 0 in each and no two share place and seed.

    Raises:
        ValueError: Says which column is missing, or which one tells two runs apart.
    """
    for name in (x, "status", *columns):
        if name not in table.columns:
            raise ValueError(f"table: there is no column {name!r}; there are {', '.join(table.columns) or 'none'}")
    seen: dict[tuple[Any, Any], Row] = {}
    for row in table.rows():
        if finite(row[x]) is None:
            raise ValueError(f"{x}: expected a number in every row, got {row[x]!r}")
        other = seen.setdefault((row[x], row.get("seed")), row)
        if other is not row:
            apart = [n for n in row if n not in OUTCOMES and n != x and row[n] != other[n]]
            apart = [n for n in apart if n in asked(table)] or apart  # rather than metrics
            why = f"they differ in {', '.join(apart)}; name that, or keep one of it with table.where()"
            raise ValueError(
                f"table: two runs with {x}={row[x]:g} and seed {row.get('seed')}: "
                + (why if apart else "a duplicate")
            )
    return list(seen.values())


@dataclass(frozen=True)
class Winner:
    """The best cell of a map: its axes, and what its seeds gave."""

    axes: Mapping[str, Any] = field(default_factory=dict)
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0


def best_cell(
    table: Table,
    x: str | None = "lr",
    by: Sequence[str] | None = None,
    *,
    value: str = "final_loss",
    better: Better = "low",
    bar: float | None = None,
) -> Winner | None:
    """The cell with the best median over its seeds, among those in which every seed trained; ``None`` if none did.

    With ``x=None`` the columns of ``by`` alone tell cells apart; without ``by`` the warmup does, where there is one.
    """
    bar = bar_of(table) if bar is None else bar
    whole = [
        (key if x is None else {**key, x: spot.x}, spot)
        for key, part in rows_of(table, rows_by(table) if by is None else by)
        for spot in (
            [_spot(math.nan, list(part.rows()), value, better, bar)]
            if x is None
            else spots(part, x, value=value, better=better, bar=bar)
        )
        if spot.seeds and spot.trained == spot.seeds and spot.value is not None
    ]
    if not whole:
        return None
    sign = 1 if better == "low" else -1
    # A seed that is missing must not make a cell win.
    most = max(spot.seeds for _, spot in whole)
    key, spot = min(((k, s) for k, s in whole if 2 * s.seeds > most), key=lambda pair: sign * (pair[1].value or 0.0))
    return Winner(key, float(spot.value or 0.0), min(spot.values), max(spot.values), spot.seeds)
