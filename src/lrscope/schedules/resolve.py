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
from lrscope.schedules.cycles import CosineWave, StepDecay, WarmRestarts
from lrscope.schedules.feedback import listening_kinds
from lrscope.schedules.grammar import NUMBER, Quantity, Segment, Word
from lrscope.schedules.operations import Bounded, Clip, Repeat, Reverse, Stretch
from lrscope.schedules.ramps import Cosine, Exponential, Linear, Polynomial, Ramp, Sqrt
from lrscope.schedules.shapes import Constant, InverseSqrt, Piecewise
from lrscope.schedules.table import ExponentialWarmup, Table

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
            known = did_you_mean(node.name, [*SHAPES, *listening_kinds()])
            known = f"write it as {RECIPES[node.name]}" if node.name in RECIPES else known
            self.builder.fail(node, f"unknown segment {node.name[:40]!r}; {known}")
        options, make = SHAPES[node.name]
        for name, place in node.places.items():
            if name not in options:
                known = did_you_mean(name, options)
                self.builder.fail(place, f"{node.name} has no option {name[:40]!r}; {known}; a length comes first")
            if isinstance(word := node.options[name], Word):
                self.builder.fail(word.place, NUMBER)
        if node.length is not None and node.length.number > 0 and self.after(node.length) == 0:
            self.builder.fail(node.length, "rounds to no step of this horizon; write 0 or 1 step")
        if node.length is not None and node.name in ("table", "exp_warmup"):
            given = "values=" if node.name == "table" else "timescale="
            self.builder.fail(node.length, f"{node.name} is as long as its {given} says; cut it with first(...)")
        return make(self)

    def steps(self) -> int | None:
        return None if self.end is None else nearest(self.end) - nearest(self.begin)

    def some_steps(self) -> int:
        steps = self.steps()
        if steps is None:
            return self.builder.fail(self.node, f"{self.node.name} needs a length, or parse(...) a horizon to fill")
        return steps

    def value(self, name: str, default: float | None = None) -> float:
        """A plain number."""
        given = self.node.options.get(name)
        if given is None:
            if default is None:
                return self.builder.fail(self.node, f"{self.node.name} needs {name}=")
            return default
        if not isinstance(given, Quantity) or given.unit is not None:
            return self.builder.fail(self.node.places[name], f"{name}= must be one plain number, without a unit")
        return given.number

    def several(self, name: str) -> list[Quantity]:
        given = self.node.options.get(name)
        if not isinstance(given, list):
            return self.builder.fail(
                self.node.places.get(name, self.node.place), f"{self.node.name} needs {name}=[...], a list"
            )
        return given

    def numbers(self, name: str) -> list[float]:
        return [
            q.number if q.unit is None else self.builder.fail(q, "a value has no unit") for q in self.several(name)
        ]

    def after(self, q: Quantity) -> int:
        """Whole steps from the segment's begin."""
        return nearest(self.begin + self.builder.in_steps(q)) - nearest(self.begin)

    def real(self, name: str, default: float | None = None) -> float:
        """A number of steps that need not be whole."""
        given = self.node.options.get(name)
        if isinstance(given, Quantity) and given.unit is not None:
            return float(self.builder.in_steps(given))
        return self.value(name, default)

    def length(self, name: str) -> int:
        """A whole number of steps."""
        given = self.node.options.get(name)
        if not isinstance(given, Quantity):
            return self.builder.fail(self.node, f"{self.node.name} needs {name}=, a length")
        return nearest(self.builder.in_steps(given))

    def inner(self) -> Schedule:
        """The schedule that an operation works on, of a length of its own."""
        node = self.node.inner
        length = None if node is None else self.builder.length(node)
        end = None if length is None else Fraction(nearest(length))
        return self.builder.build(node or self.node, Fraction(0), end, None)

    def inner_here(self) -> Schedule:
        """The schedule that an operation works on, in the operation's own place."""
        return self.builder.build(self.node.inner or self.node, self.begin, self.end, None)

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
    boundaries = tuple(at.after(q) for q in at.several("at"))
    return Piecewise(tuple(at.numbers("values")), boundaries, at.steps())


def _table(at: PlacedSegment) -> Schedule:
    return Table(tuple(at.numbers("values")))


def _step(at: PlacedSegment) -> Schedule:
    every = at.length("every") if "every" in at.node.options else 1
    return StepDecay(at.value("factor"), every, at.steps())


def _wave(at: PlacedSegment) -> Schedule:
    return CosineWave(at.start, at.value("to", 0.0), at.real("period"), at.steps())


def _restarts(at: PlacedSegment) -> Schedule:
    mult, decay = at.value("mult", 1.0), at.value("decay", 1.0)
    return WarmRestarts(at.start, at.value("to", 0.0), at.real("period"), mult, decay, at.steps())


def _clip(at: PlacedSegment) -> Schedule:
    low, high = (at.value(name) if name in at.node.options else None for name in ("low", "high"))
    return Clip(at.inner_here(), low, high)


def _cut(schedule: Schedule, at: PlacedSegment) -> Schedule:
    """``schedule``; one that never ends is cut where its place ends, if that is known."""
    steps = at.steps()
    return schedule if steps is None or schedule.num_steps is not None else schedule.first(steps)


def _repeat(at: PlacedSegment) -> Schedule:
    if "times" in at.node.options:
        times = at.value("times")
        if times != int(times):
            at.builder.fail(at.node.places["times"], f"times= must be a whole number, got {times:g}")
        return Repeat(at.inner(), int(times))
    return _cut(Repeat(at.inner()), at)


SHAPES: dict[str, tuple[tuple[str, ...], Callable[[PlacedSegment], Schedule]]] = {
    "warmup": (("from", "to"), _warmup),
    "nonzero_warmup": ((), _nonzero_warmup),
    "exp_warmup": (("timescale",), lambda at: ExponentialWarmup(at.real("timescale"))),
    "constant": (("value",), _constant),
    "linear": (("from", "to"), _ramp(Linear)),
    "cosine": (("from", "to"), _ramp(Cosine)),
    "sqrt": (("from", "to"), _ramp(Sqrt)),
    "poly": (("from", "to", "power"), _polynomial),
    "exp": (("from", "to"), _exponential),
    "inverse_sqrt": (("from", "timescale"), _inverse_sqrt),
    "piecewise": (("values", "at"), _piecewise),
    "table": (("values",), _table),
    "step": (("factor", "every"), _step),
    "wave": (("from", "to", "period"), _wave),
    "restarts": (("from", "to", "period", "mult", "decay"), _restarts),
    "clip": (("low", "high"), _clip),
    "first": (("steps",), lambda at: at.inner().first(at.length("steps"))),
    "after": (("steps",), lambda at: _cut(at.inner().after(at.length("steps")), at)),
    "shift": (("by",), lambda at: _cut(at.inner().shift(at.length("by")), at)),
    "stretch": (("to",), lambda at: Stretch(at.inner(), at.some_steps())),
    "repeat": (("times",), _repeat),
    "reverse": ((), lambda at: Reverse(at.inner_here())),
    "bounded": ((), lambda at: Bounded(at.inner_here())),
}
"""By name: the options, and from a placed segment to its shape."""


RECIPES = {
    "wsd": "nonzero_warmup(5%) > constant > sqrt(20%)",
    "one_cycle": "cosine(30%, from=0.04, to=1) > cosine(to=4e-6)",
    "triangular": "repeat(linear(100, from=0, to=1) > linear(100, from=1, to=0))",
    "multistep": "piecewise(values=[1, 0.1, 0.01], at=[30%, 60%])",
}
"""What is no segment but made of several, by the name under which it is known."""


def given_length(builder: Builder, node: Segment) -> Fraction | None:
    """Steps that the text gives to a segment or operation; ``None``: the rest of what there is."""

    def option(name: str) -> Fraction | None:
        given = node.options.get(name)
        return Fraction(nearest(builder.in_steps(given))) if isinstance(given, Quantity) else None

    def inner() -> Fraction | None:
        length = None if node.inner is None else builder.length(node.inner)
        return None if length is None else Fraction(nearest(length))

    match node.name:
        case "clip" | "reverse" | "bounded" if node.inner is not None:
            return builder.length(node.inner)
        case "stretch":
            return option("to")
        case "first":
            return option("steps")
        case "after":
            length, skipped = inner(), option("steps")
            return None if length is None or skipped is None else max(length - skipped, Fraction(0))
        case "shift":
            length, late = inner(), option("by")
            return None if length is None or late is None else length + late
        case "repeat":
            length, times = inner(), node.options.get("times")
            if length is None or not isinstance(times, Quantity):
                return None
            return length * max(Fraction(times.number), Fraction(0))
        case "table":
            values = node.options.get("values")
            return Fraction(len(values)) if isinstance(values, list) else None
        case "exp_warmup":
            given = node.options.get("timescale")
            number = given.number if isinstance(given, Quantity) else 0.0
            exact = float(builder.in_steps(given)) if isinstance(given, Quantity) and given.unit else number
            try:
                return Fraction(ExponentialWarmup(exact).num_steps)
            except ScheduleError:  # told where it is built
                return None
        case "nonzero_warmup" if node.length is not None:
            # Its peak is step 0 of what follows.
            return max(builder.in_steps(node.length) - 1, Fraction(0))
    return None if node.length is None else builder.in_steps(node.length)
