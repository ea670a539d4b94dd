"""From one segment of the text, whose place in the horizon is known, to its shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean
from lrscope.schedules.combine import nonzero_warmup
from lrscope.schedules.grammar import Quantity, Segment
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Ramp, Sqrt
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise

if TYPE_CHECKING:
    from lrscope.schedules.text import Builder


def nearest(exact: Fraction) -> int:
    return math.floor(exact + Fraction(1, 2))  # halves go up everywhere, so whole lengths stay whole


def say(exact: Fraction) -> str:
    return f"{float(exact):.10g}"


@dataclass(frozen=True)
class PlacedSegment:
    """One segment whose place in the horizon is known."""

    builder: Builder
    node: Segment
    begin: Fraction
    end: Fraction | None
    entry: float | None

    def schedule(self) -> Schedule:
        node = self.node
        if node.name not in SHAPES:
            self.builder.fail(node, f"unknown segment {node.name[:40]!r}; {did_you_mean(node.name, SHAPES)}")
        options, make = SHAPES[node.name]
        for name, place in node.places.items():
            if name not in options:
                known = did_you_mean(name, options)
                self.builder.fail(place, f"{node.name} has no option {name[:40]!r}; {known}; a length comes first")
        if node.length is not None and node.length.number > 0 and self.after(node.length) == 0:
            self.builder.fail(node.length, "rounds to no step of this horizon; write 0 or 1 step")
        try:
            return make(self)
        except ScheduleError as error:
            if str(error).startswith("schedule text"):
                raise
            return self.builder.fail(node, str(error))

    def steps(self) -> int | None:
        return None if self.end is None else nearest(self.end) - nearest(self.begin)

    def some_steps(self) -> int:
        steps = self.steps()
        if steps is None:
            return self.builder.fail(self.node, f"{self.node.name} needs a length, or parse(...) a horizon")
        return steps

    def value(self, name: str, default: float | None = None) -> float:
        """A plain number."""
        given = self.node.options.get(name)
        if given is None:
            if default is None:
                return self.builder.fail(self.node, f"{self.node.name} needs {name}=")
            return default
        if isinstance(given, list) or given.unit is not None:
            return self.builder.fail(self.node.places[name], f"{name}= must be one plain number, without a unit")
        return given.number

    def several(self, name: str) -> list[Quantity]:
        given = self.node.options.get(name)
        if not isinstance(given, list):
            return self.builder.fail(
                self.node.places.get(name, self.node.place), f"{self.node.name} needs {name}=[...], a list"
            )
        return given

    def after(self, q: Quantity) -> int:
        """Whole steps from the segment's begin."""
        return nearest(self.begin + self.builder.in_steps(q)) - nearest(self.begin)

    @property
    def start(self) -> float:
        return self.value("from", 1.0 if self.entry is None else self.entry)


def _ramp(shape: type[Ramp]) -> Callable[[PlacedSegment], Schedule]:
    return lambda at: shape(at.start, at.value("to", 0.0), at.some_steps())


def _warmup(at: PlacedSegment) -> Schedule:
    return Linear(at.value("from", 0.0 if at.entry is None else at.entry), at.value("to", 1.0), at.some_steps())


def _nonzero_warmup(at: PlacedSegment) -> Schedule:
    if at.node.length is None:
        at.builder.fail(at.node, "nonzero_warmup needs a length")
    return nonzero_warmup(at.some_steps() + 1)  # its place is the steps before the peak, one less than its length


def _polynomial(at: PlacedSegment) -> Schedule:
    return Polynomial(at.start, at.value("to", 0.0), at.some_steps(), at.value("power"))


def _exponential(at: PlacedSegment) -> Schedule:
    return Exponential(at.start, at.value("to"), at.some_steps())


def _constant(at: PlacedSegment) -> Schedule:
    return Constant(at.value("value", 1.0 if at.entry is None else at.entry), at.steps())


def _inverse_sqrt(at: PlacedSegment) -> Schedule:
    timescale = at.node.options.get("timescale")
    if not isinstance(timescale, Quantity):
        return at.builder.fail(at.node, "inverse_sqrt needs timescale=, a length")
    return InverseSqrt(at.start, at.after(timescale), at.steps())


def _piecewise(at: PlacedSegment) -> Schedule:
    levels = [q.number if q.unit is None else at.builder.fail(q, "a level has no unit") for q in at.several("values")]
    return Piecewise(tuple(levels), tuple(at.after(q) for q in at.several("at")), at.steps())


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[PlacedSegment], Schedule]]] = {
    "warmup": (("from", "to"), _warmup),
    "nonzero_warmup": ((), _nonzero_warmup),
    "constant": (("value",), _constant),
    "linear": (("from", "to"), _ramp(Linear)),
    "cosine": (("from", "to"), _ramp(Cosine)),
    "sqrt": (("from", "to"), _ramp(Sqrt)),
    "poly": (("from", "to", "power"), _polynomial),
    "exp": (("from", "to"), _exponential),
    "inverse_sqrt": (("from", "timescale"), _inverse_sqrt),
    "piecewise": (("values", "at"), _piecewise),
}
