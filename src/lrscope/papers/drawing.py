"""What the figures of claims share: panels, lines with their seeds, criteria, maps of accuracy.

Colours are the first thirteen of the cycle in force, so that whoever renders a figure decides them: C0 to C4 tell
kinds apart, C5 to C10 are shades of one colour from much to little, C11 and C12 are for text on the dark and on the
light ones. Everything that a colour says is said by a dash, a marker or a word as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (6, 2, 1.2, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v")
SHADES = tuple(f"C{i}" for i in range(5, 11))
Spread = Mapping[str, Any]


def panels(figure: Figure, number: int = 1, *, height: int = 300, share: bool = False, **options: Any) -> list[Axes]:
    """Axes side by side; ``share`` gives them one y axis, ``height`` is in pixels at 72 dots per inch."""
    figure.set_figheight(height / 72)
    _room(figure)
    return list(figure.subplots(1, number, squeeze=False, sharey=share, **options)[0])


def stack(figure: Figure, rows: int, columns: int, *, height: int = 440) -> list[list[Axes]]:
    """A grid of axes, ``[row][column]``, that share x down each column and y along each row."""
    figure.set_figheight(height / 72)
    _room(figure)
    return figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row").tolist()


def _room(figure: Figure) -> None:
    """Between panels, so that the words at one do not touch the next."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=7 / 72, h_pad=4 / 72, wspace=0.02)


def spaced(points: int, last: float, first: float = 0.0) -> list[float]:
    """Where the points of a line lie that was thinned: evenly, its ends kept (an index would be wrong)."""
    return [first + i * (last - first) / max(points - 1, 1) for i in range(points)]


def muted() -> str:
    """The colour of words at the axes, for criteria and theory."""
    from matplotlib import rcParams

    return rcParams["axes.labelcolor"]


def ink() -> str:
    from matplotlib import rcParams

    return rcParams["text.color"]


def seeds(
    ax: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], label: str, kind: int = 0, dash: int | None = None
) -> None:
    """A thin line for each seed and their median, which carries the label."""
    style, tone = DASHES[(kind if dash is None else dash) % len(DASHES)], f"C{kind}"
    if len(rows) > 1:
        for row in rows:
            ax.plot(x[: len(row)], row, color=tone, lw=0.8, alpha=0.45)
    length = min(len(row) for row in rows)
    middle = [_median([row[i] for row in rows]) for i in range(length)]
    ax.plot(x[:length], middle, color=tone, lw=1.9, ls=style, label=label)


def _median(values: Sequence[float]) -> float:
    if any(math.isnan(v) for v in values):
        return math.nan
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2  # also of two infinities


def dots(ax: Axes, at: float, values: Sequence[float], label: str | None = None, kind: int = 0) -> None:
    """The values of the seeds above one place of the x axis, hollow, and a bar at their mean."""
    tone, marker = f"C{kind}", MARKERS[kind % len(MARKERS)]
    ax.plot([at] * len(values), values, marker, color=tone, mfc="none", ms=5.5, mew=1.3, ls="none", label=label)
    if len(values) > 1 and all(map(math.isfinite, values)):
        mean = sum(values) / len(values)
        ax.plot([at], [mean], marker="_", ms=17, mew=2.2, color=tone)


def interval(ax: Axes, at: float, found: Spread, kind: int = 0) -> None:
    """The 95 % interval of a mean, as a bar."""
    if all(map(math.isfinite, found["interval"])):
        ax.plot([at, at], found["interval"], color=f"C{kind}", lw=1.4, alpha=0.8)


def line(ax: Axes, value: float, words: str, *, axis: str = "y", dash: int = 2) -> None:
    """A criterion or a prediction, across the axes."""
    draw = ax.axhline if axis == "y" else ax.axvline
    draw(value, color=muted(), lw=1.3, ls=DASHES[dash], label=words, zorder=1)


def band(ax: Axes, low: float, high: float, words: str) -> None:
    """Where the criterion wants the values."""
    ax.axhspan(low, high, color=muted(), alpha=0.16, lw=0, label=words, zorder=0)


def diagonal(ax: Axes, low: float, high: float, words: str) -> None:
    ax.plot([low, high], [low, high], color=muted(), lw=1.3, ls=DASHES[2], label=words, zorder=1)


def names(ax: Axes, words: Sequence[str], axis: str = "x") -> None:
    """Names in place of numbers, at 0, 1, 2 ..."""
    one = ax.xaxis if axis == "x" else ax.yaxis
    one.set_ticks(range(len(words)), list(words))
    (ax.set_xlim if axis == "x" else ax.set_ylim)(-0.6, len(words) - 0.4)
    one.grid(visible=False)


def log(ax: Axes, axis: str = "y", *, ticks: Sequence[float] = ()) -> None:
    """A logarithmic axis, its ticks written as people write numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    one = ax.yaxis if axis == "y" else ax.xaxis
    (ax.set_yscale if axis == "y" else ax.set_xscale)("log")
    low, high = (ax.get_ylim if axis == "y" else ax.get_xlim)()
    if ticks:
        one.set_major_locator(FixedLocator(list(ticks)))
    elif high / low < 40:
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        one.set_major_locator(LogLocator(numticks=7))
    one.set_minor_locator(NullLocator())
    one.set_minor_formatter(NullFormatter())
    one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    if high / low > 1e6 and not ticks:
        one.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if 0.05 < v < 200 else f"1e{math.log10(v):.0f}"))


def legend(figure: Figure, *axes: Axes) -> None:
    """What every line is, above the panels, so never over data."""
    shown: dict[str, Any] = {}
    for ax in axes or figure.axes:
        for handle, words in zip(*ax.get_legend_handles_labels(), strict=True):
            shown.setdefault(words, handle)
    if not shown:
        return
    room = figure.get_figwidth() * 72
    columns = max(1, min(len(shown), int(room / (max(map(len, shown)) * 6.0 + 52))))
    figure.legend(
        shown.values(), shown.keys(), loc="outside upper left", ncols=columns, frameon=False, handlelength=2.6,
        columnspacing=1.6, borderaxespad=0.2,
    )  # fmt: skip


LEVELS = (0.95, 0.9, 0.75, 0.5, 0.2)
"""Accuracies at which the shade of a map changes."""


def accuracy_map(
    ax: Axes, rows: Mapping[str, Sequence[Sequence[float]]], peaks: Sequence[float], *, outlined: bool = True
) -> None:
    """Mean accuracy over seeds in percent, a row per way to train and a column per peak learning rate.

    Outlined is the largest peak of each row whose mean is above 90 %, if asked for.
    """
    from matplotlib.patches import Rectangle

    for y, cells in enumerate(rows.values()):
        means = [sum(cell) / len(cell) for cell in cells]
        for x, mean in enumerate(means):
            level = next((i for i, least in enumerate(LEVELS) if mean > least), len(LEVELS))
            ax.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fc=SHADES[level], ec="none", lw=0))
            tone = "C11" if level < 2 else "C12"
            ax.text(x, y, f"{100 * mean:.0f}", ha="center", va="center", color=tone, fontsize=10.5)
        good = [x for x, mean in enumerate(means) if mean > 0.9]
        if good and outlined:
            ax.add_patch(Rectangle((good[-1] - 0.48, y - 0.47), 0.96, 0.94, fc="none", ec=ink(), lw=2.0))
    names(ax, [f"{peak:g}" for peak in peaks])
    names(ax, list(rows), "y")
    ax.set_xlim(-0.5, len(peaks) - 0.5)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_xlabel("peak learning rate")
    ax.set_title("Test accuracy in %" + ("; outlined: the largest peak above 90 %" if outlined else ""))


def statistic(outcome: Outcome, figure: Figure) -> None:
    """The numbers that the claim shows, a row for each: hollow markers for seeds, bars for means and intervals."""
    rows = [row for name in outcome.shows for row in _rows(name, outcome.numbers[name])]
    (ax,) = panels(figure, height=70 + 24 * max(len(rows), 2))
    for y, (_, values, reach) in enumerate(rows):
        ax.plot(values, [y] * len(values), "o", color="C0", mfc="none", ms=5.5, mew=1.3)
        if reach is not None and all(map(math.isfinite, reach)):
            ax.plot(reach, [y, y], color="C1", lw=1.4, alpha=0.8, zorder=1)
    names(ax, [name for name, *_ in rows], "y")
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("a marker for each seed; a bar for the 95 % interval of the mean")


def _rows(name: str, value: Any) -> list[tuple[str, list[float], list[float] | None]]:
    words = name.replace("_", " ")
    if isinstance(value, Mapping):
        if {"values", "interval"} <= set(value):
            return [(words, list(value["values"]), list(value["interval"]))]
        return [row for key, part in value.items() for row in _rows(f"{name}: {key}", part)]
    values = value if isinstance(value, list) else [value]
    if all(isinstance(v, int | float) for v in values):
        return [(words, [float(v) for v in values], None)]
    return [
        row for i, part in enumerate(values, 1) if not isinstance(part, str) for row in _rows(f"{name} {i}", part)
    ]
