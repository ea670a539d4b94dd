"""Values of an axis, as text: lists, powers, log-spaced points, steps."""

from __future__ import annotations

import re

import numpy as np

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_POWER = re.compile(rf"({_NUMBER})\^({_NUMBER})")
_LOG = re.compile(rf"({_NUMBER}(?:\^{_NUMBER})?):({_NUMBER}(?:\^{_NUMBER})?)(?::(\d+))?")
_LINEAR = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?")
MOST = 100_000
"""Values that one axis may have."""


def expand(name: str, text: str) -> list[str]:
    """The values that ``text`` lists, each as text that Python's ``int`` or ``float`` reads where it is a number.

    ==================  ===================================================================
    ``0.1,0.2,5%``      a list; any value may be one of the ranges below
    ``2^-9:2^3``        powers of one base, both ends included
    ``1e-4:1:9``        so many points with equal ratios, both ends included
    ``10..100..10``     equal steps; ``0..4`` has steps of 1
    ==================  ===================================================================

    Args:
        name: The axis, for messages.
        text: One line; commas inside brackets do not separate.

    Raises:
        ValueError: A range that cannot be meant, or nothing at all.

    Example:
        >>> expand("lr", "2^-2:2^1,3")
        ['0.25', '0.5', '1', '2', '3']
    """
    parts = [part.strip() for part in _split(text)]
    if not all(parts):
        raise ValueError(f"{name}: a value is missing in {text!r}; separate values by single commas, as in 0.1,0.2")
    values: list[str] = []
    for part in parts:
        if found := _LOG.fullmatch(part):
            values += _log(name, part, *found.groups())
        elif found := _LINEAR.fullmatch(part):
            values += _linear(name, part, *found.groups())
        elif found := _POWER.fullmatch(part):
            values.append(_said(_number(name, part), digits=17))
        else:
            values.append(part)
    return values


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _log(name: str, part: str, first: str, last: str, count: str | None) -> list[str]:
    low, high = _number(name, first), _number(name, last)
    if not (low > 0 and high > 0):
        raise ValueError(
            f"{name}: {part!r} is spaced by equal ratios, so both ends must be above 0; list 0 by itself"
        )
    if count is not None:
        if not 2 <= int(count) <= MOST:
            raise ValueError(f"{name}: {part!r} asks for {count} points; a range has 2 to {MOST:,}")
        return [_said(v) for v in np.geomspace(low, high, int(count))]
    powers = _POWER.fullmatch(first), _POWER.fullmatch(last)
    if powers[0] is None or powers[1] is None or float(powers[0][1]) != float(powers[1][1]):
        raise ValueError(
            f"{name}: {part!r} does not say how many points; write {first}:{last}:9 for nine, or powers of one base "
            "as in 2^-9:2^3"
        )
    base, start, stop = float(powers[0][1]), float(powers[0][2]), float(powers[1][2])
    if not (stop - start).is_integer():
        raise ValueError(f"{name}: {part!r}: the powers are no whole number apart; write {first}:{last}:9 for nine")
    if abs(stop - start) >= MOST:
        raise ValueError(f"{name}: {part!r} has {abs(stop - start) + 1:.0f} points; a range has 2 to {MOST:,}")
    way = 1 if stop >= start else -1
    return [_said(base ** (start + way * i), digits=17) for i in range(int(abs(stop - start)) + 1)]


def _linear(name: str, part: str, first: str, last: str, step: str | None) -> list[str]:
    low, high, by = float(first), float(last), float(step or 1)
    if by <= 0 or high < low:
        raise ValueError(f"{name}: {part!r} has no values; write the lower end first and a step above 0")
    number = int((high - low) / by + 1e-9) + 1
    if number > MOST:
        raise ValueError(f"{name}: {part!r} has {number:,} points; a range has 2 to {MOST:,}")
    return [_said(low + by * i) for i in range(number)]


def _number(name: str, text: str) -> float:
    base, _, power = text.partition("^")
    try:
        value = float(base) ** float(power) if power else float(base)
    except (OverflowError, ZeroDivisionError):
        raise ValueError(f"{name}: {text!r} is no finite number") from None
    if isinstance(value, complex) or not np.isfinite(value):
        raise ValueError(f"{name}: {text!r} is no finite number")
    return value


def _said(value: float, *, digits: int = 12) -> str:
    """As the shortest text; twelve digits make 128 of 128.00000000000003, while powers are exact as they are."""
    value = float(f"{value:.{digits}g}")
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
