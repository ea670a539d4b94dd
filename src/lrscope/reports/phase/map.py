"""One panel of a phase diagram: its cells, and the lines on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.records import Table
from lrscope.reports.figures.style import colour
from lrscope.reports.phase import marks
from lrscope.reports.phase.axes import spread_ticks
from lrscope.reports.phase.cells import Spot, rows_of
from lrscope.reports.phase.look import Look
from lrscope.reports.phase.words import axis_value, axis_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(
    part: Table, ax: Axes, look: Look, *, theory: Mapping[str, Any] | None, with_contours: bool
) -> dict[str, Any]:
    """Draw one panel and return the handles of its legend by their text."""
    split = {key[look.y]: one for key, one in rows_of(part, [look.y])}
    rows = [(look.rows.index(name), look.spots(one)) for name, one in split.items()]
    edges = [_edges([s.x for s in row], look) for _, row in rows]
    keys: dict[str, Any] = {}
    _frame(ax, look, [e for row in edges for e in row])
    for (at, row), edge in zip(rows, edges, strict=True):
        first = next((s.x for s in row if s.state == "trains"), math.inf)
        for spot, low, high in zip(row, edge[:-1], edge[1:], strict=True):
            keys |= _cell(ax, spot, (low, high, at), look, split[look.rows[at]], slow=spot.x < first)
    if not _regular([[s.x for s in row] for _, row in rows], look):
        ran = [(s.x, at) for at, row in rows for s in row]
        (dots,) = ax.plot(*zip(*ran, strict=True), ".", color=colour("ink"), ms=2.2, zorder=3)
        keys["runs"] = dots
    if with_contours and not look.words and len(rows) > 3:
        marks.contours(ax, rows, look)
    keys |= marks.limit(ax, part, look, edges)
    if not look.words:
        keys |= marks.best_rates(ax, part, look) | marks.best(ax, part, look)
    return keys | marks.predictions(ax, theory or {}, look)


def _regular(rows: Sequence[Sequence[float]], look: Look) -> bool:
    """Whether all rows have the same evenly spaced places, so that every cell shows where its runs are."""
    gaps = np.diff(np.log(look.places) if look.log else look.places)
    return len({tuple(row) for row in rows}) == 1 and (len(gaps) == 0 or float(gaps.max()) < 1.5 * float(gaps.min()))


def _edges(places: Sequence[float], look: Look) -> list[float]:
    """Half way between neighbours; outermost cells reach half of the row's smallest gap further."""
    u = np.log(places) if look.log else np.asarray(places, dtype=float)
    if len(u) == 1:
        whole = np.log(look.places) if look.log else np.asarray(look.places)
        half = 0.5 * (np.diff(whole).min() if len(whole) > 1 else 1.0)
        middle = np.array([u[0] - half, u[0] + half])
    else:
        between = (u[1:] + u[:-1]) / 2
        outside = np.diff(u).min() / 2
        middle = np.r_[u[0] - outside, between, u[-1] + outside]
    return (np.exp(middle) if look.log else middle).tolist()


def _frame(ax: Axes, look: Look, edges: Sequence[float]) -> None:
    ax.grid(visible=False)
    ax.set_axisbelow(False)
    if look.log:
        ax.set_xscale("log")
    ax.set_xlim(min(edges), max(edges))
    ax.set_ylim(-0.5, len(look.rows) - 0.5)
    spread_ticks(ax.xaxis, look.places, most=6)
    every = -(-len(look.rows) // 16)
    shown = range(0, len(look.rows), every)
    names = [axis_value(look.y, value) for value in look.rows]
    if look.y == "warmup" and any(name.endswith("%") for name in names):
        names = [f"{name} step{'' if name == '1' else 's'}" if name.isdigit() else name for name in names]
    ax.set_yticks(list(shown), [names[i] for i in shown])
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(axis_words(look.x))
    ax.set_ylabel(_row_words(look))


def _row_words(look: Look) -> str:
    if look.y != "warmup":
        return axis_words(look.y)
    texts = [axis_value("warmup", v) for v in look.rows]
    unit = "share of the run" if any(t.endswith("%") for t in texts) else "steps"
    return f"warmup ({unit})" if any(t != "none" for t in texts) else "warmup"


def _cell(
    ax: Axes, spot: Spot, place: tuple[float, float, int], look: Look, part: Table, *, slow: bool
) -> dict[str, Any]:
    from matplotlib.patches import Rectangle

    low, high, row = place
    name = ""
    style: dict[str, Any] = {"fc": colour("paper"), "ec": "none"}
    if look.words and spot.state != "raised":
        said = [r[look.value] for r in part.rows() if r[look.x] == spot.x and isinstance(r[look.value], str)]
        name = max(sorted(set(said)), key=said.count) if said else "not measured"
        style = _word_style(name, look)
    elif spot.value is not None and (spot.state == "trains" or (spot.state == "fails" and slow)):
        style = {"fc": look.colours(spot), "ec": look.colours(spot), "lw": 0.3}
    elif spot.state == "diverged":
        name, style = "diverged", {"fc": colour("failed"), "ec": colour("failed-ink"), "hatch": "////", "lw": 0}
    elif spot.state == "fails":
        name, style = "finished, did not train", {"fc": colour("rule"), "ec": colour("rule"), "lw": 0.3}
    else:
        name = "error"
        ax.text(math.sqrt(low * high) if look.log else (low + high) / 2, row, "×", ha="center", va="center")
    ax.add_patch(Rectangle((low, row - 0.5), high - low, 1.0, zorder=1, **style))
    return {name: Rectangle((0, 0), 1, 1, **style)} if name else {}


_WORDS = {
    "diverged": ("failed", "////"),
    "failed to train": ("rule", None),
    "slow": ("level-5", None),
    "catapult": ("default", None),
    "edge of stability": ("other", None),
    "flattened": ("cosine", None),
    "sharpened": ("level-2", None),
    "lazy": ("level-0", None),
    "stable": ("level-3", None),
    "not measured": ("paper", None),
}


def _word_style(name: str, look: Look) -> dict[str, Any]:
    if name in _WORDS:
        tone, hatch = _WORDS[name]
        return {
            "fc": colour(tone),
            "ec": colour("failed-ink" if hatch else tone),
            "hatch": hatch,
            "lw": 0 if hatch else 0.3,
        }
    unknown = [w for w in look.words if w not in _WORDS]
    return {"fc": look.cmap(unknown.index(name) / max(len(unknown) - 1, 1)), "ec": "none"}
