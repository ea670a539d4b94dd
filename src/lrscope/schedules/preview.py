"""See a schedule before any model exists: a line of text, a chart for the terminal, rows for a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule
from lrscope.schedules.checks import short
from lrscope.schedules.combine import Join, Product
from lrscope.schedules.shapes import Constant
from lrscope.schedules.write import to_text

_BLOCKS = " ▁▂▃▄▅▆▇█"


def sparkline(values: ArrayLike, width: int = 60) -> str:
    """The values, shape ``(n,)``, as one line of ``width`` characters, from 0 to their maximum.

    Example:
        >>> from lrscope.schedules import Linear
        >>> sparkline(Linear(0.0, 1.0, 8).values(9), width=9)
        ' ▁▂▃▄▅▆▇█'
    """
    columns, low, high = _columns(values, width)
    return "".join(_BLOCKS[i] for i in _levels(columns, low, high, 8))


def chart(values: ArrayLike, *, width: int = 72, height: int = 8, steps: int | None = None) -> str:
    """A chart of the values, shape ``(n,)``, for the terminal: ``height`` rows of blocks with labelled axes.

    Each column shows the largest value of the steps it covers, so a short peak stays visible.

    Args:
        values: One value per step, from step 0.
        width: Characters in a line, axis labels included; 20 or more.
        height: Rows of the plot, 2 or more.
        steps: Steps in the run, if the values are an even sample of it.

    Example:
        >>> from lrscope.schedules import Linear
        >>> print(chart(Linear(0.0, 1.0, 10).values(), width=20, height=2))
           0.9 ┤      ▁▁▃▄▆█
             0 ┤  ▂▄▅▇██████
               └0          9
    """
    if width < 20 or height < 2:
        raise ScheduleError(f"chart: width must be 20 or more and height 2 or more, got {width} and {height}")
    count = np.size(values) if steps is None else steps
    _, low, high = _columns(values, 1)
    labels = max(8, *(len(f"{value:.3g}") + 2 for value in (low, high)))
    columns, low, high = _columns(values, width - labels)
    level = _levels(columns, low, high, 8 * height)
    lines = []
    for row in range(height - 1, -1, -1):
        name = f"{high:.3g}" if row == height - 1 else f"{low:.3g}" if row == 0 else ""
        blocks = "".join(_BLOCKS[i] for i in np.clip(level - 8 * row, 0, 8))
        lines.append(f"{name:>{labels - 2}} ┤{blocks}")
    last = str(count - 1)
    lines.append(" " * (labels - 1) + "└0" + last.rjust(max(width - labels - 1, len(last) + 1)))
    return "\n".join(line.rstrip() for line in lines)


def csv_rows(columns: Mapping[str, ArrayLike]) -> Iterator[list[str]]:
    """Rows of a table: ``step`` and one column per name; values are written so that they read back exactly.

    Example:
        >>> list(csv_rows({"lr": [0.1, 0.2]}))
        [['step', 'lr'], ['0', '0.1'], ['1', '0.2']]
    """
    yield ["step", *columns]
    for step, row in enumerate(zip(*(np.asarray(v, dtype=float).tolist() for v in columns.values()), strict=True)):
        yield [str(step), *map(repr, row)]


@dataclass(frozen=True)
class SegmentRow:
    """One part of a schedule with its resolved steps; ``last`` and ``end`` are ``None`` if it never ends."""

    text: str
    first: int
    last: int | None
    start: float
    end: float | None


def segments(schedule: Schedule) -> list[SegmentRow]:
    """The parts that follow each other, with steps and values as they run.

    ``last`` is the part's last step and ``end`` the value that it reaches one step later. Numbers that multiply
    one chain are multiplied in, so the values are those of the whole schedule.

    Example:
        >>> from lrscope.schedules import Cosine, warmup
        >>> for row in segments(0.1 * warmup(500).then(Cosine(1.0, 0.0, 9_500))):
        ...     print(row.first, row.last, row.start, row.end)
        0 499 0.0 0.1
        500 9999 0.1 0.0
    """
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"segments: needs a Schedule, got {short(schedule)}; text is read by parse")
    chain, scale = schedule, 1.0
    if isinstance(schedule, Product):
        joins = [f for f in schedule.factors if isinstance(f, Join)]
        numbers = [f for f in schedule.factors if isinstance(f, Constant) and f.steps is None]
        if len(joins) == 1 and len(numbers) + 1 == len(schedule.factors):
            chain, scale = joins[0], math.prod(f.value for f in numbers)
    parts = zip(chain.parts, chain.starts, strict=True) if isinstance(chain, Join) else [(chain, 0)]
    rows = []
    for part, first in parts:
        count, text = part.num_steps, _text(part)
        last, end = (None, None) if count is None else (first + count - 1, scale * part(count))
        rows.append(SegmentRow(text, first, last, scale * part(0), end))
    return rows


def _text(schedule: Schedule) -> str:
    try:
        return to_text(schedule)
    except ScheduleError:  # a shape of the user's own, or a long table
        return short(schedule, 200)


def _columns(values: ArrayLike, width: int) -> tuple[FloatArray, float, float]:
    """The largest value in each of ``width`` columns, and the range of the plot, which includes 0 if it can."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ScheduleError(f"values: must be one or more finite numbers, shape (n,), got shape {array.shape}")
    edges = np.linspace(0, array.size, width + 1)
    first = edges[:-1].astype(int)
    after = np.maximum(edges[1:].astype(int), first + 1)
    columns = np.array([array[a:b].max() for a, b in zip(first, after, strict=True)])
    return columns, min(float(array.min()), 0.0), max(float(array.max()), 0.0)


def _levels(columns: FloatArray, low: float, high: float, top: int) -> NDArray[np.int64]:
    """Eighths of a character, 0 to ``top``, for each column."""
    return np.rint((columns - low) / ((high - low) or 1.0) * top).astype(np.int64)
