"""The phase diagram: what happens at each learning rate and warmup, or any other two axes of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.records import Table
from lrscope.reports.phase import lines
from lrscope.reports.phase import look as looks
from lrscope.reports.phase import map as maps
from lrscope.reports.phase.cells import Better, bar_of, rows_of
from lrscope.reports.phase.words import axis_value, axis_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12
Theory = Mapping[str, Any]
"""Predicted boundaries by name: one x for all rows, one for each row in order, or a mapping from y to x."""


def draw_phase(
    table: Table,
    *,
    x: str = "lr",
    y: str | None = "warmup",
    value: str = "final_loss",
    over: str | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    theory: Theory | None = None,
    better: Better = "low",
    bar: float | None = None,
    contours: bool = True,
    compact: bool = False,
) -> Any:
    """Draw a sweep as a map: colour is the median over seeds of what judges, lines are where training ends.

    Cells in which most seeds diverged are hatched, those that finished without getting anywhere are grey; the black
    line is the boundary of what trains, its band the interval over seeds, white points the best rate of each row, the
    star the best cell. Where rows were tried at different rates each colour reaches half way to the next one, and
    points show where runs are. Without ``y``, or where the table has no such column, one line per ``over`` is drawn
    against x, with a band over the seeds.

    Args:
        table: One row per run: the axes, ``seed``, ``status`` and what :func:`lrscope.sweeps.boundary` needs.
        x: Axis to the right; numbers, on a logarithmic scale where they span more than a factor of 4.
        y: Axis upwards, one row for each value.
        value: Column that gives the colour; text, such as ``"regime"``, gives one colour for each word.
        over: A third axis, one panel for each value.
        ax: Where to draw; with ``over`` a sequence of axes. ``None`` makes a figure.
        theory: Predicted boundaries, by name: one x, one for each row in order, or a mapping from y to x; with
            ``over`` also a mapping from its values to any of these.
        better: Whether low or high values are good.
        bar: Final loss below which a run counts as trained; see :func:`lrscope.sweeps.boundary`.
        contours: Whether to draw lines of equal value.
        compact: For a figure of one narrow column.

    Returns:
        The axes; with ``over`` an array of them. Nothing is shown or saved.

    Raises:
        ValueError: No runs, a column is missing, two runs share a place, or there are more than 12 panels.

    Example:
        >>> runs = [{"lr": lr, "warmup": w, "seed": 0, "status": "finished", "first_loss": 2.0, "final_loss": 1 / lr}
        ...         for lr in (1.0, 2.0, 4.0) for w in (0, "33%")]
        >>> draw_phase(Table.of(runs)).get_xlabel()
        'peak learning rate'
    """
    if not len(table):
        raise ValueError("table: no run to draw; did table.where() leave none?")
    bar = bar_of(table) if bar is None else bar
    flat = y is None or y not in table.columns
    if over is None or flat:
        (panel,) = _axes(1, ax, _rows(table, y), compact)
        if flat:
            lines.draw(
                table, panel, x=x, value=value, over=over, theory=theory, better=better, bar=bar, compact=compact
            )
        else:
            _map(table, [(None, table)], over, [panel], x, y or "", value, theory, better, bar, contours, compact)
        return panel
    parts = [(key[over], part) for key, part in rows_of(table, [over])]
    if len(parts) > MOST_PANELS:
        raise ValueError(
            f"over: {over} takes {len(parts)} values, at most {MOST_PANELS} panels are drawn; keep fewer"
        )
    panels = _axes(len(parts), ax, _rows(table, y), compact)
    _map(table, parts, over, panels, x, y or "", value, theory, better, bar, contours, compact)
    return np.array(panels, dtype=object)


def _rows(table: Table, y: str | None) -> int:
    return len(set(table.columns.get(y or "", [None] * 6)))


def _axes(number: int, given: Any, rows: int, compact: bool) -> list[Axes]:
    if given is not None:
        panels = [given] if number == 1 and not isinstance(given, (Sequence, np.ndarray)) else list(np.ravel(given))
        if len(panels) < number:
            raise ValueError(f"ax: {number} panels are needed, got {len(panels)} axes")
        return panels[:number]
    from matplotlib import pyplot as plt

    across = min(number, 1 if compact else 3)
    down = -(-number // across)
    width = 3.4 if compact else 6.4 if number == 1 else min(3.1 * across + 0.9, 10.5)
    height = (1.7 if number == 1 else 1.0) + down * (0.75 + min(max(0.3 * rows, 1.2), 4.0))
    grid = plt.subplots(down, across, figsize=(width, height), squeeze=False, layout="constrained")[1]
    panels = list(grid.ravel())
    for spare in panels[number:]:
        spare.remove()
    return panels[:number]


def _map(
    table: Table,
    parts: list[tuple[Any, Table]],
    over: str | None,
    panels: list[Axes],
    x: str,
    y: str,
    value: str,
    theory: Theory | None,
    better: Better,
    bar: float,
    contours: bool,
    compact: bool,
) -> None:
    """One colour scale and one legend for all panels."""
    look = looks.Look.of(table, [part for _, part in parts], x, y, value, better, bar)
    keys: dict[str, Any] = {}
    for (value_of_over, part), ax in zip(parts, panels, strict=True):
        own = {name: _of_panel(lines, value_of_over) for name, lines in (theory or {}).items()}
        keys |= maps.draw(part, ax, look, theory=own, with_contours=contours)
        if value_of_over is not None and over is not None:
            ax.set_title(f"{axis_words(over)} {axis_value(over, value_of_over)}", fontsize="medium", loc="left")
    low, high = (edge(ax.get_xlim()[i] for ax in panels) for i, edge in enumerate((min, max)))
    first_column = {round(ax.get_position().x0, 3) for ax in panels}
    for ax in panels:
        ax.set_xlim(low, high)  # panels compare
        if len(panels) > 1 and round(ax.get_position().x0, 3) != min(first_column):
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    figure = panels[0].get_figure()
    if figure is not None:
        looks.colour_bar(figure, panels, look, compact=compact)
        if compact:
            for ax in figure.axes:
                ax.tick_params(labelsize="small")
                ax.xaxis.label.set_fontsize("small")
                ax.yaxis.label.set_fontsize("small")
        _legend(figure, panels, keys, compact)


def _of_panel(lines: Any, value: Any) -> Any:
    """The prediction of one panel, where it is given by panel."""
    return lines[value] if isinstance(lines, Mapping) and value in lines else lines


def _legend(figure: Figure | Any, panels: list[Axes], keys: Mapping[str, Any], compact: bool) -> None:
    """Above the data, never on it."""
    from matplotlib.legend_handler import HandlerTuple

    if not keys:
        return
    small = "x-small" if compact else "small"
    options: dict[str, Any] = {"frameon": False, "fontsize": small, "handlelength": 1.8, "columnspacing": 1.2}
    options |= {"ncols": 2 if compact else 3, "handler_map": {tuple: HandlerTuple(ndivide=1)}}
    if figure.get_layout_engine() is not None:
        figure.legend(keys.values(), keys.keys(), loc="outside upper left", borderaxespad=0.1, **options)
    else:
        panels[0].legend(keys.values(), keys.keys(), loc="lower left", bbox_to_anchor=(0, 1.01), **options)
