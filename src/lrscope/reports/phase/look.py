"""What all panels of a phase diagram share: axes, colour scale, words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrscope.records import Table
from lrscope.reports import numbers
from lrscope.reports.phase.axes import is_log, round_ticks
from lrscope.reports.phase.cells import Better, Spot, in_order, ordered, rows_of, spots
from lrscope.reports.phase.words import axis_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap, Normalize

MAP = "viridis"
"""Bright is good. Perceptually even, and read alike with every common colour blindness."""


@dataclass(frozen=True)
class Look:
    """Read off the whole table, so that panels compare.

    Attributes:
        x, y, value, better: Columns, and which values are good.
        places: Every x tried, rising.
        rows: Values of y, in order.
        bar: Final loss below which a run counts as trained.
        words: Values of a column of text, in order; empty for numbers.
    """

    x: str
    y: str
    value: str
    better: Better
    places: tuple[float, ...]
    rows: tuple[Any, ...]
    norm: Normalize
    cmap: Colormap
    seeds: int
    bar: float
    words: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, table: Table, parts: Sequence[Table], x: str, y: str, value: str, better: Better, bar: float) -> Look:
        from matplotlib import colormaps
        from matplotlib.colors import LogNorm, Normalize

        for name in (x, y, value):
            if name not in table.columns:
                raise ValueError(
                    f"table: there is no column {name!r}; there are {', '.join(table.columns) or 'none'}"
                )
        every = [s for part in parts for _, one in rows_of(part, [y]) for s in spots_of(one, x, value, better, bar)]
        words = tuple(ordered(v for v in table[value] if isinstance(v, str)))
        seen = [s.value for s in every if s.value is not None and s.state == "trains"]
        low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
        log = low > 0 and high / low > 3
        norm = LogNorm(low, high) if log else Normalize(low, high if high > low else low + 1e-9 + abs(low) * 1e-3)
        # Fewer shades than matplotlib would rasterise a colour bar of: a page holds no images.
        cmap = colormaps[MAP if better == "high" else f"{MAP}_r"].resampled(48)
        rows = tuple(in_order(table, y))
        places = tuple(sorted({s.x for s in every}))
        return cls(
            x, y, value, better, places, rows, norm, cmap, max((s.seeds for s in every), default=1), bar, words
        )

    @property
    def log(self) -> bool:
        return is_log(self.places)

    def spots(self, row: Table) -> list[Spot]:
        return spots_of(row, self.x, self.value, self.better, self.bar)

    def colours(self, spot: Spot) -> Any:
        return self.cmap(float(self.norm(spot.value or 0.0)))


def spots_of(part: Table, x: str, value: str, better: Better, bar: float) -> list[Spot]:
    """Places of one row; of a column of text only whether they trained."""
    if any(isinstance(v, str) for v in part.columns[value]):
        return spots(part, x, value=x, bar=bar)
    return spots(part, x, value=value, better=better, bar=bar)


def colour_bar(figure: Any, panels: Sequence[Axes], look: Look, *, compact: bool) -> None:
    if look.words:
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import FuncFormatter, NullLocator

    scale: ScalarMappable = ScalarMappable(look.norm, look.cmap)
    # A bar that stands may be shorter than its words.
    over = "" if look.seeds < 2 else f"{', ' if compact else chr(10)}median of {look.seeds} seeds"
    label = axis_words(look.value) + over
    where = (
        {"location": "bottom", "shrink": 1.0, "aspect": 30, "pad": 0.03} if compact else {"aspect": 24, "pad": 0.02}
    )
    bar = figure.colorbar(scale, ax=list(panels), label=label, **where)
    bar.outline.set_visible(False)
    bar.solids.set_edgecolor("face")
    long = bar.ax.xaxis if compact else bar.ax.yaxis
    low, high = float(look.norm.vmin or 0), float(look.norm.vmax or 1)
    bar.set_ticks(round_ticks(low, high, log=type(look.norm).__name__ == "LogNorm", most=4 if compact else 6))
    long.set_minor_locator(NullLocator())
    long.set_major_formatter(FuncFormatter(lambda v, _: numbers.lr(float(f"{v:.3g}"))))
