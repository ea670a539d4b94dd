"""One seed of one row of an adaptive sweep: which rates to run next, from those that have run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

SKELETON = 4
"""Rates that a row begins with, spaced evenly in log x over the whole range."""
GUARD = 2
"""Rates of the grid right below the boundary that have to train, so that a lucky run above it does not move it."""
GOLDEN = (3 - math.sqrt(5)) / 2
GAP = 4.0
"""Ratio of neighbouring rates up to which a row is searched where no run trains; more closely it is given up."""
_EPS = 1e-9


class Point(NamedTuple):
    """A run: whether it trained (``None``: it raised an error), and what judges it, lower being better."""

    x: float
    trained: bool | None
    value: float


@dataclass(frozen=True)
class Line:
    """The runs of one seed along x.

    Attributes:
        grid: Values that a full sweep would run, rising.
        points: Those that ran, rising in x.
        seed: Which one.
    """

    grid: Sequence[float]
    points: Sequence[Point]
    seed: Any = None

    def start(self) -> list[float]:
        """Evenly spaced over the grid, its ends among them."""
        last = len(self.grid) - 1
        number = min(SKELETON, last + 1)
        return self.new(self.grid[round(i * last / (number - 1))] for i in range(number))

    @property
    def known(self) -> list[Point]:
        return [point for point in self.points if point.trained is not None]

    @property
    def best(self) -> Point | None:
        """The best run that trained."""
        return min((p for p in self.points if p.trained), key=lambda p: p.value, default=None)

    @property
    def bracket(self) -> tuple[float | None, float | None]:
        """The largest x that trains, going up from the best, and the first above it that does not."""
        best = self.best
        if best is None:
            return None, min((p.x for p in self.known), default=None)
        low = best.x
        for point in self.known:
            if point.x > low:
                if not point.trained:
                    return low, point.x
                low = point.x
        return low, None

    @property
    def middle(self) -> float | None:
        """Half way within the bracket, in log x; ``None`` where an end of it is open."""
        low, high = self.bracket
        return None if low is None or high is None else math.sqrt(low * high)

    @property
    def beside(self) -> tuple[float | None, float | None]:
        """The runs next to the best one, whatever became of them."""
        best = self.best
        if best is None:
            return None, None
        lower = [p.x for p in self.known if p.x < best.x]
        upper = [p.x for p in self.known if p.x > best.x]
        return max(lower, default=None), min(upper, default=None)

    def marks(self) -> list[float]:
        """The runs that decide: both ends of the bracket, the best, and those beside it."""
        best = self.best
        found = {*self.bracket, *self.beside, None if best is None else best.x}
        return sorted(x for x in found if x is not None)

    def for_boundary(self, resolution: float) -> list[float]:
        """What to run next so that the boundary is known to a ratio of ``resolution``; nothing if it is."""
        low, high = self.bracket
        if low is None:
            return self._for_any()
        if high is None:
            return self.new(x for x in self.grid if x > low)[:1]
        if high / low > resolution * (1 + _EPS):
            return self._between(low, high, math.sqrt(low * high))
        best = self.best
        below = [x for x in self.grid if best is not None and best.x * (1 + _EPS) < x < low * (1 - _EPS)]
        return self.new(below[-GUARD:])

    def for_best(self, resolution: float) -> list[float]:
        """What to run next so that the best run has neighbours within a ratio of ``resolution``."""
        best, (left, right) = self.best, self.beside
        if best is None:
            return []
        if left is None or right is None:
            outside = [x for x in self.grid if (x < best.x if left is None else x > best.x)]
            step = self.new(outside[-1:] if left is None else outside[:1])
            if step:
                return step
        sides = [(max(side / best.x, best.x / side), side) for side in (left, right) if side is not None]
        for ratio, side in sorted(sides, reverse=True):
            if ratio > resolution * (1 + _EPS):
                target = best.x * (side / best.x) ** GOLDEN
                if found := self._between(min(best.x, side), max(best.x, side), target):
                    return found
        return []

    def new(self, places: Any) -> list[float]:
        """Those that have not run."""
        return [x for x in places if not any(abs(x / p.x - 1) < _EPS for p in self.points)]

    def _between(self, low: float, high: float, target: float) -> list[float]:
        """The value of the grid inside that is nearest to the target; where there is none, the target."""
        inside = [x for x in self.grid if low * (1 + _EPS) < x < high * (1 - _EPS)]
        nearest = sorted(self.new(inside), key=lambda x: abs(math.log(x / target)))
        return nearest[:1] if inside else self.new([float(f"{target:.4g}")])

    def _for_any(self) -> list[float]:
        """Nothing has trained so far: look into the widest gaps."""
        ends = self.new((self.grid[0], self.grid[-1]))
        if ends or not self.known:
            return ends
        gaps = sorted(((b.x / a.x, a.x, b.x) for a, b in itertools.pairwise(self.points)), reverse=True)
        for ratio, low, high in gaps:
            if ratio > GAP and (found := self._between(low, high, math.sqrt(low * high))):
                return found
        return []


def line_of(grid: Sequence[float], runs: Mapping[float, tuple[bool | None, float | None]], seed: Any) -> Line:
    """From what ran at each x: whether it trained, and its value where lower is better (``None``: infinitely bad)."""
    points = [Point(x, ok, math.inf if value is None else value) for x, (ok, value) in sorted(runs.items())]
    return Line(tuple(grid), tuple(points), seed)
