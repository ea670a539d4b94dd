"""Figures of the checks of gotmare2018: losses on lines and curves, as in the paper's Figs. 1 to 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrscope.papers.drawing import dots, legend, line, muted, names, panels, seeds, stack
from lrscope.papers.gotmare2018 import connectivity, restarts
from lrscope.papers.gotmare2018.figures_layers import each

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

LINE, CURVE = 1, 0
"""Their colours and dashes."""
ABOVE = "training loss above\nthat of the worse end"


def _place(ax: Axes, words: str) -> None:
    ax.set_xlabel(words)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])


@connectivity.different_recipes.figure
@connectivity.bezier_too.figure
def recipes(outcome: Outcome, figure: Figure) -> None:
    """Accuracy along the path to the network of each recipe (Fig. 1)."""
    found = outcome.curves
    across = min(3, len(found))
    grid = stack(figure, -(-len(found) // across), across)
    axes = [ax for row in grid for ax in row]
    for ax, (name, ways) in zip(axes, found.items(), strict=False):
        for way, part in ways.items():
            accuracy = [[100 * (1 - error) for error in row] for row in part["test_error"]]
            words = "straight line" if way == "line" else f"trained {way}".replace("bezier", "Bezier curve")
            seeds(ax, part["t"], accuracy, words, LINE if way == "line" else CURVE)
        ax.set_title(name)
    lowest = min(ax.get_ylim()[0] for ax in axes[: len(found)])
    for ax in axes[len(found) :]:
        ax.remove()
    for row in grid:
        row[0].set_ylim(lowest, 101)
        row[0].set_ylabel("accuracy in %")
    for ax in axes[across * (len(grid) - 1) : len(found)]:
        _place(ax, "place on the path")
    legend(figure)


@connectivity.nothing_between_points.figure
def nothing_between_points(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=280)
    found = outcome.numbers["by_recipe"]
    for y, values in enumerate(found.values()):
        label = "a marker for each seed" if not y else None
        ax.plot(values, [y] * len(values), "o", color="C0", mfc="none", ms=5.5, mew=1.3, ls="none", label=label)
    line(ax, 0.01, "criterion: at most 0.01", axis="x")
    names(ax, list(found), "y")
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_xlabel("largest training loss on the chain at 601 points, less that at 61")
    legend(figure)


def _risen(values: Mapping[str, Any], of: str = "train_loss", *, lower: bool = False) -> list[list[float]]:
    """A row for each seed, less its worse end, or its lower one."""
    return [[v - (min if lower else max)(row[0], row[-1]) for v in row] for row in values[of]]


def _pairs(axes: Sequence[Axes], found: Mapping[str, Any]) -> None:
    for ax, (pair, part) in zip(axes, found.items(), strict=True):
        each(ax, part["t"], _risen(part), "straight line, by seed", LINE)
        ax.set_title("Epochs {} and {}".format(*pair.split("-")))
        _place(ax, "place on the line")
    axes[0].set_ylabel(ABOVE)


@restarts.restart_barriers.figure
@restarts.high_rates_do_it_alone.figure
def barriers(outcome: Outcome, figure: Figure) -> None:
    """Loss on the segment of each pair (Fig. 2)."""
    axes = panels(figure, len(outcome.curves), share=True)
    _pairs(axes, outcome.curves)
    for ax in axes:
        line(ax, 0.1, "0.1: a barrier")
    legend(figure)


@restarts.no_barrier_at_drops.figure
def drops(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, len(outcome.curves), share=True)
    _pairs(axes, outcome.curves)
    for ax in axes:
        line(ax, 0.01, "criterion: at most 0.01")
    legend(figure)


@restarts.not_two_basins.figure
def not_two_basins(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, width_ratios=(2, 1))
    for kind, (way, words) in enumerate({"chain": "trained chain", "line": "straight line"}.items()):
        seeds(left, outcome.curves[way]["t"], _risen(outcome.curves[way]), words, (CURVE, LINE)[kind])
    line(left, 0.02, "criterion for the chain: at most 0.02")
    _place(left, "place on the path from epoch 35 to 75")
    left.set_ylabel(ABOVE)
    dots(right, 0, [-v for v in outcome.numbers["bend below the lower end"]["values"]], None, CURVE)
    right.axhline(0, color=muted(), lw=1.3, ls="-", label="as at the lower end")
    names(right, ["at the bend"])
    right.set_ylabel("training loss above\nthat of the lower end")
    right.set_ylim(top=0.02)
    legend(figure)


@restarts.better_between.figure
def better_between(outcome: Outcome, figure: Figure) -> None:
    """Losses on the line through the paper's plane (Fig. 3)."""
    axes = panels(figure, 2)
    for ax, of, words in zip(axes, ("train_loss", "test_loss"), ("Training", "Validation"), strict=True):
        each(ax, outcome.curves["t"], _risen(outcome.curves, of, lower=True), "straight line, by seed", LINE)
        line(ax, 0, "as at the lower end")
        ax.axvspan(0.25, 0.75, color=muted(), alpha=0.16, lw=0, label="between", zorder=0)
        ax.set_title(f"{words} loss")
        _place(ax, "place on the line from epoch 35 to 75")
    axes[0].set_ylabel("loss above that of the lower end")
    legend(figure)


@restarts.convolutional.figure
def convolutional(outcome: Outcome, figure: Figure) -> None:
    lines, chain = outcome.curves["lines"], outcome.curves["chain"]
    axes = panels(figure, len(lines), share=True)
    _pairs(axes, lines)
    each(axes[-1], chain["t"], _risen(chain), "trained chain, by seed", CURVE)
    for ax in axes:
        line(ax, 0.1, "criterion for two of the lines: 0.1 or more")
    line(axes[-1], 0.02, "for the chain: at most 0.02", dash=1)
    legend(figure)
