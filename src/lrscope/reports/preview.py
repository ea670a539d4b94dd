"""Schedules as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_schedule(
    schedules: Mapping[str, ArrayLike],
    ax: Axes | None = None,
    *,
    yscale: Literal["linear", "log"] = "linear",
    ylabel: str = "learning rate",
) -> Axes:
    """Draw the values of one or more schedules against the step.

    Args:
        schedules: Values by name, each of shape ``(num_steps,)``, from step 0.
        ax: Where to draw; a new figure, known to no window system, if ``None``.
        yscale: With ``"log"``, values of 0 or less are left out, as they have no place on that axis.
        ylabel: Label of the vertical axis.

    Returns:
        The axes; nothing is shown or saved.

    Raises:
        ValueError: No schedule, or values that are not of shape ``(n,)``.

    Example:
        >>> ax = plot_schedule({"linear": [1.0, 0.5], "constant": [1.0, 1.0]})
        >>> [line.get_label() for line in ax.lines]
        ['linear', 'constant']
    """
    curves = {name: np.asarray(values, dtype=float) for name, values in schedules.items()}
    if not curves:
        raise ValueError("schedules: is empty; give at least one {name: values}")
    for name, values in curves.items():
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"schedules[{name!r}]: must have shape (n,) with n > 0, got {values.shape}")
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=(7, 3.5), layout="constrained").add_subplot()
    for name, values in curves.items():
        shown = np.where(values > 0, values, np.nan) if yscale == "log" else values
        ax.plot(np.arange(values.size), shown, label=name, linewidth=1.6)
    ax.set_yscale(yscale)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(ylabel)
    if yscale == "linear":
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0] if min(v.min() for v in curves.values()) < 0 else 0.0))
    ax.grid(alpha=0.3)
    if len(curves) > 1:
        ax.legend(frameon=False)
    return ax
