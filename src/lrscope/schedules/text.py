"""From the text of a schedule and a horizon to the schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, overload

from lrscope.errors import ScheduleError
from lrscope.schedules import grammar
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import MAX_STEPS
from lrscope.schedules.combine import Join, Product, Sum
from lrscope.schedules.feedback import FeedbackSchedule
from lrscope.schedules.grammar import Chain, Node, Plus, Quantity, Segment, Times
from lrscope.schedules.horizon import Horizon
from lrscope.schedules.resolve import PlacedSegment, given_length, nearest, say
from lrscope.schedules.shapes import Constant
from lrscope.schedules.spoken import apart


@overload
def parse(text: str, horizon: Horizon | int | None = None, *, listening: Literal[False] = False) -> Schedule: ...


@overload
def parse(text: str, horizon: Horizon | int | None = None, *, listening: bool) -> Schedule | FeedbackSchedule: ...


def parse(text: str, horizon: Horizon | int | None = None, *, listening: bool = False) -> Schedule | FeedbackSchedule:
    """The schedule that a line of text describes.

    Segments follow each other with ``>``; ``*`` multiplies, ``+`` adds; parentheses group. A segment's first
    argument is its length: ``500``, ``500 steps``, ``3 epochs``, ``6%``, ``2e9 tokens``. One segment may leave it
    out and takes the rest of the horizon. A segment starts where the one before it ended unless it says
    ``from=``; the first one starts at 1, a warmup at 0. Inside a product, a sum or an operation such as
    ``clip(cosine, low=0.1)`` every chain starts afresh.

    With ``listening=True`` one factor of the whole may be a schedule that listens to the run, with all its settings
    as options: ``plateau(metric=eval_loss, patience=3) * (warmup(5%) > constant)``. It has no length, so nothing can
    follow it with ``>``. Names: ``plateau``, ``two_phase``, ``auto_ensemble``; and ``catapult_warmup`` and ``gen``
    once ``lrscope.stability`` is imported.

    Args:
        text: For example ``"3e-4 * (warmup(6%) > cosine(to=0.1))"``.
        horizon: The run's length; a bare number is its steps. Without one, lengths are in steps, and only shapes
            that can go on for ever (``constant``, ``piecewise``, ``inverse_sqrt``, ``step``, ``wave``,
            ``restarts``, ``repeat``) may leave theirs out.
        listening: Whether it may be one that listens.

    Raises:
        ScheduleError: One line that quotes the place, says what was expected and names the nearest known word.

    Example:
        >>> parse("warmup(6%) > cosine(to=0)", Horizon(10_000))
        Linear(0.0, 1.0, 600).then(Cosine(1.0, 0.0, 9400))
        >>> parse("plateau(factor=0.5) * warmup(10)", listening=True).to_text()
        'plateau(factor=0.5) * linear(10, from=0.0, to=1.0)'
    """
    if horizon is not None and not isinstance(horizon, Horizon):
        horizon = Horizon(horizon)
    root = grammar.read(text)
    builder = Builder(text, horizon)
    heard, rest = apart(builder, root, allowed=listening)
    if heard is None:
        return builder.whole(root)
    return heard if rest is None else heard * builder.whole(rest, number=True)


@dataclass(frozen=True)
class Builder:
    """Gives every node its exact place in the horizon; only leaves round, so lengths add up."""

    text: str
    horizon: Horizon | None
    lengths: dict[int, Fraction | None] = field(default_factory=dict)  # by the node's id

    def whole(self, root: Node, *, number: bool = False) -> Schedule:
        """The schedule of the whole text; a ``number`` alone is one where it is a factor."""
        if number and isinstance(root, Quantity):
            return Constant(root.number)
        length = self.length(root)
        total = None if self.horizon is None else Fraction(self.horizon.steps)
        if length is not None and total is not None and length > total:
            self.fail(root, f"the segments take {say(length)} steps, the horizon has {say(total)}")
        return self.build(root, Fraction(0), total if length is None else length, None)

    def fail(self, at: Node | int, message: str) -> Any:
        grammar.fail(self.text, at if isinstance(at, int) else at.place, message)

    def in_steps(self, q: Quantity) -> Fraction:
        """The length as an exact number of steps."""
        if not 0 <= q.number <= MAX_STEPS:
            self.fail(q, "a length must be 0 or more, and at most 2**53 steps")
        if q.unit in (None, "step", "steps"):
            if q.number != int(q.number):
                percent = (
                    f"; {q.number * 100:g}% of the horizon is written {q.number * 100:g}%" if q.number < 1 else ""
                )
                self.fail(q, f"a length without unit is in whole steps, got {q.number:g}{percent}")
            return Fraction(int(q.number))
        if self.horizon is None:
            return self.fail(q, f"a length in {q.unit} needs a horizon; give horizon=Horizon(steps=...)")
        try:
            steps = self.horizon.in_steps(q.number, q.unit or "steps")
        except ScheduleError as error:
            return self.fail(q, str(error))
        return steps if steps <= MAX_STEPS else self.fail(q, "a length must be at most 2**53 steps")

    def length(self, node: Node) -> Fraction | None:
        """Steps that the text gives to ``node``; ``None``: the rest of what there is."""
        if id(node) not in self.lengths:
            self.lengths[id(node)] = self._length(node)
        return self.lengths[id(node)]

    def _length(self, node: Node) -> Fraction | None:
        match node:
            case Segment():
                return given_length(self, node)
            case Chain(parts=parts):
                lengths = [self.length(p) for p in parts]
                known = [n for n in lengths if n is not None]
                return sum(known, Fraction(0)) if len(known) == len(lengths) else None
            case Times(factors=parts) | Plus(terms=parts):
                lengths = [self.length(p) for p in parts if not _is_number(p)]
                known = [n for n in lengths if n is not None]
                return max(known) if known and len(known) == len(lengths) else None
        return None

    def build(self, node: Node, begin: Fraction, end: Fraction | None, entry: float | None) -> Schedule:
        """``node`` from ``begin`` to ``end`` in exact steps, entered at the value ``entry``."""
        try:
            match node:
                case Chain():
                    return self.chain(node, begin, end, entry)
                case Times(factors=parts):
                    return self.pointwise(Product, parts, begin, end)
                case Plus(terms=parts):
                    return self.pointwise(Sum, parts, begin, end)
                case Segment():
                    return PlacedSegment(self, node, begin, end, entry).schedule()
        except ScheduleError as error:
            if str(error).startswith("schedule text"):
                raise
            return self.fail(node, str(error))
        return self.fail(node, "a number alone is a factor, as in 3e-4 * cosine(to=0); or write constant(value=...)")

    def chain(self, node: Chain, begin: Fraction, end: Fraction | None, entry: float | None) -> Schedule:
        lengths = [self.length(part) for part in node.parts]
        open_ended = [part for part, n in zip(node.parts, lengths, strict=True) if n is None]
        if len(open_ended) > 1:
            self.fail(open_ended[1], "two segments without a length; only one can take the rest, give the other one")
        fixed = sum((n for n in lengths if n is not None), Fraction(0))
        rest = None if end is None else end - begin - fixed
        if open_ended and rest is not None and rest <= 0:
            self.fail(
                open_ended[0],
                f"nothing is left: the other segments take {say(fixed)} of {say(fixed + rest)} steps",
            )
        if open_ended and rest is None and open_ended[0] is not node.parts[-1]:
            self.fail(open_ended[0], "without a horizon only the last segment may leave out its length")
        parts: list[Schedule] = []
        for part, n in zip(node.parts, lengths, strict=True):
            n = rest if n is None else n
            until = None if n is None else begin + n
            parts.append(self.build(part, begin, until, entry))
            if parts[-1].num_steps is None and part is not node.parts[-1]:
                self.fail(part, "never ends, so nothing can follow it; cut it with first(..., steps=...)")
            if until is not None and part is not node.parts[-1]:
                begin, entry = until, parts[-1](nearest(until) - nearest(until - (n or 0)))
        return Join(tuple(parts))

    def pointwise(
        self, combine: type[Product | Sum], parts: list[Node], begin: Fraction, end: Fraction | None
    ) -> Schedule:
        """The product or sum of ``parts``, which all start at ``begin``."""
        built: list[Schedule] = []
        for part in parts:
            if isinstance(part, Quantity):
                built.append(Constant(part.number))
                continue
            own = self.length(part)
            until = end if own is None else begin + own
            if until is not None and end is not None and until > end:
                self.fail(part, f"takes {say(until - begin)} steps where {say(end - begin)} are left")
            built.append(self.build(part, begin, until, None))
        return combine(tuple(built))


def _is_number(node: Node) -> bool:
    """Whether ``node`` is a number, or made of numbers alone: then it has no length of its own."""
    match node:
        case Times(factors=parts) | Plus(terms=parts):
            return all(_is_number(p) for p in parts)
    return isinstance(node, Quantity)
