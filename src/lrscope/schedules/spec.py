"""Schedules as plain data: what checkpoints, configurations and workers carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule, kinds
from lrscope.schedules.checks import did_you_mean, short

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


def from_spec(spec: Mapping[str, Any]) -> Schedule:
    """The schedule that :func:`to_spec` described: equal to the first one, with identical values.

    Raises:
        ScheduleError: An unknown kind or argument (with the nearest known name), a missing one, or a value that
            the shape refuses.

    Example:
        >>> from_spec({"kind": "cosine", "start": 1.0, "end": 0.0, "steps": 100})
        Cosine(1.0, 0.0, 100)
    """
    return _build(spec, 0)


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return to_spec(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _build(spec: Any, depth: int) -> Schedule:
    if not isinstance(spec, Mapping):
        raise ScheduleError(f"schedule spec: must be a dict with 'kind', got {short(spec)}")
    kind = spec.get("kind")
    if not isinstance(kind, str):
        raise ScheduleError(f"schedule spec: needs 'kind', a name, in {short(spec)}; {did_you_mean('', kinds())}")
    cls = kinds().get(kind)
    if cls is None:
        raise ScheduleError(f"schedule spec: unknown kind {short(kind)}; {did_you_mean(kind, kinds())}")
    args = {f.name: f for f in fields(cls)}  # pyright: ignore[reportArgumentType]
    for key in spec:
        if key != "kind" and key not in args:
            raise ScheduleError(f"schedule spec: {kind} has no argument {short(key)}; {did_you_mean(key, args)}")
    missing = [name for name, f in args.items() if name not in spec and f.default is MISSING]
    if missing:
        raise ScheduleError(f"schedule spec: {kind} needs {', '.join(missing)}; got {short(dict(spec))}")
    return cls(**{key: _value(value, depth + 1) for key, value in spec.items() if key != "kind"})


def _value(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ScheduleError(f"schedule spec: nested more than {MAX_DEPTH} deep; flatten it")
    if isinstance(value, Mapping):
        return _build(value, depth)
    return tuple(_value(v, depth + 1) for v in value) if isinstance(value, list | tuple) else value
