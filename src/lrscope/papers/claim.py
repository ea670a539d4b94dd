"""A statement of a paper that can be held against numbers, and what came out."""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lrscope.papers import drawing
from lrscope.records.outcome import Outcome, Sure, Verdict, numeric, plain, thinned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = Mapping[str, Any]
"""What was measured, by name: numbers and lists of them."""
Holds = Mapping[str, bool | None]
"""Each part of the criterion in words, and whether it holds; ``None`` where the numbers cannot tell."""
Curves = Mapping[str, Any]
"""What a figure draws and the ledger does not keep, by name: lists of numbers, or mappings of them."""
Measure = Callable[..., tuple[Numbers, Holds] | tuple[Numbers, Holds, Curves]]
Draw = Callable[[Outcome, "Figure"], object]


@dataclass(frozen=True)
class Claim:
    """A statement with its measurement and criterion; call it to run it. Keyword arguments go to the measurement.

    Attributes:
        id: Paper and name of the claim, ``"lewkowycz2020/three-phases"``.
        statement: What is claimed, in one sentence.
        measure: Returns what it measured, which parts of the criterion hold and, if its figure needs more than the
            numbers, curves.
        where: The place in the paper.
        sure: How we know that the paper states it.
        shows: Which of the numbers are the statistic that a table shows.
        headline: One of the paper's main statements that is measured in seconds; ``lrscope reproduce --quick``.
        unlike: Our best explanation where the verdict at this scale is usually not "reproduced"; else empty.
        instead: The verdict that is usual then.
    """

    id: str
    statement: str
    measure: Measure = field(repr=False)
    where: str = field(repr=False)
    sure: Sure = field(repr=False)
    shows: tuple[str, ...] = field(repr=False)
    headline: bool = field(default=False, repr=False)
    unlike: str = field(default="", repr=False)
    instead: Verdict = field(default="not reproduced", repr=False)

    @property
    def paper(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    @property
    def expected(self) -> Verdict:
        """The verdict that is usual at this scale."""
        return self.instead if self.unlike else "reproduced"

    @property
    def setting(self) -> str:
        """What is trained and measured, in words."""
        return inspect.getdoc(self.measure) or ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings for which the criterion was set."""
        return self.settings()

    def settings(self, **given: Any) -> dict[str, Any]:
        """The defaults with ``given`` in their place.

        Raises:
            TypeError: The measurement takes no such setting.
        """
        bound = inspect.signature(self.measure).bind(**given)
        bound.apply_defaults()
        return dict(bound.arguments)

    @property
    def code(self) -> str:
        """The function that measures, with its module."""
        return f"{self.measure.__module__}.{self.measure.__qualname__}"

    def __call__(self, **settings: Any) -> Outcome:
        settings = self.settings(**settings)
        began = time.process_time()
        numbers, holds, *more = self.measure(**settings)
        seconds = time.process_time() - began
        holds = {words: None if good is None else bool(good) for words, good in holds.items()}
        curves = thinned(more[0]) if more else {}
        outcome = Outcome(
            self.id, self.statement, holds, numbers, self.shows, self.expected, settings, seconds, curves
        )
        return self.tell(outcome)

    def tell(self, outcome: Outcome) -> Outcome:
        """An outcome with what the claim says of itself today, which may have changed since it ran."""
        words = {name: getattr(self, name) for name in ("expected", "where", "sure", "setting", "unlike", "code")}
        return replace(outcome, **words)

    def figure(self, draw: Draw) -> Draw:
        """Register how its outcome is drawn, in the layout of the paper's figure; a decorator.

        ``draw(outcome, figure)`` fills an empty matplotlib figure. Colours come from the cycle of whoever renders it
        (:mod:`lrscope.papers.drawing`), text sizes from its settings.
        """
        FIGURES[self.id] = draw
        return draw


def draw(outcome: Outcome, figure: Figure) -> None:
    """Fill a matplotlib figure with the numbers and curves of an outcome, as its claim's figure says.

    A claim without a figure of its own gets one of its statistic: a row for each number, a marker for each seed.

    Raises:
        KeyError: It lacks curves that are drawn.
    """
    known = replace(outcome, numbers=numeric(plain(outcome.numbers)))  # keys as strings, also of a fresh one
    FIGURES.get(outcome.id, drawing.statistic)(known, figure)


FIGURES: dict[str, Draw] = {}
"""How the outcome of each claim is drawn, by id."""
CLAIMS: dict[str, Claim] = {}
"""Those of the papers imported so far, by id; :func:`lrscope.papers.claims` imports them."""


def claim(
    id: str,
    statement: str,
    *,
    where: str,
    sure: Sure,
    shows: Sequence[str],
    headline: bool = False,
    unlike: str = "",
    instead: Verdict = "not reproduced",
) -> Callable[[Measure], Claim]:
    """Make a :class:`Claim` of a function that returns what it measured, which parts of the criterion hold and,
    where its figure needs more, curves.

    Its docstring tells the setting; the criterion was set for its defaults, before the first run.
    """

    def register(measure: Measure) -> Claim:
        if id in CLAIMS and CLAIMS[id].measure.__qualname__ != measure.__qualname__:
            raise ValueError(f"claim {id!r} exists already")
        CLAIMS[id] = Claim(id, statement, measure, where, sure, tuple(shows), headline, unlike, instead)
        return CLAIMS[id]

    return register


def spread(values: Iterable[float]) -> dict[str, Any]:
    """A measured number over seeds: mean, standard error, 95 % interval of the mean (Student's t), single values."""
    each = [float(v) for v in values]
    mean, n = statistics.fmean(each), len(each)
    stderr = statistics.stdev(each) / math.sqrt(n) if n > 1 and math.isfinite(mean) else math.nan
    reach = stderr * _T95[min(n - 1, len(_T95) - 1)]
    return {"mean": mean, "stderr": stderr, "interval": [mean - reach, mean + reach], "values": each}


_T95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % by degrees of freedom; beyond the last the last is used, which is a little too wide."""


def beyond(values: Mapping[str, Any], bound: float) -> bool | None:
    """Whether a mean, as :func:`spread` gives it, is above a bound: ``None`` if its 95 % interval holds the bound."""
    low, high = values["interval"]
    return True if low > bound else False if high < bound else None


__all__ = [
    "CLAIMS",
    "FIGURES",
    "Claim",
    "Curves",
    "Draw",
    "Holds",
    "Measure",
    "Numbers",
    "Outcome",
    "Sure",
    "Verdict",
]
__all__ += ["beyond", "claim", "draw", "plain", "spread"]
