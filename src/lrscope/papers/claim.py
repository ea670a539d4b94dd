"""A statement of a paper that can be held against numbers, and what came out."""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Numbers = Mapping[str, Any]
"""What was measured, by name: numbers and lists of them."""
Holds = Mapping[str, bool | None]
"""Each part of the criterion in words, and whether it holds; ``None`` where the numbers cannot tell."""
Measure = Callable[..., tuple[Numbers, Holds]]
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Sure = Literal["source", "recalled", "inferred"]
"""How we know that the paper states it: read in its text, tables or code; known from memory; or following from it."""


@dataclass(frozen=True)
class Outcome:
    """What a claim came to.

    Attributes:
        id: Paper and name of the claim, ``"lewkowycz2020/three-phases"``.
        statement: What is claimed.
        holds: Parts of the criterion, in words, and whether each holds.
        numbers: What was measured.
        shows: Which of the numbers are the claim's statistic.
        expected: The verdict that is usual at this scale.
        settings: The arguments it ran with, seeds among them.
        seconds: Processor time, of all threads; on a machine that does nothing else, about the wall time of one.
    """

    id: str
    statement: str
    holds: Holds
    numbers: Numbers = field(repr=False)
    shows: tuple[str, ...] = field(repr=False)
    expected: Verdict = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    seconds: float = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        """One part that does not hold decides; else one that is open."""
        if any(good is False for good in self.holds.values()):
            return "not reproduced"
        return "inconclusive" if None in self.holds.values() else "reproduced"

    @property
    def failed(self) -> list[str]:
        """The parts that do not hold."""
        return [words for words, good in self.holds.items() if good is False]

    @property
    def surprising(self) -> bool:
        """Expected to be reproduced, and was not."""
        return self.expected == "reproduced" != self.verdict

    def __str__(self) -> str:
        which = f" ({'; '.join(self.failed)})" if self.failed else ""
        return f"{self.id}: {self.verdict}{which}: {self.statement}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become the strings ``"inf"``, ``"-inf"`` and ``"nan"``."""
        return {
            "id": self.id,
            "statement": self.statement,
            "verdict": self.verdict,
            "expected": self.expected,
            "holds": dict(self.holds),
            "numbers": plain(self.numbers),
            "shows": list(self.shows),
            "settings": plain(self.settings),
            "seconds": round(self.seconds, 2),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Outcome:
        """What :meth:`to_dict` gave, from JSON; other keys are left alone."""
        names = ("id", "statement", "holds", "numbers", "expected", "settings", "seconds")
        return cls(shows=tuple(stored["shows"]), **{name: stored[name] for name in names})


@dataclass(frozen=True)
class Claim:
    """A statement with its measurement and criterion; call it to run it. Keyword arguments go to the measurement.

    Attributes:
        id: Paper and name of the claim, ``"lewkowycz2020/three-phases"``.
        statement: What is claimed, in one sentence.
        measure: Returns what it measured, and which parts of the criterion hold.
        where: The place in the paper.
        sure: How we know that the paper states it.
        shows: Which of the numbers are the statistic that a table shows.
        headline: One of the paper's main statements that is measured in seconds; ``lrscope reproduce --quick``.
        unlike: Our best explanation where the verdict at this scale is usually not "reproduced"; else empty.
    """

    id: str
    statement: str
    measure: Measure = field(repr=False)
    where: str = field(repr=False)
    sure: Sure = field(repr=False)
    shows: tuple[str, ...] = field(repr=False)
    headline: bool = field(default=False, repr=False)
    unlike: str = field(default="", repr=False)

    @property
    def paper(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    @property
    def expected(self) -> Verdict:
        """The verdict that is usual at this scale."""
        return "not reproduced" if self.unlike else "reproduced"

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

    def __call__(self, **settings: Any) -> Outcome:
        settings = self.settings(**settings)
        began = time.process_time()
        numbers, holds = self.measure(**settings)
        seconds = time.process_time() - began
        holds = {words: None if good is None else bool(good) for words, good in holds.items()}
        return Outcome(self.id, self.statement, holds, numbers, self.shows, self.expected, settings, seconds)


CLAIMS: dict[str, Claim] = {}
"""Those of the papers imported so far, by id; :func:`lrscope.papers.claims` imports them."""


def claim(
    id: str, statement: str, *, where: str, sure: Sure, shows: Sequence[str], headline: bool = False, unlike: str = ""
) -> Callable[[Measure], Claim]:
    """Make a :class:`Claim` of a function that returns what it measured and which parts of the criterion hold.

    Its docstring tells the setting; the criterion was set for its defaults, before the first run.
    """

    def register(measure: Measure) -> Claim:
        if id in CLAIMS and CLAIMS[id].measure.__qualname__ != measure.__qualname__:
            raise ValueError(f"claim {id!r} exists already")
        CLAIMS[id] = Claim(id, statement, measure, where, sure, tuple(shows), headline, unlike)
        return CLAIMS[id]

    return register


def spread(values: Iterable[float]) -> dict[str, Any]:
    """A measured number over seeds: mean, standard error, 95 % interval of the mean (Student's t), single values."""
    each = [float(v) for v in values]
    mean, n = statistics.fmean(each), len(each)
    stderr = statistics.stdev(each) / math.sqrt(n) if n > 1 else math.nan
    reach = stderr * _T95[min(n - 1, len(_T95) - 1)]
    return {"mean": mean, "stderr": stderr, "interval": [mean - reach, mean + reach], "values": each}


_T95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % by degrees of freedom; beyond the last the last is used, which is a little too wide."""


def plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value
