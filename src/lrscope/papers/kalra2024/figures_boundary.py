"""Figures of the checks of kalra2024 over learning rates: how far training goes, and where the loss first jumps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrscope.papers.drawing import DASHES, MARKERS, accuracy_map, legend, line, log, panels, seeds
from lrscope.papers.kalra2024 import boundary, constants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

CONSTANTS = {"c_loss": "loss", "c_sharp": "sharpness", "c_barrier": "barrier", "c_max": "largest that trains"}


@boundary.failure_boundary.figure
@boundary.random_second_moment.figure
@boundary.without_normalisation.figure
@boundary.radam_below_giadam.figure
def boundaries(outcome: Outcome, figure: Figure) -> None:
    rows = outcome.numbers["accuracy_by_peak_and_seed"]
    (ax,) = panels(figure, height=90 + 34 * len(rows))
    full = {"GI": "GI-Adam", "R": "RAdam"}
    accuracy_map(ax, {full.get(str(name), str(name)): v for name, v in rows.items()}, outcome.numbers["peaks"])


@boundary.peak_not_warmup.figure
def peak_not_warmup(outcome: Outcome, figure: Figure) -> None:
    rows = outcome.numbers["accuracy_by_peak_and_seed"]
    (ax,) = panels(figure, height=90 + 34 * len(rows))
    accuracy_map(ax, rows, outcome.numbers["peaks"], outlined=False)


@boundary.never_diverges.figure
def never_diverges(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    for kind, (name, cells) in enumerate(outcome.curves["largest_loss_by_peak_and_seed"].items()):
        seeds(ax, outcome.curves["peaks"], [list(row) for row in zip(*cells, strict=True)], name, kind)
    line(ax, math.log(10), "the loss of guessing, ln 10")
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("largest loss of the run")
    log(ax)
    log(ax, "x", ticks=outcome.curves["peaks"][::2])
    legend(figure)


@constants.critical_constants_by_width.figure
def critical_constants(outcome: Outcome, figure: Figure) -> None:
    starts = list(dict.fromkeys(name.split(",")[0] for name in outcome.numbers))
    axes = panels(figure, len(starts), share=True)
    for ax, start in zip(axes, starts, strict=True):
        mine = {name: found for name, found in outcome.numbers.items() if name.startswith(f"{start},")}
        widths = sorted({int(name.split("width ")[1].split(",")[0]) for name in mine})
        for kind, (key, words) in enumerate(CONSTANTS.items()):
            found = [mine[f"{start}, width {width}, {key}"] for width in widths]
            tone, shift = f"C{kind}", 2 ** ((kind - 1.5) / 14)  # side by side, not on top of each other
            for width, one in zip(widths, found, strict=True):
                ax.plot(
                    [shift / width] * len(one["values"]), one["values"], MARKERS[kind], color=tone, mfc="none", ms=5
                )
            means = [one["mean"] for one in found]
            ax.plot([shift / w for w in widths], means, color=tone, lw=1.8, ls=DASHES[kind], label=words)
        line(ax, 2, "c = 2")
        ax.set_title({"sp": "Standard start", "zero": "Last layer of zeros"}[start])
        ax.set_xlabel("1 / width")
        ax.set_xscale("log")
        ax.set_xticks([1 / width for width in widths], [f"1/{width}" for width in widths])
        ax.minorticks_off()
    for ax in axes:
        log(ax, ticks=[1, 2, 4, 8, 16, 32])
    axes[0].set_ylabel("c = lr x sharpness at the start\nwhere it first rises")
    legend(figure)
