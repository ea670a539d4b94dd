"""Figures of two networks compared: losses on the way from one to the other, and the similarity of their layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lrscope.records.comparison import Comparison
from lrscope.reports.figures.marks import axes
from lrscope.reports.figures.style import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "train_error": "training error",
    "test_error": "test error",
}
EDGES = (0.9, 0.75, 0.6, 0.4, 0.2)
"""Similarities at which a cell's shade changes; six shades that a page can turn dark."""
MOST_LAYERS = 20
LONG, ROOMY = 20, 12
"""Letters of a name beside another on an axis, and of one that leaves room for a word between them."""


def between(found: Comparison, column: str = "train_loss", ax: Axes | None = None, *, compact: bool = False) -> Axes:
    """One column on the straight line (dashed) and on the trained curve (solid).

    Args:
        found: Two networks compared.
        column: Such as ``"test_error"``.
        ax: Where to draw.
        compact: For a narrow page.
    """
    ax = axes(ax)
    labels = []
    paths = [("straight line", found.line, "default", (0, (5, 2)))]
    paths += [("curve", found.curve, "planned", "-")] if found.curve is not None else []
    for label, path, tone, dash in paths:
        values = np.array(path.columns[column])
        values = np.where(np.isfinite(values), values, np.nan)
        ax.plot(path.t, values, color=colour(tone), ls=dash, lw=2)
        if np.isfinite(values).any():
            top = int(np.nanargmax(values))
            if 0 < top < len(values) - 1:
                ax.plot(path.t[top], values[top], "o", color=colour(tone), ms=5)
        labels.append((label, tone))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]) if column.endswith("error") else None)
    between_them = "halfway" if max(map(len, found.names)) <= ROOMY else ""
    first, last = ax.set_xticks([0, 0.5, 1], [_short(found.names[0]), between_them, _short(found.names[1])])[::2]
    first.label1.set_horizontalalignment("left")  # so that neither leaves the picture
    last.label1.set_horizontalalignment("right")
    ax.set_title(WORDS.get(column, column.replace("_", " ")).capitalize())
    for label, tone in labels:
        ax.plot([], [], color=colour(tone), ls=(0, (5, 2)) if tone == "default" else "-", lw=2, label=label)
    if len(labels) > 1 or not compact:
        ax.legend(frameon=False, fontsize="small", labelcolor=colour("ink"))
    return ax


def _short(name: str) -> str:
    """A long name without its middle: what tells names apart is mostly at an end."""
    half = LONG // 2
    return name if len(name) <= LONG else f"{name[: half - 1]}…{name[-half:]}"


def layers(found: Comparison, ax: Axes | None = None, *, compact: bool = False) -> Axes:
    """Similarity of every layer of A with every layer of B; many layers are thinned evenly.

    Args:
        found: Two networks compared.
        ax: Where to draw.
        compact: For a narrow page.
    """
    from matplotlib.patches import Rectangle

    ax = axes(ax)
    most = MOST_LAYERS // 2 if compact else MOST_LAYERS
    every = max(-(-len(found.layers) // most), 1)
    shown = range(0, len(found.layers), every)
    numbers = len(shown) <= (6 if compact else 12)
    for row, i in enumerate(shown):
        for column, j in enumerate(shown):
            value = found.similarity[i][j]
            level = "failed" if math.isnan(value) else f"level-{sum(value <= edge for edge in EDGES)}"
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour(level), edgecolor="none"))
            if numbers and not math.isnan(value):
                tone = colour(f"on-{level}")
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize="small", color=tone)
    names = [found.layers[i] for i in shown]
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(names)), names, rotation=40, ha="right")
    ax.set_ylabel(f"layer of {_short(found.names[0])}")
    ax.set_xlabel(f"layer of {_short(found.names[1])}")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def comparison_figure(found: Comparison) -> Figure:
    """Training and test loss, error where there is one, and the layers."""
    from lrscope.reports.figures.studies import panels

    columns = [name for name in ("train_loss", "test_loss", "test_error") if name in found.line.columns]
    figure, (*upper, last) = panels(len(columns) + 1, 3.2)
    for column, ax in zip(columns, upper, strict=True):
        between(found, column, ax)
    layers(found, last)
    last.set_title(f"Similarity of layers ({found.measure})")
    return figure
