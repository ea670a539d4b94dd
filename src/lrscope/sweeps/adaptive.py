"""Where to put the next runs of a sweep: around the boundary and around the best rate of each row, not everywhere.

Everything is decided from the table of the runs so far, so a sweep that was stopped goes on as if it never had been.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lrscope.records import Table
from lrscope.reports import numbers
from lrscope.reports.phase.cells import Better, bar_of, finite, trains
from lrscope.reports.phase.words import MOST_ROWS, row_name
from lrscope.sweeps.search import Line, line_of

Wanted = list[tuple[Line, list[float]]]


class Adaptive:
    """Proposes the cells of a sweep in rounds: the boundary by bisection, the best rate by golden section, in log x.

    Each row of the map begins with four rates of the first seed. The gap between the largest rate that trains and
    the first above it that does not is halved until it is as fine as the resolution, and two rates right below have
    to train, too; golden sections narrow the best rate down likewise. Then the other seeds run where the first one
    ended, and each goes on by itself where it differs. Only a resolution finer than the grid looks between its rates,
    and only as long as the seeds agree to within what is known already.

    It assumes that the loss has one minimum along x, and that what fails above the boundary keeps failing but for
    single rates: :meth:`skipped` says what was not looked at.

    Args:
        axes: Values of each axis by name, ``seed`` among them; those of ``x`` are positive numbers.
        x: Axis along which to look.
        resolution: Ratio of neighbouring rates at which to stop; by default that of the grid.
        value, better: Column that judges, and whether low or high is good.

    Raises:
        ValueError: No axis ``x``, fewer than three values of it, one that is not positive, or a resolution of 1 or
            below.

    Example:
        >>> planner = Adaptive({"lr": [2.0**k for k in range(-8, 5)], "seed": [0]})
        >>> [point["lr"] for point in planner.next(Table())]
        [0.00390625, 0.0625, 1.0, 16.0]
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[Any]],
        *,
        x: str = "lr",
        resolution: float | None = None,
        value: str = "final_loss",
        better: Better = "low",
    ) -> None:
        if x not in axes:
            raise ValueError(f"adaptive: there is no axis {x!r} to look along; there are {', '.join(axes) or 'none'}")
        places = [finite(v) or 0.0 for v in axes[x]]
        if not places or min(places) <= 0:
            raise ValueError(f"adaptive: {x} has to be positive numbers, got {list(axes[x])!r}")
        if len(set(places)) < 3:
            raise ValueError(f"adaptive: {x} needs three values or more to look between, got {len(set(places))}")
        if resolution is not None and not 1 < resolution < math.inf:
            raise ValueError(f"adaptive: resolution is a ratio above 1, such as 1.2, got {resolution!r}")
        self.x, self.value, self.better = x, value, better
        self.grid = sorted(set(places))
        self.seeds = list(axes.get("seed", [None]))
        coarse = max(b / a for a, b in itertools.pairwise(self.grid))
        self.resolutions = list(_halved(coarse, resolution or coarse))
        names = [name for name in axes if name not in (x, "seed")]
        self.rows = [dict(zip(names, one, strict=True)) for one in itertools.product(*(axes[n] for n in names))]
        self._several = [name for name in names if len(axes[name]) > 1]
        self._lines: list[list[Line]] = [[line_of(self.grid, {}, s) for s in self.seeds] for _ in self.rows]

    def next(self, table: Table) -> list[dict[str, Any]]:
        """The cells to run now, each by its value on every axis; empty if there is nothing left to ask.

        Args:
            table: All runs so far, those in flight not among them.
        """
        self._lines = self._read(table)
        return [
            {**key, self.x: place, **({} if line.seed is None else {"seed": line.seed})}
            for key, lines in zip(self.rows, self._lines, strict=True)
            for line, places in self._wanted(lines)
            for place in places
        ]

    def skipped(self) -> list[str]:
        """What was not run, and why, as of the table that :meth:`next` saw last."""
        ran = sum(len(line.points) for lines in self._lines for line in lines)
        between = sum(bool(self._off_grid(p.x)) for lines in self._lines for line in lines for p in line.points)
        full = len(self.rows) * len(self.seeds) * len(self.grid)
        said = [f"{numbers.plural(ran, 'run')} instead of the {numbers.count(full)} of the full grid"]
        said[0] += f", {numbers.count(between)} of them at rates between its own." if between else "."
        left: dict[str, list[str]] = {}
        for key, lines in zip(self.rows, self._lines, strict=True):
            if text := self._left_out(lines):
                left.setdefault(text, []).append(self._name(key))
        for text, names in list(left.items())[:MOST_ROWS]:
            everywhere = len(names) == len(self.rows) > 1
            where = "in every row" if everywhere else numbers.listing([n for n in names if n])
            said.append(f"Not run {where}".rstrip() + f": {text}.")
        if len(left) > MOST_ROWS:
            said.append("Other rows likewise.")
        for key, lines in zip(self.rows, self._lines, strict=True):
            said += self._unrefined(key, lines)
        said.append(
            "This takes for granted that the loss has one minimum, and that above the boundary nothing trains but "
            "single rates; the two rates below each boundary were checked."
        )
        return said

    def _read(self, table: Table) -> list[list[Line]]:
        """One line for each row and seed."""
        runs: dict[tuple[Any, ...], dict[float, tuple[bool | None, float | None]]] = {}
        bar = bar_of(table) if len(table) else math.inf
        sign = 1 if self.better == "low" else -1
        names = [*(self.rows[0] if self.rows else {}), "seed"]
        for row in table.rows():
            at = tuple(row.get(name) for name in names)
            value = finite(row.get(self.value))
            said = trains(row, bar=bar), None if value is None else sign * value
            runs.setdefault(at, {})[float(row[self.x])] = said
        return [
            [line_of(self.grid, runs.get((*key.values(), seed), {}), seed) for seed in self.seeds]
            for key in self.rows
        ]

    def _wanted(self, lines: list[Line]) -> Wanted:
        """What one row needs next: the first seed leads, the others follow, finer only where they agree."""
        first = lines[0]
        if not first.points:
            return [(first, first.start())]
        coarse = self.resolutions[0]
        if found := _next(first, coarse, coarse):
            return [(first, found)]
        for i, resolution in enumerate(self.resolutions):
            before = self.resolutions[max(i - 1, 0)]
            edge = resolution if i == 0 or _spread([line.middle for line in lines]) <= before else math.inf
            best = resolution if i == 0 or _spread([_best(line) for line in lines]) <= before else math.inf
            wanted = [(line, _next(line, edge, best) if line.points else line.new(first.marks())) for line in lines]
            if wanted := [(line, places) for line, places in wanted if places]:
                return wanted
        return []

    def _off_grid(self, x: float) -> bool:
        return all(abs(x / g - 1) > 1e-9 for g in self.grid)

    def _name(self, key: Mapping[str, Any]) -> str:
        """A row by what tells it from others."""
        return row_name({name: key[name] for name in self._several})

    def _left_out(self, lines: list[Line]) -> str | None:
        if not any(line.best for line in lines):
            return "what lies between the rates tried, none of which trained"
        tried = {p.x for line in lines for p in line.points}
        left = [x for x in self.grid if all(abs(x / t - 1) > 1e-9 for t in tried)]
        ends = [line.bracket[1] for line in lines]
        best = [b.x for line in lines if (b := line.best) is not None]
        above = [x for x in left if None not in ends and x > max(e for e in ends if e is not None)]
        below = [x for x in left if x < min(best)]
        inside = [x for x in left if x not in above and x not in below]
        parts = [
            f"{_range(places)} ({why})"
            for places, why in (
                (below, "below the best"),
                (inside, "between best and boundary"),
                (above, "beyond it"),
            )
            if places
        ]
        return numbers.listing(parts) if parts else None

    def _unrefined(self, key: Mapping[str, Any], lines: list[Line]) -> Iterator[str]:
        """Where a finer resolution was asked for than the seeds agree to."""
        if len(self.resolutions) < 2 or len(lines) < 2:
            return
        for what, places in (
            ("the boundary", [line.middle for line in lines]),
            ("the best rate", [_best(line) for line in lines]),
        ):
            if (spread := _spread(places)) > self.resolutions[-1] and math.isfinite(spread):
                where = numbers.capital(self._name(key) or "along the grid")
                yield (
                    f"{where}, {what} differs between seeds by a factor of {spread:.3g}; it was not sought more "
                    "finely than that."
                )


def _halved(coarse: float, fine: float) -> Iterator[float]:
    """Ratios from the grid's own to the one asked for, each the square root of the one before."""
    now = max(coarse, fine)
    while now > fine * (1 + 1e-9):
        yield now
        now = max(math.sqrt(now), fine)
    yield now


def _next(line: Line, edge: float, best: float) -> list[float]:
    return list(dict.fromkeys([*line.for_boundary(edge), *line.for_best(best)]))


def _best(line: Line) -> float | None:
    return None if line.best is None else line.best.x


def _spread(places: Sequence[float | None]) -> float:
    """Largest over smallest; infinite where one is open."""
    known = [p for p in places if p is not None]
    return max(known) / min(known) if known and len(known) == len(places) else math.inf


def _range(places: Sequence[float]) -> str:
    low, high = numbers.lr(places[0]), numbers.lr(places[-1])
    return low if len(places) == 1 else f"{low} and {high}" if len(places) == 2 else f"{low} to {high}"
