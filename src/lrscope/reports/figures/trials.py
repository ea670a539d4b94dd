"""The short runs of the planning: a map over learning rate and warmup, and score against learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrscope.records import Plan, Table
from lrscope.reports import numbers
from lrscope.reports.figures import marks
from lrscope.reports.figures.style import LEVELS, WARMUP_MARKERS, colour, of_warmup
from lrscope.reports.trials import Cell, best, cells, horizons, warmup_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CROWDED = 11  # columns of a map beyond which its numbers are set smaller


def lr_warmup_map(
    trials: Table,
    ax: Axes | None = None,
    *,
    horizon: int | None = None,
    plan: Plan | None = None,
    transpose: bool = False,
) -> Axes:
    """Score of every peak learning rate and warmup tried at one horizon.

    Colour says how far above the best score of this horizon; diverged cells are hatched and hold the step; the best
    cell is outlined, the plan is ringed. Columns are all those of ``trials``, so maps of several horizons line up;
    rows are those of this horizon.

    Args:
        trials: Short runs.
        ax: Where to draw; ``None`` makes a figure.
        horizon: Length of the short runs shown; ``None`` takes the longest.
        plan: Marked if given.
        transpose: Learning rate upwards, warmup to the right: for a narrow figure.
    """
    ax = marks.axes(ax)
    every = cells(trials)
    horizon = horizon if horizon is not None else horizons(trials)[-1]
    shown = [cell for cell in every if cell.horizon == horizon]
    rates = sorted({c.lr for c in (shown if transpose else every)})
    warmups = sorted({c.warmup for c in (every if transpose else shown)})
    top = best(shown)
    tried = {(rates.index(c.lr), warmups.index(c.warmup)) for c in shown}
    for x, y in {(x, y) for x in range(len(rates)) for y in range(len(warmups))} - tried:
        ax.text(*((y, x) if transpose else (x, y)), "·", color=colour("rule"), ha="center", va="center")
    for cell in shown:
        x, y = rates.index(cell.lr), warmups.index(cell.warmup)
        _cell(ax, cell, (y, x) if transpose else (x, y), top, 10 if transpose or len(rates) <= CROWDED else 8.5)
    near = _nearest(shown, plan) if plan is not None else None
    outline = [(top, "ink", 1.8)] if top and top is not near else []
    outline += [(near, "paper", 5.0), (near, "planned", 2.4)] if near else []  # the halo shows the ring on dark cells
    for cell, tone, width in outline:
        x, y = rates.index(cell.lr), warmups.index(cell.warmup)
        _box(ax, (y, x) if transpose else (x, y), fill="none", edge=colour(tone), lw=width, inset=0.055, zorder=5)
    _map_axes(ax, rates, warmups, transpose)
    if near:
        for axis, place in zip(
            (ax.yaxis, ax.xaxis) if transpose else (ax.xaxis, ax.yaxis),
            (rates.index(near.lr), warmups.index(near.warmup)),
            strict=True,
        ):
            label = axis.get_major_ticks()[place].label1
            label.set_color(colour("planned"))
            label.set_fontweight("bold")
    return ax


def score_against_lr(
    trials: Table,
    ax: Axes | None = None,
    *,
    horizon: int | None = None,
    plan: Plan | None = None,
    compact: bool = False,
) -> Axes:
    """Score against peak learning rate, one line per warmup, for one horizon; bars span the seeds.

    Shaded is out to half way to the nearest peak that was told apart from the plan's; crosses on the upper edge are
    peaks that diverged.
    """
    ax = marks.axes(ax)
    every = cells(trials)
    horizon = horizon if horizon is not None else horizons(trials)[-1]
    shown = [cell for cell in every if cell.horizon == horizon]
    warmups = sorted({c.warmup for c in every})
    rates = [c.lr for c in every]
    if plan is not None:
        ax.axvspan(plan.peak_low / 1.04, plan.peak_high * 1.04, color=colour("interval"), lw=0, zorder=0)
        ax.axvline(plan.peak_lr, color=colour("planned"), lw=1.2, zorder=1)
    for position, warmup in enumerate(warmups):
        line = [c for c in shown if c.warmup == warmup and c.score is not None]
        _line(ax, line, position)
        failed = [c.lr for c in shown if c.warmup == warmup and c.diverged]
        height = 0.97 - 0.05 * position
        ax.plot(
            failed, [height] * len(failed), "x", color=of_warmup(position), ms=5.5, mew=1.6,
            transform=ax.get_xaxis_transform(), zorder=4,
        )  # fmt: skip
    _score_limits(ax, [s for c in shown for s in (c.score, c.low, c.high) if s is not None])
    ax.set_xscale("log")
    ax.set_xlim(min(rates) / 1.25, max(rates) * 1.25)
    marks.log_lr(ax.xaxis, *ax.get_xlim(), most=4 if compact else 5)
    if top := best(shown):
        ax.plot([top.lr], [_number(top.score)], "o", ms=11, mfc="none", mec=colour("ink"), mew=1.5, zorder=6)
    ax.set_xlabel("peak learning rate")
    ax.set_title(numbers.plural(horizon, "step"))
    return ax


def level(cell: Cell, top: Cell | None) -> int:
    """Which of the map's colours: 0 within one per cent of the best, 5 more than twice the best."""
    if cell.score is None or top is None or top.score is None:
        return len(LEVELS)
    excess = cell.score - top.score
    size = abs(top.score)  # a loss may be negative; the distance from the best still has this scale
    return int(np.searchsorted(LEVELS, excess / size)) if size > 0 else (0 if excess == 0 else len(LEVELS))


def _cell(ax: Axes, cell: Cell, place: tuple[int, int], top: Cell | None, size: float) -> None:
    if cell.diverged:
        _box(ax, place, fill=colour("failed"), edge=colour("failed-ink"), hatch="////", lw=0)
        at = "" if cell.diverged_at is None else f"{cell.diverged_at}"
        text, tone = f"×{at}", colour("failed-ink")
        back = {"boxstyle": "round,pad=0.15", "fc": colour("failed"), "ec": "none"}
    else:
        k = level(cell, top)
        _box(ax, place, fill=colour(f"level-{k}"), edge="none", lw=0)
        text, tone, back = _short(cell.score), colour(f"on-level-{k}"), None
    bold = "bold" if top is cell else "normal"
    ax.text(*place, text, ha="center", va="center", color=tone, fontsize=size, fontweight=bold, bbox=back, zorder=4)


def _box(
    ax: Axes,
    place: tuple[int, int],
    *,
    fill: str,
    edge: str,
    lw: float,
    hatch: str | None = None,
    inset=0.03,
    zorder=2,
) -> None:
    from matplotlib.patches import Rectangle

    corner = (place[0] - 0.5 + inset, place[1] - 0.5 + inset)
    size = 1 - 2 * inset
    ax.add_patch(Rectangle(corner, size, size, fc=fill, ec=edge, lw=lw, hatch=hatch, zorder=zorder))


def _short(score: float | None) -> str:
    if score is None:
        return "?"
    size = abs(score)
    if size >= 999.5 or 0 < size < 0.005:
        return numbers.lr(float(f"{score:.2g}"))
    return f"{score:.2f}" if size < 9.995 else f"{score:.3g}"


def _nearest(shown: list[Cell], plan: Plan) -> Cell | None:
    if not shown or plan.peak_lr <= 0:
        return None
    return min(shown, key=lambda c: (abs(c.warmup - plan.warmup_frac), abs(np.log(c.lr / plan.peak_lr))))


def _map_axes(ax: Axes, rates: list[float], warmups: list[float], transpose: bool) -> None:
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    across, up = (warmups, rates) if transpose else (rates, warmups)
    ax.set_xlim(-0.5, len(across) - 0.5)
    ax.set_ylim(-0.5, len(up) - 0.5)
    rate_axis, warmup_axis = (ax.yaxis, ax.xaxis) if transpose else (ax.xaxis, ax.yaxis)
    rate_axis.set_ticks(range(len(rates)), [numbers.lr(float(f"{r:.2g}")) for r in rates])
    if not transpose and len(rates) > CROWDED:
        rate_axis.set_tick_params(labelsize=8.5, labelrotation=0 if len(rates) <= 16 else 45)
    names = [warmup_name(w) if not transpose else numbers.percent(w) for w in warmups]
    warmup_axis.set_ticks(range(len(warmups)), names)


def _line(ax: Axes, line: list[Cell], position: int) -> None:
    if not line:
        return
    tone, marker = of_warmup(position), WARMUP_MARKERS[position % len(WARMUP_MARKERS)]
    x, y = [c.lr for c in line], [_number(c.score) for c in line]
    ax.plot(x, y, color=tone, marker=marker, ms=5, lw=1.6, zorder=3)
    many = [c for c in line if c.seeds > 1]
    ax.vlines(
        [c.lr for c in many],
        [_number(c.low) for c in many],
        [_number(c.high) for c in many],
        color=tone,
        lw=1.3,
        zorder=2,
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _score_limits(ax: Axes, scores: list[float]) -> None:
    if not scores:
        return
    low, top = min(scores), max(scores)
    if low > 0 and top / low > 4:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.15, top * 1.6)
        marks.plain_log(ax.yaxis, *ax.get_ylim())
    else:
        pad = 0.08 * (top - low or abs(top) or 1)
        ax.set_ylim(low - pad, top + 3 * pad)
