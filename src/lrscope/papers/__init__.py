"""What papers state, as checks that anyone can run at small scale: the claim, our measurement, the verdict."""

from __future__ import annotations

import re
from importlib import import_module

from lrscope.papers.check import CHECKS, Check, Outcome

PAPERS = ("kalra2024", "leclerc2020", "lewkowycz2020", "li2019")
"""Keys of the papers; :mod:`lrscope.papers.kalra2024` and so on name theirs in full."""


def checks(*names: str) -> dict[str, Check]:
    """Checks by id, in the order of their numbers.

    Args:
        names: Papers (``"li2019"``) and single checks (``"kalra2024/14"``); all papers unless given.

    Raises:
        ValueError: No such paper or check.

    Example:
        >>> check = checks("lewkowycz2020/L2")["lewkowycz2020/L2"]
        >>> print(check())  # doctest: +ELLIPSIS
        lewkowycz2020/L2: reproduced: A catapult peaks after a time that grows with ln width, ...
    """
    found: dict[str, Check] = {}
    for name in names or PAPERS:
        paper = name.partition("/")[0]
        if paper not in PAPERS:
            raise ValueError(f"names: no paper {paper!r}; there are {', '.join(PAPERS)}")
        import_module(f"lrscope.papers.{paper}")
        known = {id: CHECKS[id] for id in sorted(CHECKS, key=_number) if CHECKS[id].paper == paper}
        if name != paper and name not in known:
            raise ValueError(f"names: no check {name!r}; there are {', '.join(known)}")
        found |= known if name == paper else {name: known[name]}
    return found


def _number(id: str) -> tuple[int | str, ...]:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", id))


__all__ = ["PAPERS", "Check", "Outcome", "checks"]
