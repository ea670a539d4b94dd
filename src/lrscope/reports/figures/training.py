"""Training loss and metrics of the full runs over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lrscope.records import Run
from lrscope.reports import numbers
from lrscope.reports.figures import marks
from lrscope.reports.figures.style import DASHES, MARKERS, colour, of_run
from lrscope.reports.outcome import in_words, outcome, short, stopped_at, unjudged

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 320  # raw values are drawn as their range in this many bins: a long run stays a small file


def loss_curves(runs: Mapping[str, Run], ax: Axes | None = None, *, compact: bool = False) -> Axes:
    """Training loss of every run: smoothed line over the faint range of the raw values, evaluation loss as points.

    Args:
        runs: Full runs by name, as :func:`lrscope.reports.load` gives them.
        ax: Where to draw; ``None`` makes a figure.
        compact: For a narrow figure: fewer ticks, shorter labels.
    """
    ax = marks.axes(ax)
    drawn = {name: run for name, run in runs.items() if "loss" in run.columns}
    smooth = {name: smoothed(*run["loss"]) for name, run in drawn.items()}
    for name, run in drawn.items():
        if len(drawn) <= 2 or name in ("planned", "run"):  # three overlapping ranges hide each other
            _raw(ax, run, of_run(name))
    for name in reversed(drawn):
        step, value = smooth[name]
        width = 2.2 if name == "planned" else 1.7
        ax.plot(
            step, value, color=of_run(name), ls=DASHES.get(name, "-"), lw=width, zorder=4 if name == "planned" else 3
        )
    for name, run in drawn.items():
        _evaluations(ax, run, name)
    _loss_limits(ax, drawn, smooth)
    for name, run in drawn.items():
        if run.status == "diverged":
            _mark_divergence(ax, run, name)
    ax.set_ylabel("loss")
    marks.step_axis(ax, compact)
    for name in {"planned", "run"} & drawn.keys():
        marks.mark_catapults(ax, drawn[name].events, compact=compact)
    ends = [name for name, run in drawn.items() if run.status != "diverged" and len(smooth[name][1])]
    marks.label_ends(ax, [_end_label(name, runs[name], smooth[name][1], compact) for name in ends])
    return ax


def metric_curves(runs: Mapping[str, Run], metric: str, ax: Axes | None = None, *, compact: bool = False) -> Axes:
    """One evaluation metric of every run over time, labelled with its last value."""
    ax = marks.axes(ax)
    labels = []
    for name, run in runs.items():
        if metric not in run.columns:
            continue
        step, value = run[metric]
        keep = np.isfinite(value)
        ax.plot(
            step[keep],
            value[keep],
            color=of_run(name),
            ls=DASHES.get(name, "-"),
            marker=MARKERS.get(name, "D"),
            ms=4,
            lw=2 if name == "planned" else 1.5,
        )
        if keep.any():
            last = float(value[keep][-1])
            labels.append((last, _named(name, run, last, compact), of_run(name)))
    ax.set_ylabel(in_words(metric))
    marks.step_axis(ax, compact)
    marks.label_ends(ax, labels)
    return ax


def smoothed(step: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running mean over a fiftieth of the run, in at most twice ``BINS`` points; infinities end the line."""
    keep = np.isfinite(value)
    step, value = step[keep], value[keep]
    width = max(1, len(value) // 50)
    if width > 1:
        total = np.convolve(value, np.ones(width), mode="same")
        weight = np.convolve(np.ones(len(value)), np.ones(width), mode="same")
        value = total / weight
    stride = max(1, len(value) // (2 * BINS))
    chosen = np.unique(np.r_[0 : len(value) : stride, max(len(value) - 1, 0)]) if len(value) else np.zeros(0, int)
    return step[chosen], value[chosen]


def _raw(ax: Axes, run: Run, tone: str) -> None:
    step, value = run["loss"]
    keep = np.isfinite(value)
    step, value = step[keep], value[keep]
    if len(value) <= BINS:
        ax.plot(step, value, color=tone, lw=0.7, alpha=0.3, zorder=1)
        return
    parts = np.array_split(np.arange(len(value)), BINS)
    middle = [step[p].mean() for p in parts]
    low, high = [value[p].min() for p in parts], [value[p].max() for p in parts]
    ax.fill_between(middle, low, high, color=tone, alpha=0.16, lw=0, zorder=1)


def _evaluations(ax: Axes, run: Run, name: str) -> None:
    if "eval_loss" not in run.columns:
        return
    step, value = run["eval_loss"]
    stride = max(1, len(step) // 24)
    chosen = np.unique(np.r_[len(step) - 1 : -1 : -stride])
    ax.plot(
        step[chosen],
        value[chosen],
        MARKERS.get(name, "D"),
        ms=5.5,
        mfc=colour("paper"),
        mec=of_run(name),
        mew=1.4,
        zorder=5,
    )


def _loss_limits(ax: Axes, runs: Mapping[str, Run], smooth: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits from where the runs usually are, so that one explosion does not flatten all the rest."""
    everything = np.concatenate([value for _, value in smooth.values()]) if smooth else np.zeros(0)
    evals = [run["eval_loss"].value for run in runs.values() if "eval_loss" in run.columns]
    everything = np.concatenate([everything, *evals])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return
    first = [value[0] for _, value in smooth.values() if len(value)]
    low, top = float(everything.min()), float(np.quantile(everything, 0.995))
    top = max(min(float(everything.max()), 3 * max(first, default=top)), min(top, 3 * max(first, default=top)))
    if low > 0 and top / low > 8:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.25, top * 1.35)
        marks.plain_log(ax.yaxis, *ax.get_ylim())
    else:
        pad = 0.06 * (top - low or abs(top) or 1)
        ax.set_ylim(low - pad, top + 2 * pad)


def _mark_divergence(ax: Axes, run: Run, name: str) -> None:
    step = stopped_at(run)
    ax.plot([step], [0.94], "X", ms=9, color=of_run(name), transform=ax.get_xaxis_transform(), zorder=7)
    ax.annotate(
        f"{short(name)} diverged at step {numbers.count(step)}"
        if unjudged(run) is None
        else f"{short(name)}: evaluation {unjudged(run)}",
        (step, 0.94),
        xycoords=("data", "axes fraction"),
        xytext=(9, 0),
        textcoords="offset points",
        color=of_run(name),
        va="center",
        fontweight="bold",
    )


def _end_label(name: str, run: Run, smooth: np.ndarray, compact: bool) -> tuple[float, str, str]:
    final = outcome(name, run, "eval_loss" if "eval_loss" in run.columns else "loss").final
    return (final if np.isfinite(final) else float(smooth[-1])), _named(name, run, final, compact), of_run(name)


def _named(name: str, run: Run, value: float, compact: bool) -> str:
    if run.status == "diverged":
        return f"{short(name)} diverged"
    return short(name) if compact else f"{short(name)} {numbers.loss(value)}"
