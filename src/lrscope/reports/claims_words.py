"""Claims for the eye: a mean with its interval, a few values, or the range of many; how a verdict is said."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from lrscope.records.outcome import Outcome

SURE = {"source": "read in the paper or its code", "recalled": "recalled", "inferred": "follows from the paper"}
HOLDS = {True: "yes", False: "no", None: "open"}


def measured(outcome: Outcome) -> str:
    """The claim's statistic, a line for each of its numbers."""
    return "\n".join(f"{words(name)}: {condensed(outcome.numbers[name])}" for name in outcome.shows)


def condensed(value: Any) -> str:
    """One number, a mean with its 95 % interval, up to six values, the range of more, or a mapping of those."""
    if isinstance(value, dict):
        if {"mean", "interval", "values"} <= set(value):
            low, high = value["interval"]
            rest = {"mean", "stderr", "interval", "values"}
            extra = "".join(f", {words(k)} {condensed(v)}" for k, v in value.items() if k not in rest)
            between = f" [{_number(low)}, {_number(high)}]" if len(value["values"]) > 1 else ""
            return f"{_number(value['mean'])}{between} (n = {len(value['values'])}){extra}"
        return "; ".join(f"{words(k)}: {condensed(v)}" for k, v in value.items())
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


def words(name: object) -> str:
    """The name of a number as words."""
    return {"None": "without"}.get(str(name), str(name).replace("_", " "))


def seeds(outcome: Outcome) -> str:
    """How many seeds it ran with, ``"-"`` if its models have none."""
    found = outcome.settings.get("seeds")
    return "-" if found is None else str(found if isinstance(found, int) else len(found))


def tally(outcomes: Sequence[Outcome]) -> str:
    """How many came to which verdict, as one sentence."""
    counts = {v: sum(o.verdict == v for o in outcomes) for v in ("reproduced", "not reproduced", "inconclusive")}
    said = f"{counts['reproduced']} of {len(outcomes)} claims reproduced"
    more = [f"{n} {verdict}" for verdict, n in counts.items() if n and verdict != "reproduced"]
    return f"{said}; {', '.join(more)}." if more else f"{said}."


def prose(docstring: str, code: str = "{}") -> str:
    """A docstring without Sphinx roles; ``code`` says how names are set, ``"`{}`"`` for Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", lambda m: code.format(m.group(1)), docstring)
    return re.sub(r"``(.+?)``", lambda m: code.format(m.group(1)), text)


def _number(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
