"""What a sweep found, in sentences: how large a rate trains, which one is best, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from lrscope.records import Table
from lrscope.reports import numbers
from lrscope.reports.phase.cells import Better, bar_of, best_cell, judging, rows_by, rows_of, share_of, size_of, spots
from lrscope.reports.phase.limits import boundary, limits, ridge

MOST_ROWS = 6
"""Rows that a sentence names; of more the first, the middle and the last, or the extremes where axes are several."""


def axis_value(name: str, value: Any) -> str:
    """A value of an axis as people write it."""
    if name == "warmup" and (value is None or size_of(value) == 0):
        return "none"
    if (share := share_of(value)) is not None:
        return numbers.percent(share)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if name == "warmup" and 0 < value < 1:
        return numbers.percent(value)
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:.0f}" if abs(value) < 1e4 else numbers.count(value)
    return numbers.lr(float(value))


def row_name(key: Mapping[str, Any]) -> str:
    """A row of the map within a sentence: "without warmup", "with 33 % warmup and width 64"."""
    if set(key) == {"warmup"} and axis_value("warmup", key["warmup"]) == "none":
        return "without warmup"
    parts = []
    for name, value in key.items():
        text = axis_value(name, value)
        if name != "warmup":
            parts.append(f"{name.replace('_', ' ')} {text}")
        elif text == "none":
            parts.append("no warmup")
        elif text.endswith("%"):
            parts.append(f"{text} warmup")
        else:
            parts.append(f"{text} warmup {'step' if text == '1' else 'steps'}")
    return f"with {numbers.listing(parts)}" if parts else ""


def axis_words(name: str) -> str:
    """The name of an axis or a column in users' words."""
    known = {
        "lr": "peak learning rate",
        "final_loss": "final training loss",
        "best_loss": "best training loss",
        "eval_loss": "evaluation loss",
        "steps": "updates",
        "regime": "what happened",
    }
    return known.get(name, name.replace("_", " "))


def summary(
    table: Table,
    x: str = "lr",
    by: Sequence[str] | None = None,
    *,
    value: str | None = None,
    better: Better = "low",
    bar: float | None = None,
) -> list[str]:
    """What a sweep says, most important first: the boundary, what the rows change, the best cell, what is unsure.

    Args:
        table: One row per run; see :func:`lrscope.sweeps.boundary`.
        x: The axis along which the boundary lies.
        by: Axes that tell rows apart; by default ``warmup``, where there is one.
        value, better: Column that judges, by default ``eval_loss`` where it was recorded, else ``final_loss``; and
            whether low or high is good.
        bar: Final loss below which a run counts as trained; see :func:`lrscope.sweeps.boundary`.

    Raises:
        ValueError: A column is missing, or two runs share place and seed.
    """
    if not len(table):
        return ["No run is recorded yet."]
    by = rows_by(table) if by is None else [by] if isinstance(by, str) else by
    value = judging(table) if value is None else value
    bar = bar_of(table) if bar is None else bar
    found = list(boundary(table, x, by, bar=bar).rows())
    said = [_reach(found, x, by), _survives(table, found, x, by), _gain(table, x, by, bar), *_unsure(found)]
    said.append(_best(table, x, by, value, better, bar))
    said.append(_moves(list(ridge(table, x, by, value=value, better=better, bar=bar).rows()), x, by, len(found)))
    said.append(_counts(table))
    return [text for text in said if text]


def _reach(found: list[dict[str, Any]], x: str, by: Sequence[str], verb: str = "trains") -> str | None:
    if not found:
        return None
    seeds = max(row["seeds"] for row in found)
    every = "" if seeds < 2 else " in both seeds" if seeds == 2 else f" in all {seeds} seeds"
    name = "learning rate" if x == "lr" else axis_words(x)
    if len({_largest(row) for row in found}) == 1 and len(found) > 2:
        return f"Largest {name} that {verb}{every}: {_largest(found[0])} in every row."
    if len(found) > MOST_ROWS and len(by) > 1:  # in no order of theirs, so neither first nor last says anything
        ends = (pick(found, key=lambda row: row["low"] or 0.0) for pick in (min, max))
        low, high = (f"{_largest(limit)} {row_name({k: limit[k] for k in by})}" for limit in ends)
        return f"Largest {name} that {verb}{every}: from {low} to {high}, over {len(found)} rows."
    shown = found if len(found) <= MOST_ROWS else [found[0], found[len(found) // 2], found[-1]]
    parts = [f"{_largest(limit)} {row_name({k: limit[k] for k in by})}".strip() for limit in shown]
    return f"Largest {name} that {verb}{every}: {numbers.listing(parts)}."


def _survives(table: Table, found: list[dict[str, Any]], x: str, by: Sequence[str]) -> str | None:
    """Up to where runs at least do not diverge, where that is further."""
    finished = list(boundary(table, x, by, of="finished").rows())
    if [_largest(row) for row in finished] == [_largest(row) for row in found]:
        return None
    return _reach(finished, x, by, "does not diverge")


def _largest(limit: Mapping[str, Any]) -> str:
    if limit["low"] is None:
        return "none of those tried"
    text = numbers.lr(limit["low"])
    # No seed failed above it: the largest rate tried trained in every seed, and the boundary lies beyond the map.
    return f"at least {text}" if limit["resolution"] is None and limit["open"] == "above" else text


def _gain(table: Table, x: str, by: Sequence[str], bar: float) -> str | None:
    """What warmup buys, where that is the only axis of the rows: the longest against the shortest, seed by seed."""
    if list(by) != ["warmup"] or len(rows := rows_of(table, by)) < 2:
        return None
    (first, few), (last, many) = rows[0], rows[-1]
    names = f"{row_name(last)} as {row_name(first)}"
    before = {one.seed: one.middle for one in limits(few, x, bar=bar)}
    pairs = [(before[one.seed], one.middle) for one in limits(many, x, bar=bar) if one.seed in before]
    ratios = sorted(b / a for a, b in pairs if 0 < a < math.inf and 0 < b < math.inf)
    if not ratios:
        return None
    between = math.exp(median(math.log(r) for r in ratios))  # of two seeds half way in log lr, as the boundary itself
    up, down, number = sum(r > 1.001 for r in ratios), sum(r < 0.999 for r in ratios), len(ratios)
    open_ = len(pairs) - number
    where = ", in every seed" if number > 1 else ""
    if open_:
        where = f", in the {number} of {len(pairs)} seeds in which both lie within the rates tried"
    if not up and not down:
        return f"The boundary lies at the same rate {names}{where}."
    if number in (up, down):
        span = "" if ratios[-1] / ratios[0] < 1.001 else f" ({ratios[0]:.2g} to {ratios[-1]:.2g} times)"
        return f"The boundary lies {numbers.times(between)} as high {names}{where}{span}."
    middle = "at the same rate" if abs(between - 1) < 0.001 else f"{numbers.times(between)} as high"
    said = f"The boundary lies {middle} {names} in the median: higher in {up} of {number} seeds, lower in {down}"
    return f"{said}; in {open_} more one of both lies outside the rates tried." if open_ else f"{said}."


def _unsure(found: list[dict[str, Any]]) -> list[str]:
    said = []
    ratios = [row["resolution"] for row in found if row["resolution"]]
    if ratios:
        said.append(
            f"The boundary is known to a factor of {max(ratios):.3g}: that far apart are the rates around it."
        )
    ragged = sum(row["ragged"] for row in found)
    if ragged:
        said.append(
            f"In {ragged} of {sum(row['seeds'] for row in found)} seeds a rate above the first failure trained "
            "again; the boundary is where failures begin."
        )
    return said


def _best(table: Table, x: str, by: Sequence[str], value: str, better: Better, bar: float) -> str | None:
    top = best_cell(table, x, by, value=value, better=better, bar=bar)
    if top is None:
        return "No learning rate trained in every seed."
    where = row_name({k: top.axes[k] for k in by})
    span = f" ({numbers.loss(top.low)} to {numbers.loss(top.high)} over {top.seeds} seeds)" if top.seeds > 1 else ""
    text = f"Best: {axis_words(x)} {numbers.lr(top.axes[x])} {where}".rstrip()
    text += f", {axis_words(value)} {numbers.loss(top.value)}{span}"
    # A row whose best median lies within this span is not told apart from it.
    rivals = []
    for key, part in rows_of(table, by):
        if all(key[k] == top.axes[k] for k in by):
            continue
        own = [s.value for s in spots(part, x, value=value, better=better, bar=bar) if s.trained == s.seeds]
        if any(v <= top.high if better == "low" else v >= top.low for v in own if v is not None):
            rivals.append(row_name(key))
    if rivals and top.seeds > 1:
        others = len(list(rows_of(table, by))) - 1
        also = "in every other row" if len(rivals) == others > 1 else numbers.listing(rivals[:MOST_ROWS])
        text += f"; as good within its spread over the seeds {also}"
    return text + "."


def _moves(best: list[dict[str, Any]], x: str, by: Sequence[str], rows: int) -> str | None:
    if not best:
        return None
    at_edge = [row_name({k: row[k] for k in by}) or "here" for row in best if row["edge"]]
    edge = ""
    if at_edge:
        sides = {row["edge"] for row in best if row["edge"]}
        side = {"low": "smallest", "high": "largest"}[sides.pop()] if len(sides) == 1 else "outermost"
        edge = f" The best is the {side} rate tried {numbers.listing(at_edge[:MOST_ROWS])}, so it may lie outside."
    if len(best) < 2:
        return edge.strip() or None
    low, high = min(best, key=lambda r: r["best"]), max(best, key=lambda r: r["best"])
    ratio = high["best"] / low["best"]
    if ratio < 1.2 or (high["low"] <= low["high"] and high["seeds"] > 1):
        middle = median([row["best"] for row in best])
        every = "every row" if len(best) == rows else f"the {len(best)} of {rows} rows in which runs trained"
        return f"The best {axis_words(x)} of {every} lies around {numbers.lr(middle)}.{edge}"
    return (
        f"The best {axis_words(x)} moves from {numbers.lr(low['best'])} {row_name({k: low[k] for k in by})} to "
        f"{numbers.lr(high['best'])} {row_name({k: high[k] for k in by})}.{edge}"
    )


def _counts(table: Table) -> str:
    status = table["status"]
    parts = [numbers.plural(len(status), "run")]
    for what, words in (("diverged", "diverged"), ("failed", "raised an error and are left out")):
        if number := status.count(what):
            parts.append(f"{numbers.count(number)} {words}")
    return f"{numbers.listing(parts)}."
