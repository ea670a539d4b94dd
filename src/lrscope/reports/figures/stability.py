"""The learning rate against the limit that the measured curvature sets.

A reading of Adam before its first update is drawn faintly, and sets no limits of the axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrscope.records import Run
from lrscope.reports.figures import marks
from lrscope.reports.figures.style import colour
from lrscope.reports.outcome import readings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def stability_limit(
    run: Run, ax: Axes | None = None, *, warmup_steps: int | None = None, compact: bool = False
) -> Axes:
    """Learning rate and curvature limit on one time axis; the region above the limit is shaded.

    Args:
        run: A run with columns ``lr`` and, if curvature was measured, ``stable_lr``.
        ax: Where to draw; ``None`` makes a figure.
        warmup_steps: Marks the end of the warmup.
        compact: For a narrow figure.
    """
    ax = marks.axes(ax)
    step, rate = run["lr"]
    positive = rate > 0
    step, rate = _thin(step[positive], rate[positive])
    ax.set_yscale("log")
    low, high = _limits(run, rate)
    ax.set_ylim(low, high)
    labels = [_limit(ax, run, high, compact)] if "stable_lr" in run.columns else []
    ax.plot(step, rate, color=colour("planned"), lw=2.2, zorder=4)
    marks.log_lr(ax.yaxis, low, high)
    ax.set_ylabel("learning rate")
    marks.step_axis(ax, compact)
    _warmup_end(ax, warmup_steps, compact)
    marks.mark_catapults(ax, run.events, compact=compact)
    _name_rate(ax, step, rate, compact)
    marks.label_ends(ax, labels)
    return ax


def headroom(run: Run, ax: Axes | None = None, *, warmup_steps: int | None = None, compact: bool = False) -> Axes:
    """Learning rate as a multiple of the curvature limit; above 1 is beyond what curvature allows."""
    ax = marks.axes(ax)
    step, value = readings(run, "headroom")
    ax.set_yscale("log")
    low = max(float(value.min()), 1e-3) if len(value) else 0.1
    high = max(float(value.max()) if len(value) else 1, 1.0) * 1.6
    low = min(low, 0.5) / 1.3
    ax.set_ylim(low, high)
    ax.axhspan(1, high, color=colour("beyond"), lw=0, zorder=0)
    ax.axhline(1, color=colour("limit"), lw=1.2)
    ax.plot(step, value, color=colour("planned"), lw=1.6, marker="o", ms=3 if len(value) < 60 else 1.8)
    _faint(ax, run, "headroom", colour("planned"))
    marks.plain_log(ax.yaxis, low, high, most=4)
    ax.set_ylabel("headroom")
    marks.step_axis(ax, compact)
    _warmup_end(ax, warmup_steps, compact, named=False)
    marks.label_ends(ax, [(1.0, "limit" if compact else "limit (1)", colour("limit"))])
    return ax


def _limit(ax: Axes, run: Run, top: float, compact: bool) -> tuple[float, str, str]:
    step, stable = readings(run, "stable_lr")
    if not len(stable):
        return top, "", colour("limit")
    step, stable = np.append(step, max(run.steps_done, step[-1])), np.append(stable, stable[-1])  # holds to the end
    ax.fill_between(step, stable, max(top, float(stable.max())) * 10, color=colour("beyond"), lw=0, zorder=0)
    low, high = _band(run, step, stable)
    ax.fill_between(step, low, high, color=colour("limit"), alpha=0.2, lw=0, zorder=2)
    ax.plot(step, stable, color=colour("limit"), lw=1.5, marker="o", ms=3 if len(step) < 60 else 1.8, zorder=3)
    _faint(ax, run, "stable_lr", colour("limit"))
    ax.annotate(
        "beyond the limit" if compact else "beyond what curvature allows",
        (0.94, 0.9),
        xycoords="axes fraction",
        ha="right",
        va="center",
        color=colour("beyond-ink"),
        fontsize=10 if compact else 11,
        fontstyle="italic",
    )
    return float(stable[-1]), "curvature\nlimit", colour("limit")


def _faint(ax: Axes, run: Run, column: str, tone: str) -> None:
    """The readings that are not counted, where they lie on the axes."""
    step, value = run[column]
    keep = np.isfinite(value) & (value > 0) & ~np.isin(step, readings(run, column)[0])
    ax.plot(step[keep], value[keep], "o", ms=4, mfc="none", mec=tone, mew=1, alpha=0.45, zorder=3)


def _band(run: Run, step: np.ndarray, stable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The limit if the sharpness were off by its residual: an eigenvalue lies within that distance."""
    if "sharpness" not in run.columns or "sharpness_residual" not in run.columns:
        return stable, stable
    sharpness = dict(zip(*run["sharpness"], strict=True))
    residual = dict(zip(*run["sharpness_residual"], strict=True))
    share = np.asarray([abs(residual.get(s, 0.0)) / max(abs(sharpness.get(s, np.inf)), 1e-300) for s in step])
    share = np.clip(np.nan_to_num(share), 0, 0.9)
    return stable / (1 + share), stable / (1 - share)


def _limits(run: Run, rate: np.ndarray) -> tuple[float, float]:
    """Show the plan and the limit near it: late in a decay to zero both run off the scale."""
    top = float(rate.max()) if len(rate) else 1.0
    low = max(float(rate.min()) if len(rate) else 1e-3, top / 300)
    high = top * 3
    if "stable_lr" in run.columns:
        stable = readings(run, "stable_lr")[1]
        if len(stable):
            low = min(low, max(float(stable.min()), top / 1000))
            high = max(high, min(float(np.quantile(stable, 0.9)) * 5, top * 300))
    return low / 1.3, high


def _name_rate(ax: Axes, step: np.ndarray, rate: np.ndarray, compact: bool) -> None:
    """Under its own line: late in the run a decay to zero leaves the axes, so there is no end to write beside."""
    if not len(step):
        return
    at = int(np.searchsorted(step, step[0] + 0.64 * (step[-1] - step[0])))
    ax.annotate(
        "learning rate",
        (step[at], rate[at]),
        xytext=(0, -6),
        textcoords="offset points",
        color=colour("planned"),
        fontweight="bold",
        fontsize=11 if compact else 12,
        ha="right",
        va="top",
    )


def _thin(step: np.ndarray, value: np.ndarray, most: int = 600) -> tuple[np.ndarray, np.ndarray]:
    if len(step) <= most:
        return step, value
    chosen = np.unique(np.r_[np.linspace(0, len(step) - 1, most).astype(int), int(np.argmax(value))])
    return step[chosen], value[chosen]


def _warmup_end(ax: Axes, warmup_steps: int | None, compact: bool, *, named: bool = True) -> None:
    if not warmup_steps or warmup_steps <= 1:
        return
    ax.axvline(warmup_steps - 1, color=colour("muted"), lw=1, ls=(0, (2, 2)), zorder=2)
    if named:
        ax.annotate(
            "warmup ends",
            (warmup_steps - 1, 0.04),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            color=colour("muted"),
            fontsize=10 if compact else 11,
        )
