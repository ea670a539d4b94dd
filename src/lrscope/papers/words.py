"""Measured numbers for the eye: a mean with its interval, a few values, or the range of many."""

from __future__ import annotations

import statistics
from typing import Any

from lrscope.papers.claim import Outcome


def measured(outcome: Outcome) -> str:
    """The claim's statistic, a line for each of its numbers."""
    return "\n".join(f"{_words(name)}: {condensed(outcome.numbers[name])}" for name in outcome.shows)


def condensed(value: Any) -> str:
    """One number, a mean with its 95 % interval, up to six values, the range of more, or a mapping of those."""
    if isinstance(value, dict):
        if {"mean", "interval", "values"} <= set(value):
            low, high = value["interval"]
            rest = {"mean", "stderr", "interval", "values"}
            extra = "".join(f", {_words(k)} {condensed(v)}" for k, v in value.items() if k not in rest)
            between = f" [{_number(low)}, {_number(high)}]" if len(value["values"]) > 1 else ""
            return f"{_number(value['mean'])}{between} (n = {len(value['values'])}){extra}"
        return "; ".join(f"{_words(k)}: {condensed(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            if len(value) <= 6:
                return ", ".join(map(_number, value))
            return f"{_number(min(value))} to {_number(max(value))} (median {_number(statistics.median(value))})"
        if all(isinstance(v, dict) for v in value):  # a table: its columns
            return condensed({key: [row[key] for row in value if key in row] for key in value[0]})
        return " / ".join(condensed(v) for v in value)
    return _number(value) if isinstance(value, int | float) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
