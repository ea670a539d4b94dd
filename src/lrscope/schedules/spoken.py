"""Schedules that listen, as text: ``plateau(metric=eval_loss) * (warmup(5%) > constant)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean
from lrscope.schedules.feedback import MEASURING, FeedbackSchedule, listening_kinds
from lrscope.schedules.grammar import Chain, Node, Plus, Quantity, Segment, Times, Word
from lrscope.schedules.resolve import nearest

if TYPE_CHECKING:
    from lrscope.schedules.text import Builder

_MADE = ("scaled", "phase_momentum")
"""Kinds that the text writes otherwise, or not at all."""


def spoken() -> list[str]:
    """Names of the schedules that listen, as text has them."""
    return sorted({*listening_kinds(), *MEASURING} - {*_MADE})


def apart(builder: Builder, root: Node, *, allowed: bool) -> tuple[FeedbackSchedule | None, Node | None]:
    """What listens in ``root``, and the rest that it is multiplied by.

    Raises:
        ScheduleError: It is not alone, or not a factor of the whole; or none is allowed here.
    """
    factors = list(_factors(root))
    heard = [f for f in factors if isinstance(f, Segment) and f.name in spoken()]
    if heard and not allowed:
        builder.fail(
            heard[0],
            f"{heard[0].name} listens to the run, and here only the step may decide; lrscope train and "
            "parse(..., listening=True) read it",
        )
    for segment in _segments(root):
        if segment.name in spoken() and (segment is not (heard or [None])[0]):
            what = "only one schedule can listen" if heard else f"{segment.name} listens and has no length"
            builder.fail(segment, f"{what}; multiply it by one that does not: {segment.name}(...) * cosine(to=0)")
    if not heard:
        return None, root
    rest = [f for f in factors if f is not heard[0]]
    left = None if not rest else rest[0] if len(rest) == 1 else Times(root.place, rest)
    return _built(builder, heard[0]), left


def _factors(node: Node) -> Iterator[Node]:
    for part in node.factors if isinstance(node, Times) else ():
        yield from _factors(part)
    if not isinstance(node, Times):
        yield node


def _segments(node: Node | None) -> Iterator[Segment]:
    """Every segment of the tree."""
    match node:
        case Segment(inner=inner):
            yield node
            yield from _segments(inner)
        case Chain(parts=parts) | Times(factors=parts) | Plus(terms=parts):
            for part in parts:
                yield from _segments(part)


def _built(builder: Builder, node: Segment) -> FeedbackSchedule:
    cls = listening_kinds().get(node.name)
    if cls is None:
        return builder.fail(node, f"{node.name} lives in lrscope.stability; import that first")
    hints = settings_of(cls)
    if node.length is not None:
        builder.fail(node.length, f"{node.name} has no length; its options have names: {', '.join(hints)}")
    found: dict[str, Any] = {}
    for name, given in node.options.items():
        if name not in hints:
            builder.fail(node.places[name], f"{node.name} has no option {name[:40]!r}; {did_you_mean(name, hints)}")
        found[name] = _value(builder, node.places[name], name, given, hints[name])
    found = cls.completed(found, None if builder.horizon is None else builder.horizon.steps)
    defaults = {f.name: f.default for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    missing = [name for name in hints if name not in found and defaults[name] is MISSING]
    if missing:
        builder.fail(node, f"{node.name} needs {', '.join(f'{name}=' for name in missing)}")
    try:
        return cls(**found)
    except ScheduleError as error:
        return builder.fail(node, str(error))


def settings_of(cls: type[FeedbackSchedule]) -> dict[str, set[type]]:
    """The settings that text can name, with the types that each may have."""
    hints = get_type_hints(cls)
    allowed = {f.name: {*get_args(hints[f.name])} or {hints[f.name]} for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    return {name: types for name, types in allowed.items() if Schedule not in types}


def _value(builder: Builder, place: int, name: str, given: Quantity | Word | list[Quantity], types: set[type]) -> Any:
    """A setting as its type wants it; whole numbers may be lengths, others shares: ``every=1 epochs, share=25%``."""
    if isinstance(given, Word):
        if bool in types and given.text in ("true", "false"):
            return given.text == "true"
        if str in types:
            return given.text
    elif isinstance(given, Quantity) and types & {int, float}:
        if given.unit == "%" and float in types:
            return given.number / 100
        if given.unit is not None and int in types:
            return nearest(builder.in_steps(given))
        if given.unit is None:
            return int(given.number) if int in types and given.number == int(given.number) else given.number
    words = {bool: "true or false", str: "a name", int: "a whole number or a length", float: "a number"}
    wanted = " or ".join(words[kind] for kind in (bool, str, int, float) if kind in types)
    return builder.fail(place, f"{name}= must be {wanted}")
