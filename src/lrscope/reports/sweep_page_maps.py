"""Which maps the report of a sweep shows, drawn wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lrscope.records import Table
from lrscope.reports.numbers import capital, listing
from lrscope.reports.phase.cells import best_cell, finite, in_order
from lrscope.reports.phase.diagram import MOST_PANELS, draw_phase
from lrscope.reports.phase.words import axis_value, axis_words
from lrscope.reports.pictures import NARROW, WIDE, Picture
from lrscope.reports.svg import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CELLS = 2_500
"""Cells that a drawing of the page holds; larger maps are left to ``phase.png`` and the table."""


def varied(axes: Mapping[str, Sequence[Any]]) -> tuple[str | None, list[str]]:
    """The axis to the right, the learning rate where it varies, and the others that take several values."""
    several = [name for name, values in axes.items() if len(values) > 1 and name != "seed"]
    numbers = [name for name in several if all((finite(v) or 0) > 0 for v in axes[name])]
    x = "lr" if "lr" in several else numbers[0] if numbers else None
    return x, sorted((name for name in several if name != x), key=lambda name: name != "warmup")


def section(table: Table, x: str, others: Sequence[str]) -> tuple[Table, list[str]]:
    """The part of a table that a drawing shows: of axes beyond the second beside x, the best cell's value."""
    top = best_cell(table, x, others)
    fixed = {name: top.axes[name] if top else in_order(table, name)[0] for name in others[2:]}
    return table.where(**fixed), [f"{axis_words(name)} {axis_value(name, value)}" for name, value in fixed.items()]


def maps(table: Table, axes: Mapping[str, Sequence[Any]]) -> Iterator[Picture]:
    """Evaluation loss, final loss and what happened, as far as they were recorded."""
    x, others = varied(axes)
    if x is None or len(table) == 0:
        return
    part, fixed = section(table, x, others)
    if len(others) > 1 and len(in_order(part, others[1])) > MOST_PANELS:
        part, more = section(part, x, [others[0], others[0], others[1]])
        fixed, others = fixed + more, others[:1]
    if len({(row[x], *(row[o] for o in others)) for row in part.rows()}) > MOST_CELLS:
        return
    for value, what in (
        ("eval_loss", "Evaluation loss at the end"),  # the one that judges first: its star is the best cell
        ("final_loss", "Final training loss"),
        ("regime", "What happened"),
    ):
        if any(v is not None for v in part.columns.get(value, ())):
            names = [axis_words(name) for name in (x, *others[:2])]
            takeaway = f"{what} over {listing(names)}" + (f", at {listing(fixed)}" if fixed else "")
            yield _picture(part, x, list(others[:2]), value, takeaway)


def _picture(table: Table, x: str, others: list[str], value: str, takeaway: str) -> Picture:
    rows = len(in_order(table, others[0])) if others else 0
    panels = len(in_order(table, others[1])) if len(others) > 1 else 1

    def svg(width: int, compact: bool) -> str:
        across = 1 if compact else min(panels, 3)
        height = 120 + -(-panels // across) * (70 + (max(150, min(24 * rows, 340)) if rows else 230)) + 40 * compact
        draw = partial(_draw, table=table, x=x, others=others, value=value, across=across, compact=compact)
        return render(
            draw, f"{value}-{'narrow' if compact else 'wide'}", width, height, compact=compact, alt=takeaway
        )

    return Picture(value, "maps", takeaway, _how(others, value), svg(WIDE, False), svg(NARROW, True))


def _draw(figure: Figure, *, table: Table, x: str, others: list[str], value: str, across: int, compact: bool) -> None:
    y, over = (others[0] if others else None), (others[1] if len(others) > 1 else None)
    if over is None:
        draw_phase(table, x=x, y=y, value=value, ax=figure.add_subplot(), compact=compact)
        return
    panels = len(in_order(table, over))
    every = figure.subplots(-(-panels // across), across, squeeze=False).ravel()
    for spare in every[panels:]:
        spare.remove()
    draw_phase(table, x=x, y=y, value=value, over=over, ax=every, compact=compact)


def _how(others: list[str], value: str) -> str:
    if not others:
        return (
            "Line: median over seeds, band: smallest to largest. Crosses at the top: did not train. The upright "
            "stroke there: the largest rate that trains, with its interval over seeds. Star: the best."
        )
    panels = f"one panel for each {axis_words(others[1])}, " if len(others) > 1 else ""
    text = capital(f"{panels}one row for each {axis_words(others[0])}. ")
    if value == "regime":
        return text + "Colour: what most seeds did. Line: the largest rate that trains, with its interval over seeds."
    return (
        text + "Colour: median over seeds, bright is good. Hatched: most seeds diverged; grey: they finished without "
        "getting anywhere. Line: the largest rate that trains, half way between the rates around it; bars: its "
        "interval over seeds. Points: the best rate of each row; star: the best cell; thin lines: so far above it."
    )
