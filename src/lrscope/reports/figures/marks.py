"""Small things that several figures share: LR axes, direct labels, catapult marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrscope.records import Event
from lrscope.reports import numbers
from lrscope.reports.figures.style import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


def axes(ax: Axes | None) -> Axes:
    """The axes given, or fresh ones: figure functions never draw on whatever happens to be current."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(layout="constrained")[1]


def log_lr(axis: Axis, low: float, high: float, *, most: int = 7) -> None:
    """Log scale with ticks written as people write learning rates."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in (range(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= most:
            break
    else:
        ticks = ticks[:: -(-len(ticks) // most)]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.lr(value)))


def plain_log(axis: Axis, low: float, high: float, *, most: int = 6) -> None:
    """Log scale for losses and ratios: plain numbers, few of them."""
    from matplotlib.ticker import FuncFormatter

    log_lr(axis, low, high, most=most)
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.3g}" if value < 999.5 else numbers.count(value))
    )


def step_axis(ax: Axes, compact: bool, label: str = "step (optimizer updates)") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4 if compact else 7, integer=True, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.count(value)))
    ax.set_xlabel(label)


def label_ends(ax: Axes, labels: Sequence[tuple[float, str, str]], *, size: float | None = None) -> None:
    """Write labels right of the axes at the heights of their lines, pushed apart where they would overlap.

    Args:
        ax: Axes whose y limits and scale are final.
        labels: Height in data units, text, colour.
        size: Font size; ``None`` takes the default.
    """
    if not labels:
        return
    from matplotlib import rcParams

    size = size or float(rcParams["font.size"])
    figure = ax.get_figure(root=True)
    height = ax.get_position().height * (figure.get_size_inches()[1] if figure else 3) * 72
    gap = 1.25 * size / max(height, 1)
    ax.get_ylim()  # autoscaling is lazy; this settles the limits that the transform uses
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [min(max(float(to_axes.transform((0, y))[1]), 0), 1) if np.isfinite(y) else 1.0 for y, _, _ in labels]
    for (_, text, tone), place in zip(labels, spread(wanted, gap), strict=True):
        ax.annotate(
            text,
            (1, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=tone,
            va="center",
            ha="left",
            fontsize=size,
            fontweight="bold",
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places closest to those wanted, in the same order, at least ``gap`` apart."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _low(groups[-1], wanted, gap) < _high(groups[-2], wanted, gap) + gap:
            last = groups.pop()
            groups[-1] += last
    placed = [0.0] * len(wanted)
    for group in groups:
        low = min(max(_low(group, wanted, gap), 0.0), max(1 - gap * (len(group) - 1), 0.0))  # stay beside the axes
        for k, i in enumerate(group):
            placed[i] = low + k * gap
    return placed


def _low(group: list[int], wanted: Sequence[float], gap: float) -> float:
    return sum(wanted[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _high(group: list[int], wanted: Sequence[float], gap: float) -> float:
    return _low(group, wanted, gap) + gap * (len(group) - 1)


def catapults(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.kind == "catapult"]


def mark_catapults(ax: Axes, events: Iterable[Event], *, compact: bool, note: bool = True) -> None:
    """A wedge under the top edge at every catapult; their number and largest ratio are written."""
    found = catapults(events)
    for event in found:
        end = event.detail.get("end") or event.step
        ax.axvspan(event.step, max(end, event.step + 1), color=colour("grid"), alpha=0.8, lw=0, zorder=0)
    if found:
        ax.plot(
            [event.detail.get("peak") or event.step for event in found],
            [0.985] * len(found),
            "v",
            transform=ax.get_xaxis_transform(),
            color=colour("beyond-ink"),
            ms=6,
            clip_on=False,
            zorder=6,
        )
    if found and note:
        largest = max(float(event.detail.get("ratio") or 0) for event in found)
        text = "catapult" if len(found) == 1 else f"{len(found)} catapults"
        text += f", ×{largest:.2g}" if largest else ""
        last = found[-1]
        ax.annotate(
            text,
            (last.detail.get("peak") or last.step, 0.985),
            xycoords=("data", "axes fraction"),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour("beyond-ink"),
            va="center",
            fontsize=10 if compact else 11,
        )
