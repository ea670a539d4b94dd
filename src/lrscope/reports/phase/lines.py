"""A sweep over one axis: what judges against the learning rate, a line for each series, a band over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.records import Table
from lrscope.reports.figures import marks
from lrscope.reports.figures.style import DASHES, colour
from lrscope.reports.phase.axes import is_log, log_if_wide, spread_ticks
from lrscope.reports.phase.cells import Better, Spot, best_cell, rows_of, spots
from lrscope.reports.phase.limits import boundary
from lrscope.reports.phase.words import axis_words, row_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TONES = ("planned", "default", "cosine", "other")
SIGNS = ("o", "s", "^", "D", "v", "P", "X", "h")


def draw(
    table: Table,
    ax: Axes,
    *,
    x: str,
    value: str,
    over: str | None,
    theory: Mapping[str, Any] | None,
    better: Better,
    bar: float,
    compact: bool,
) -> Axes:
    """Medians over seeds as lines, smallest to largest as bands; crosses on the upper edge did not train."""
    parts = [("", table)] if over is None else [(row_name(k), p) for k, p in rows_of(table, [over])]
    series = [(name, part, spots(part, x, value=value, better=better, bar=bar)) for name, part in parts]
    places = [s.x for _, _, row in series for s in row]
    seen = [v for _, _, row in series for s in row if s.state == "trains" for v in s.values]
    if not places:
        return ax
    if is_log(places):
        ax.set_xscale("log")
    if seen:
        _limits(ax, seen)
    handles = []
    for i, (name, part, row) in enumerate(series):
        look = {"color": _tone(i, len(series)), "marker": SIGNS[i % len(SIGNS)]}
        handles += _series(ax, row, look, name, i)
        _edge(ax, part, x, look["color"], bar, i)
    top = best_cell(table, x, [over] if over else [], value=value, better=better, bar=bar)
    if top is not None:
        ax.plot([top.axes[x]], [top.value], "*", ms=13, color=colour("ink"), mec=colour("paper"), mew=1.1, zorder=7)
    for dash, (name, at) in zip((DASHES["default"], DASHES["cosine"]) * 8, (theory or {}).items(), strict=False):
        at = next(iter(at.values())) if isinstance(at, Mapping) else float(np.ravel(at)[0])
        handles.append(ax.axvline(float(at), color=colour("beyond-ink"), lw=1.4, ls=dash, label=name))
    spread_ticks(ax.xaxis, sorted(set(places)), most=5 if compact else 7)
    ax.set_xlabel(axis_words(x))
    most = max(s.seeds for _, _, row in series for s in row)
    ax.set_ylabel(axis_words(value) + ("" if most < 2 else f", median of {most} seeds"))
    labelled = [h for h in handles if h.get_label() and not str(h.get_label()).startswith("_")]
    if labelled:
        ax.legend(
            handles=labelled, loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2 if compact else 3, frameon=False,
            fontsize="small", borderaxespad=0.2,
        )  # fmt: skip
    return ax


def _tone(i: int, number: int) -> Any:
    if number <= len(TONES):
        return colour(TONES[i])
    from matplotlib import colormaps

    return colormaps["viridis"](0.05 + 0.85 * i / (number - 1))


def _series(ax: Axes, row: list[Spot], look: Mapping[str, Any], name: str, position: int) -> list[Any]:
    trained = [s.x for s in row if s.state == "trains"]
    # What is merely too slow belongs to the line; what is too fast does not.
    good = [s for s in row if s.value is not None and (s.state == "trains" or s.x < min(trained, default=0.0))]
    at = [s.x for s in good]
    line = ax.plot(at, [s.value or math.nan for s in good], lw=1.7, ms=4, label=name or "_", zorder=4, **look)
    if any(len(s.values) > 1 for s in good):
        low, high = [min(s.values) for s in good], [max(s.values) for s in good]
        ax.fill_between(at, low, high, color=look["color"], alpha=0.18, lw=0, zorder=2)
    lost = [s.x for s in row if s.state in ("diverged", "fails") and s not in good]
    height = _height(position)
    ax.plot(
        lost, [height] * len(lost), "x", color=look["color"], ms=5, mew=1.5, transform=ax.get_xaxis_transform(),
        zorder=5, clip_on=False,
    )  # fmt: skip
    return line


def _edge(ax: Axes, part: Table, x: str, tone: Any, bar: float, position: int) -> None:
    """The boundary and its interval over the seeds, as a bar beside the crosses of its series."""
    (row,) = boundary(part, x, [], bar=bar).rows()
    if row["boundary"] is None:
        return
    look = {"color": tone, "transform": ax.get_xaxis_transform(), "zorder": 5, "clip_on": False}
    height = _height(position)
    if row["seeds"] > 1 and row["low"] and row["high"]:
        ax.plot([row["low"], row["high"]], [height] * 2, lw=1.2, solid_capstyle="butt", **look)
    ax.plot([row["boundary"]], [height], "|", ms=9, mew=2.2, **look)


def _height(position: int) -> float:
    return 0.96 - 0.05 * position


def _limits(ax: Axes, seen: list[float]) -> None:
    low, high = min(seen), max(seen)
    if log_if_wide(seen):
        ax.set_yscale("log")
        ax.set_ylim(low / (high / low) ** 0.06, high * (high / low) ** 0.2)
        marks.plain_log(ax.yaxis, *ax.get_ylim())
        return
    pad = (high - low) or abs(high) or 1.0
    ax.set_ylim(low - 0.06 * pad, high + 0.25 * pad)
