"""Schedules as plain data: what checkpoints, configurations and workers carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, overload

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule, kinds
from lrscope.schedules.checks import did_you_mean, short
from lrscope.schedules.feedback import MEASURING, FeedbackSchedule, listening_kinds

MAX_DEPTH = 100


def to_spec(schedule: Schedule) -> dict[str, Any]:
    """The schedule as a JSON-able dict: its ``kind`` and its arguments.

    Example:
        >>> from lrscope.schedules import Linear
        >>> to_spec(Linear(0.0, 1.0, 500))
        {'kind': 'linear', 'start': 0.0, 'end': 1.0, 'steps': 500}
    """
    if not schedule.kind:
        name = type(schedule).__name__
        raise ScheduleError(f"{name} has no kind, so it cannot be stored; write `class {name}(Schedule, kind=...)`")
    args = {f.name: _plain(getattr(schedule, f.name)) for f in fields(schedule)}  # pyright: ignore[reportArgumentType]
    return {"kind": schedule.kind, **args}


@overload
def from_spec(spec: Mapping[str, Any], *, listening: Literal[False] = False) -> Schedule: ...


@overload
def from_spec(spec: Mapping[str, Any], *, listening: bool) -> Schedule | FeedbackSchedule: ...


def from_spec(spec: Mapping[str, Any], *, listening: bool = False) -> Schedule | FeedbackSchedule:
    """The schedule that :func:`to_spec` described: equal to the first one, with identical values.

    Args:
        spec: From ``schedule.to_spec()``.
        listening: Whether it may be one that listens to the run, such as a :class:`~lrscope.schedules.Plateau`.

    Raises:
        ScheduleError: An unknown kind or argument (with the nearest known name), a missing one, or a value that
            the shape refuses. One line, which names the place as in ``parts[1].schedule``. Or it listens, and was
            not expected to.

    Example:
        >>> from_spec({"kind": "cosine", "start": 1.0, "end": 0.0, "steps": 100})
        Cosine(1.0, 0.0, 100)
    """
    built = _build(spec, "", 0)
    if isinstance(built, FeedbackSchedule) and not listening:
        raise ScheduleError(
            f"schedule spec: {built.kind} listens to the run, and here only the step may decide; "
            "from_spec(spec, listening=True) builds it, for a trainer that reports to it"
        )
    return built


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return to_spec(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _build(spec: Any, place: str, depth: int) -> Schedule | FeedbackSchedule:
    where = f"schedule spec, at {place}" if place else "schedule spec"
    if not isinstance(spec, Mapping):
        raise ScheduleError(f"{where}: must be a dict with 'kind', got {short(spec)}")
    kind = spec.get("kind")
    if not isinstance(kind, str):
        raise ScheduleError(f"{where}: needs 'kind', a name, got {short(kind)}; {did_you_mean('', kinds())}")
    cls = kinds().get(kind) or listening_kinds().get(kind)
    if cls is None:
        known = did_you_mean(kind, {**kinds(), **listening_kinds()})
        hint = "import lrscope.stability first, where it lives" if kind in MEASURING else known
        raise ScheduleError(f"{where}: unknown kind {short(kind)}; {hint}")
    args = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in spec:
        if key != "kind" and key not in args:
            raise ScheduleError(f"{where}: {kind} has no argument {short(key)}; {did_you_mean(key, args)}")
    missing = [name for name, f in args.items() if name not in spec and f.default is MISSING]
    if missing:
        raise ScheduleError(f"{where}: {kind} needs {', '.join(missing)}; got {short(list(spec))}")
    values = {k: _value(v, f"{place}.{k}" if place else k, depth + 1) for k, v in spec.items() if k != "kind"}
    try:
        return cls(**values)
    except ScheduleError as error:
        raise ScheduleError(f"{where}: {error}") from None


def _value(value: Any, place: str, depth: int) -> Any:
    if isinstance(value, float | int | str):  # the most frequent first: a table has many
        return value
    if depth > MAX_DEPTH:
        raise ScheduleError(f"schedule spec: nested more than {MAX_DEPTH} deep; flatten it")
    if isinstance(value, Mapping):
        return _build(value, place, depth)
    if not isinstance(value, list | tuple):
        return value
    plain = all(isinstance(v, float | int | str) for v in value)
    return tuple(value if plain else (_value(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(value)))
