"""What every trainer's adapter does with schedules: read their text, say what will run, and where it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.optimizers.announce import announce
from lrscope.records import Plan
from lrscope.schedules import FeedbackSchedule, Horizon, Schedule, from_spec
from lrscope.schedules.checks import short


def arguments(schedule: Any, options: Mapping[str, Any], read: Callable[[str], Schedule]) -> dict[str, Any]:
    """The arguments of ScheduledLR: every text read, a plan as the rates that it holds."""
    resolved = _resolve(schedule, read)
    keys = resolved if isinstance(resolved, Mapping) else {"lr"}
    groups = {name: _resolve(own, read, keys) for name, own in (options.get("groups") or {}).items()}
    planned = [key for each in (schedule, *(options.get("groups") or {}).values()) for key in _planned(each)]
    absolute = dict.fromkeys([*options.get("absolute", ()), *planned])
    return {**options, "schedule": resolved, "groups": groups, "absolute": tuple(absolute)}


def _resolve(schedule: Any, read: Callable[[str], Schedule], keys: Iterable[str] = ()) -> Any:
    """``schedule`` with every text and spec in it read; the name of a key means that this key is followed."""
    if isinstance(schedule, Plan):
        return from_spec(schedule.schedule)
    if isinstance(schedule, Mapping) and "kind" in schedule:
        return from_spec(schedule)
    if isinstance(schedule, Mapping):
        return {key: _resolve(value, read, {*keys, *schedule}) for key, value in schedule.items()}
    return read(schedule) if isinstance(schedule, str) and schedule not in keys else schedule


def _planned(schedule: Any) -> list[str]:
    """The keys that a plan drives."""
    by_key = schedule if isinstance(schedule, Mapping) else {"lr": schedule}
    return [key for key, value in by_key.items() if isinstance(value, Plan)]


def tell(scheduler: ScheduledLR, length: Horizon | None, note: str = "") -> None:
    """Say what will run, on the main process: one line for each schedule, ``note`` at its end."""
    run = f"; {length.steps:,} updates" if length else ""
    run += f", {length.steps_per_epoch:,} an epoch" if length and length.steps_per_epoch else ""
    optimizer = scheduler.optimizer
    for place, drives in {None: scheduler.schedules, **scheduler.groups}.items():
        of = type(optimizer).__name__ if place is None else f"group {place}"
        for key, drive in drives.items():
            bases = dict.fromkeys(group.get(f"initial_{key}") for group in optimizer.param_groups)
            by = " and ".join(f"{base:g}" for base in bases if isinstance(base, float)) if place is None else ""
            by = "" if key in scheduler.absolute else f"{by or 'its base'} × "
            floor = _floor(scheduler.floor, place) if key == "lr" else ""
            announce(f"lrscope: {key} of {of} = {by}{_text(drive)}{floor}{run}{note}")


def warn_of_length(scheduler: ScheduledLR, updates: int) -> None:
    """Warn of schedules whose length does not fit a run of ``updates``."""
    for key, drive in _drives(scheduler):
        if not isinstance(drive, Schedule) or drive.num_steps in (None, updates):
            continue
        if drive.num_steps > updates:
            what = f"has {drive.num_steps} steps, so this run of {updates} updates does not come to its end"
        elif drive(drive.num_steps) == 0:
            what = f"is 0 from step {drive.num_steps} on, so the last {updates - drive.num_steps} updates use 0"
        else:
            continue
        warnings.warn(
            f"the schedule of {key} {what}; .stretch({updates}) fits it to the run", LrscopeWarning, stacklevel=3
        )


def listens(scheduler: ScheduledLR) -> bool:
    """Whether a schedule waits for what validations report."""
    return any(_waits(drive) for _, drive in _drives(scheduler))


def listens_to_updates(scheduler: ScheduledLR) -> bool:
    """Whether a schedule is to hear the training loss before each update."""
    return any(_waits(drive, updates=True) for _, drive in _drives(scheduler))


def warn_of_silence(scheduler: ScheduledLR, why: str, *, updates: bool = False) -> None:
    """Warn of schedules that wait for metrics which nobody reports; ``updates``: nor the loss of updates."""
    for key, drive in _drives(scheduler):
        if _waits(drive) or (updates and _waits(drive, updates=True)):
            warnings.warn(
                f"the schedule of {key}, {short(drive)}, will hear nothing: {why}", LrscopeWarning, stacklevel=3
            )


def _waits(drive: Any, *, updates: bool = False) -> bool:
    return isinstance(drive, FeedbackSchedule) and bool(drive.listens_to) and drive.every_update == updates


def _drives(scheduler: ScheduledLR) -> list[tuple[str, Any]]:
    return [pair for drives in (scheduler.schedules, *scheduler.groups.values()) for pair in drives.items()]


def _floor(floor: Any, place: str | int | None) -> str:
    if isinstance(floor, Mapping):
        floor = floor.get(place) if place is not None else " and ".join(f"{f} in {name}" for name, f in floor.items())
    return "" if floor is None else f", never below {floor}"


def _text(drive: Any) -> str:
    if isinstance(drive, str):
        return f"that of {drive}"
    try:
        return f"({drive.to_text()})"
    except (AttributeError, ScheduleError):  # it listens, or is a shape of the user's own
        return short(drive, 200)
