"""Lines and points on a phase diagram: equal values, the boundary, the best of each row, predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.records import Table
from lrscope.reports.figures.style import colour
from lrscope.reports.phase.cells import Spot, best_cell, size_of
from lrscope.reports.phase.limits import boundary, ridge
from lrscope.reports.phase.look import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTOURS = {0.05: "+5\u202f%", 0.25: "+25\u202f%", 1.0: "×2", 9.0: "×10"}
THEORY = ((0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)), "-")


def contours(ax: Axes, rows: list[tuple[int, list[Spot]]], look: Look) -> None:
    """Lines at fixed distances from the best, through rows interpolated in x between cells that train."""
    best = look.norm.vmin if look.better == "low" else None
    if best is None or best <= 0:
        return
    u = np.log(look.places) if look.log else np.asarray(look.places)
    fine = np.linspace(u[0], u[-1], 200)
    field_ = np.full((len(look.rows), len(fine)), np.nan)
    for at, row in rows:
        good = [s for s in row if s.state == "trains" and s.value]
        if len(good) < 2:
            continue
        own = np.log([s.x for s in good]) if look.log else np.array([s.x for s in good])
        values = np.log([s.value or math.nan for s in good])
        field_[at] = np.interp(fine, own, values, left=np.nan, right=np.nan)
    levels = {math.log(best * (1 + share)): text for share, text in CONTOURS.items()}
    inside = [v for v in levels if np.nanmin(field_) < v < np.nanmax(field_)][:3] if np.isfinite(field_).any() else []
    if not inside:
        return
    xs = np.exp(fine) if look.log else fine
    lines = ax.contour(
        xs, range(len(look.rows)), np.ma.masked_invalid(field_), levels=inside, colors=[colour("paper")],
        linestyles="-", linewidths=0.9, zorder=3,
    )  # fmt: skip
    ax.clabel(lines, fmt={v: levels[v] for v in inside}, fontsize="x-small", inline_spacing=3)


def limit(ax: Axes, part: Table, look: Look, edges: list[list[float]]) -> dict[str, Any]:
    """A step line: within a row nothing is known about where between two rates it lies, so it is half way."""
    right, left = max(e[-1] for e in edges), min(e[0] for e in edges)
    found = [(look.rows.index(row[look.y]), row) for row in boundary(part, look.x, [look.y], bar=look.bar).rows()]
    keys: dict[str, Any] = {}
    path: list[tuple[float, float]] = []
    for at, row in found:
        middle = row["boundary"] or math.nan  # no line where it lies outside
        low, high = row["low"] or left, row["high"] or right
        if row["seeds"] > 1 and row["open"] is None:
            ax.plot([low, high], [at, at], color=colour("paper"), lw=3.4, zorder=5, solid_capstyle="butt")
            (keys["its interval over seeds"],) = ax.plot(
                [low, high], [at, at], color=colour("ink"), lw=1.1, marker="|", ms=5, mew=1.1, zorder=5.2
            )
        if path and path[-1][1] < at - 0.5:  # rows between them are missing
            path.append((math.nan, math.nan))
        path += [(middle, at - 0.5), (middle, at + 0.5)]
    if not path or all(row["open"] for _, row in found):
        return keys
    (casing,) = ax.plot(*zip(*path, strict=True), color=colour("paper"), lw=3.6, zorder=5, solid_joinstyle="miter")
    (line,) = ax.plot(*zip(*path, strict=True), color=colour("ink"), lw=1.7, zorder=5, solid_joinstyle="miter")
    return {"largest rate that trains": (casing, line), **keys}


def best_rates(ax: Axes, part: Table, look: Look) -> dict[str, Any]:
    rows = list(ridge(part, look.x, [look.y], value=look.value, better=look.better, bar=look.bar).rows())
    if not rows:
        return {}
    at = [look.rows.index(row[look.y]) for row in rows]
    for row, y in zip(rows, at, strict=True):
        ax.plot([row["low"], row["high"]], [y, y], color=colour("paper"), lw=1.4, zorder=6)
    ranked = all(size_of(value) is not None for value in look.rows)  # between kinds there is nothing to follow
    (line,) = ax.plot(
        [row["best"] for row in rows], at, color=colour("paper"), lw=0.8 * ranked, marker="o", ms=4.2,
        mec=colour("ink"), mew=0.9, zorder=6,
    )  # fmt: skip
    return {"best rate of each row": line}


def best(ax: Axes, part: Table, look: Look) -> dict[str, Any]:
    top = best_cell(part, look.x, [look.y], value=look.value, better=look.better, bar=look.bar)
    if top is None:
        return {}
    (star,) = ax.plot(
        [top.axes[look.x]], [look.rows.index(top.axes[look.y])], "*", ms=13, color=colour("ink"),
        mec=colour("paper"), mew=1.1, zorder=7,
    )  # fmt: skip
    return {"best cell": star}


def predictions(ax: Axes, theory: Mapping[str, Any], look: Look) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for dash, (name, lines) in zip(THEORY * (1 + len(theory) // len(THEORY)), theory.items(), strict=False):
        at = per_row(lines, look)
        y = np.repeat([i for i, _ in at], 2) + np.tile([-0.5, 0.5], len(at))
        x = np.repeat([v for _, v in at], 2)
        tone = colour("default")
        ax.plot(x, y, color=colour("paper"), lw=3.0, zorder=5)
        (keys[name],) = ax.plot(x, y, color=tone, lw=1.6, ls=dash, zorder=5.5)
    return keys


def per_row(lines: Any, look: Look) -> list[tuple[int, float]]:
    """A prediction as ``(row, x)``, whatever form it was given in."""
    if isinstance(lines, Mapping):
        return [(look.rows.index(y), float(v)) for y, v in lines.items() if y in look.rows]
    if np.ndim(lines) == 0:
        return [(i, float(lines)) for i in range(len(look.rows))]
    if len(lines) != len(look.rows):
        raise ValueError(
            f"theory: {len(lines)} numbers for {len(look.rows)} rows of {look.y}; give one for each, or one"
        )
    return [(i, float(v)) for i, v in enumerate(lines)]
