"""A run with weight decay beside the one that an exponential learning rate makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrscope.records import Run
from lrscope.reports.figures import marks
from lrscope.reports.figures.style import colour

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def equivalence(original: Run, exponential: Run) -> Figure:
    """Three panels: both losses, both learning rates, and how far the weights lie apart.

    Args:
        original, exponential: As :func:`lrscope.stability.show_equivalence` gives them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9), layout="constrained")
    loss, rate, apart = figure.subplots(1, 3)
    wide, thin = {"color": colour("default"), "lw": 4, "alpha": 0.5}, {"color": colour("ink"), "lw": 1}
    for axes, column in ((loss, "loss"), (rate, "lr")):
        axes.plot(*original[column], label="with weight decay", **wide)
        axes.plot(*exponential[column], label="exponential", **thin)
    loss.set_title("loss")
    loss.legend(frameon=False)
    rate.set_title("learning rate")
    step, difference = exponential["weight_difference"]
    apart.plot(step, np.maximum(difference, 1e-17), **thin)
    apart.set_title("relative difference of weights")
    for axes in (rate, apart):
        axes.set_yscale("log")
    apart.set_ylim(1e-17, 10)  # from rounding to nothing in common, whatever was seen
    for axes in (loss, rate, apart):
        marks.step_axis(axes, compact=True)
    return figure
