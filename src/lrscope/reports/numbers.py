"""How numbers are written: the same quantity looks the same in a sentence, a table and a figure."""

from __future__ import annotations

import math

NARROW = "\u202f"  # narrow no-break space: groups digits and ties a unit to its number
DIVERGED = "diverged"


def lr(value: float | None) -> str:
    """A learning rate as people type it: 0.003, 3e-4, 2.5."""
    if value is None or not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def loss(value: float | None, missing: str = DIVERGED) -> str:
    """Four digits, at most four decimals; ``missing`` where there is no finite number."""
    if value is None or not math.isfinite(value):
        return missing
    size = abs(value)
    if size >= 1e4 or 0 < size < 1e-3:
        return lr(value)
    return f"{value:.4f}"[: max(6, len(f"{value:.0f}"))] if size < 10 else f"{value:.4g}"


def count(value: float) -> str:
    """A whole number, digits in groups of three."""
    return f"{round(value):,}".replace(",", NARROW)


def percent(share: float) -> str:
    """0.183 as "18 %"; one decimal below ten per cent."""
    value = 100 * share
    text = f"{value:.0f}" if abs(value) >= 9.95 or value == round(value) else f"{value:.1f}"
    return f"{text}{NARROW}%"


def times(ratio: float) -> str:
    """A factor: "1.8 times", "12 times"."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.2g} times"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """A note as a sentence: capital first, full stop last."""
    return capital(text) if text.endswith((".", "!", "?")) else f"{capital(text)}."


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


def listing(parts: list[str], last: str = "and") -> str:
    """Join as in a sentence: "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {last} {parts[-1]}" if parts else ""
