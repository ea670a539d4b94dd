"""A statement of a paper that can be held against numbers, and what came out."""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Numbers = Mapping[str, Any]
"""What was measured, by name: numbers and lists of them."""
Holds = Mapping[str, bool]
"""Each part of the criterion in words, and whether it holds."""
Measure = Callable[..., tuple[Numbers, Holds]]


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        id: Paper and number of the check, ``"lewkowycz2020/L1"``.
        claim: What is stated.
        holds: Parts of the criterion, in words, and whether each holds.
        numbers: What was measured.
        settings: The arguments it ran with, seeds among them.
        seconds: Processor time, of all threads; on a machine that does nothing else, about the wall time of one.
    """

    id: str
    claim: str
    holds: Holds
    numbers: Numbers = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    seconds: float = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(self.holds.values())

    @property
    def failed(self) -> list[str]:
        """The parts that do not hold."""
        return [words for words, good in self.holds.items() if not good]

    @property
    def verdict(self) -> str:
        return "reproduced" if self.passed else "not reproduced"

    def __str__(self) -> str:
        which = "" if self.passed else f" ({'; '.join(self.failed)})"
        return f"{self.id}: {self.verdict}{which}: {self.claim}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers that are not finite become the strings ``"inf"``, ``"-inf"`` and ``"nan"``."""
        return {
            "id": self.id,
            "claim": self.claim,
            "verdict": self.verdict,
            "holds": dict(self.holds),
            "numbers": _plain(self.numbers),
            "settings": _plain(self.settings),
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True)
class Check:
    """A measurement with its criterion; call it to run it. Keyword arguments go to the measurement.

    Attributes:
        id: Paper and number of the check, ``"lewkowycz2020/L1"``.
        claim: What is stated, in one sentence.
        measure: Returns what it measured, and which parts of the criterion hold.
    """

    id: str
    claim: str
    measure: Measure = field(repr=False)

    @property
    def paper(self) -> str:
        return self.id.partition("/")[0]

    @property
    def setting(self) -> str:
        """What is trained and measured, in words."""
        return inspect.getdoc(self.measure) or ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings of the fact sheet."""
        return self._settings()

    def __call__(self, **settings: Any) -> Outcome:
        settings = self._settings(**settings)
        began = time.process_time()
        numbers, holds = self.measure(**settings)
        seconds = time.process_time() - began
        return Outcome(self.id, self.claim, {w: bool(x) for w, x in holds.items()}, numbers, settings, seconds)

    def _settings(self, **given: Any) -> dict[str, Any]:
        bound = inspect.signature(self.measure).bind(**given)
        bound.apply_defaults()
        return dict(bound.arguments)


CHECKS: dict[str, Check] = {}
"""Those of the papers imported so far, by id; :func:`lrscope.papers.checks` imports them."""


def check(id: str, claim: str) -> Callable[[Measure], Check]:
    """Make a check of a function that returns what it measured and which parts of the criterion hold.

    Its docstring tells the setting, its defaults are those of the fact sheet.
    """

    def register(measure: Measure) -> Check:
        if id in CHECKS and CHECKS[id].measure.__qualname__ != measure.__qualname__:
            raise ValueError(f"check {id!r} exists already")
        CHECKS[id] = Check(id, claim, measure)
        return CHECKS[id]

    return register


def spread(values: Iterable[float]) -> dict[str, Any]:
    """A measured number over seeds: mean, standard error of the mean and the single values."""
    each = [float(v) for v in values]
    stderr = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return {"mean": statistics.fmean(each), "stderr": stderr, "values": each}


def _plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value
