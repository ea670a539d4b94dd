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
    """Four decimals; three or four digits where these say too little or too much. ``missing`` if not finite."""
    if value is None or not math.isfinite(value):
        return missing
    size = abs(value)
    if size >= 1e4 or size < 1e-3:
        return lr(value)
    if size < 0.1:
        return f"{value:#.3g}"
    return f"{value:.4f}" if size < 9.99995 else f"{value:.4g}"


def count(value: float) -> str:
    """A whole number, digits in groups of three."""
    return f"{round(value):,}".replace(",", NARROW)


def percent(share: float) -> str:
    """0.183 as "18 %"; one decimal below ten per cent, and what is not quite all or nothing is not called so."""
    value = round(100 * share, 9)
    size = abs(value)
    if value == round(value):
        text = f"{value:.0f}"
    elif size < 0.05:
        text = f"{value:.1g}" if size >= 1e-3 else "under 0.001"
    elif 99 < size < 100:
        text = f"{value:.1f}" if size < 99.95 else "over 99.9"
    else:
        text = f"{value:.0f}" if size >= 9.95 else f"{value:.1f}"
    return f"{text}{NARROW}%"


def times(ratio: float) -> str:
    """A factor: "1.04 times", "1.8 times", "12 times"."""
    if ratio >= 9.95:
        return f"{count(ratio)} times"
    text = f"{ratio:.3g}" if 0.95 < ratio < 1.95 else f"{ratio:.2g}"
    return f"{'1.00' if text == '1' and ratio != 1 else text} times"


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
