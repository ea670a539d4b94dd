"""What a claim of a paper came to, as plain data: whoever has it can tell it and draw it without running anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Sure = Literal["source", "recalled", "inferred"]
"""How we know that the paper states it: read in its text, tables or code; known from memory; or following from it."""
POINTS = 200
"""A line of a figure keeps this many points at most."""


@dataclass(frozen=True)
class Outcome:
    """What a claim came to.

    Attributes:
        id: Paper and name of the claim, ``"lewkowycz2020/three-phases"``.
        statement: What is claimed.
        holds: Parts of the criterion, in words, and whether each holds; ``None`` where the numbers cannot tell.
        numbers: What was measured.
        shows: Which of the numbers are the claim's statistic.
        expected: The verdict that is usual at this scale.
        settings: The arguments it ran with, seeds among them.
        seconds: Processor time, of all threads; on a machine that does nothing else, about the wall time of one.
        curves: What a figure draws beside the numbers: lines, of :data:`POINTS` points at most.
        where: The place in the paper.
        sure: How we know that the paper states it.
        setting: What was trained and measured, in words.
        unlike: Our best explanation where the usual verdict is not "reproduced"; else empty.
        code: The function that measures it, with its module.
    """

    id: str
    statement: str
    holds: Mapping[str, bool | None]
    numbers: Mapping[str, Any] = field(repr=False)
    shows: tuple[str, ...] = field(repr=False)
    expected: Verdict = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)
    seconds: float = field(repr=False)
    curves: Mapping[str, Any] = field(default_factory=dict, repr=False)
    where: str = field(default="", repr=False)
    sure: Sure = field(default="source", repr=False)
    setting: str = field(default="", repr=False)
    unlike: str = field(default="", repr=False)
    code: str = field(default="", repr=False)

    @property
    def paper(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

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
        """For JSON, without the curves; numbers that are not finite become ``"inf"``, ``"-inf"`` and ``"nan"``."""
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
        """What :meth:`to_dict` gave, from JSON, with ``"curves"`` where they were kept; other keys are left alone."""
        names = ("id", "statement", "holds", "numbers", "expected", "settings", "seconds")
        found = {name: stored[name] for name in names} | {"numbers": numeric(stored["numbers"])}
        return cls(shows=tuple(stored["shows"]), curves=numeric(stored.get("curves", {})), **found)


def plain(value: Any) -> Any:
    """As JSON knows it."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


def numeric(value: Any) -> Any:
    """The reverse of :func:`plain`: numbers that are not finite as numbers again; keys stay strings."""
    if isinstance(value, Mapping):
        return {k: numeric(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numeric(v) for v in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def thinned(value: Any, most: int = POINTS) -> Any:
    """Lists of numbers with ``most`` of their points, evenly spaced, the ends among them.

    Lists of one length keep the same points, so x and y stay pairs.
    """
    if isinstance(value, Mapping):
        return {str(k): thinned(v, most) for k, v in value.items()}
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    if any(isinstance(v, (Mapping, Sequence)) and not isinstance(v, str) for v in value):
        return [thinned(v, most) for v in value]
    if len(value) <= most:
        return list(value)
    return [value[round(i * (len(value) - 1) / (most - 1))] for i in range(most)]
