"""A statement of a paper that can be held against numbers, and what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Numbers = Mapping[str, Any]
"""What was measured, by name: numbers and lists of them."""
Holds = Mapping[str, bool]
"""Each part of the criterion in words, and whether it holds."""


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        id: Paper and number of the check, ``"lewkowycz2020/L1"``.
        claim: What is stated.
        holds: Parts of the criterion, in words, and whether each holds.
        numbers: What was measured; JSON-able.
        seconds: Wall time.
    """

    id: str
    claim: str
    holds: Holds
    numbers: Numbers = field(repr=False)
    seconds: float = field(repr=False)

    @property
    def passed(self) -> bool:
        return all(self.holds.values())

    def __str__(self) -> str:
        failed = [words for words, good in self.holds.items() if not good]
        verdict = "passed" if not failed else f"not reproduced ({'; '.join(failed)})"
        return f"{self.id}: {verdict}: {self.claim}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True)
class Check:
    """A measurement with its criterion; call it to run it. Keyword arguments go to the measurement."""

    id: str
    claim: str
    measure: Callable[..., tuple[Numbers, Holds]] = field(repr=False)

    def __call__(self, **settings: Any) -> Outcome:
        began = time.perf_counter()
        numbers, holds = self.measure(**settings)
        holds = {words: bool(good) for words, good in holds.items()}
        return Outcome(self.id, self.claim, holds, numbers, time.perf_counter() - began)


CHECKS: dict[str, Check] = {}
"""All checks by id."""


def check(id: str, claim: str) -> Callable[[Callable[..., tuple[Numbers, Holds]]], Check]:
    """Make a check of a function that returns what it measured and which parts of the criterion hold."""

    def register(measure: Callable[..., tuple[Numbers, Holds]]) -> Check:
        CHECKS[id] = Check(id, claim, measure)
        return CHECKS[id]

    return register
