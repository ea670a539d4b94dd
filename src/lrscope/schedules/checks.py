"""What every constructor checks: numbers, step counts, names; and how a refusal is worded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from lrscope.errors import ScheduleError

if TYPE_CHECKING:
    from lrscope.schedules.base import Schedule

MAX_STEPS = 2**53  # whole numbers up to here are exact in float64
MAX_VALUE = 1e30  # far above any rate or factor; products of a few stay finite
MAX_NESTING = 49  # so that every schedule can be written, stored, read back and pickled


def number(owner: str, name: str, value: Any, *, above: float | None = None) -> float:
    """``value`` as a finite float, greater than ``above`` if that is given."""
    if type(value) is float and abs(value) <= MAX_VALUE and (above is None or value > above):
        return value + 0.0  # the common case first: a table may have 100 000 numbers
    low = "" if above is None else f" greater than {above:g}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ScheduleError(f"{owner}: {name} must be a number{low}, got {short(value)} ({type(value).__name__})")
    try:
        result = float(value) + 0.0  # the sum turns -0.0 into 0.0: equal schedules then have equal values
    except OverflowError:
        result = math.inf
    if not abs(result) <= MAX_VALUE:
        raise ScheduleError(f"{owner}: {name} must be finite and at most 1e30 in size, got {short(value)}")
    if above is not None and not result > above:
        raise ScheduleError(f"{owner}: {name} must be{low}, got {short(value)}")
    return result


def whole(owner: str, name: str, value: Any, *, at_least: int = 0, of: str = "steps") -> int:
    """``value`` as an int in ``[at_least, 2**53]``; ``of`` is what it counts."""
    if type(value) is int and at_least <= value <= MAX_STEPS:
        return value
    want = f"a whole number of {of}, {at_least} or more"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ScheduleError(f"{owner}: {name} must be {want}, got {short(value)} ({type(value).__name__})")
    if not at_least <= int(value) <= MAX_STEPS:
        raise ScheduleError(f"{owner}: {name} must be {want} (and at most 2**53), got {short(value)}")
    return int(value)


def check_nesting(schedule: Schedule) -> None:
    """Refuse a schedule of schedules of schedules too deep to be stored."""
    if schedule.nesting > MAX_NESTING:
        raise ScheduleError(
            f"{type(schedule).__name__}: schedules inside schedules, more than {MAX_NESTING} deep; "
            "the values alone are flat: Table(tuple(s.values()))"
        )


def several(owner: str, name: str, value: Any) -> tuple[Any, ...]:
    """``value``, a list, tuple, range or array of shape (n,), as a tuple."""
    if getattr(value, "ndim", None) == 1 and callable(getattr(value, "tolist", None)):
        value = value.tolist()  # of numpy, torch or jax, none of which is imported for it
    if not isinstance(value, list | tuple | range):
        kind = type(value).__name__
        raise ScheduleError(f"{owner}: {name} must be a list, tuple or 1-d array, got {short(value)} ({kind})")
    return tuple(value)


def short(value: Any, limit: int = 80) -> str:
    """``repr`` on one line and not too long."""
    try:
        some = value[:limit] if isinstance(value, str | list | tuple) else value  # the rest would only be cut
        text = " ".join(repr(some).split())
    except Exception:  # an object of the user's whose repr is broken must not hide our message
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """`` did you mean 'x'? known: ...`` for the end of a message."""
    known = sorted(known)
    close = difflib.get_close_matches((name if isinstance(name, str) else short(name))[:40].lower(), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(known) or 'nothing'}"
