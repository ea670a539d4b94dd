"""What papers state, as claims that anyone can run at small scale: the statement, our measurement, the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from lrscope.papers.claim import CLAIMS, Claim, Outcome

PAPERS = ("gotmare2018", "kalra2024", "leclerc2020", "lewkowycz2020", "li2019")
"""Keys of the papers; :mod:`lrscope.papers.kalra2024` and so on name theirs in full."""


@dataclass(frozen=True)
class Paper:
    """A paper and its claims.

    Attributes:
        key: First author and year, ``"kalra2024"``.
        title: Authors, title, year and number of the preprint; then what differs from the paper's setting.
        claims: By id.
    """

    key: str
    title: str
    claims: dict[str, Claim]


def get(key: str) -> Paper:
    """A paper by its key.

    Raises:
        ValueError: No such paper.
    """
    found = claims(key)
    return Paper(key, (import_module(f"lrscope.papers.{key}").__doc__ or "").strip(), found)


def claims(*names: str) -> dict[str, Claim]:
    """Claims by id: of each paper the main statements first.

    Args:
        names: Papers (``"li2019"``) and single claims (``"li2019/equivalence"``); all papers unless given.

    Raises:
        ValueError: No such paper or claim.

    Example:
        >>> claim = claims("lewkowycz2020/catapult-time")["lewkowycz2020/catapult-time"]
        >>> print(claim())  # doctest: +ELLIPSIS
        lewkowycz2020/catapult-time: reproduced: A catapult peaks after a time that grows with ln width, ...
    """
    found: dict[str, Claim] = {}
    for name in names or PAPERS:
        paper = name.partition("/")[0]
        if paper not in PAPERS:
            raise ValueError(f"names: no paper {paper!r}{_near(paper, PAPERS)}; there are {', '.join(PAPERS)}")
        import_module(f"lrscope.papers.{paper}")
        of_paper = [claim for claim in CLAIMS.values() if claim.paper == paper]
        known = {claim.id: claim for claim in sorted(of_paper, key=lambda claim: not claim.headline)}
        if name != paper and name not in known:
            raise ValueError(f"names: no claim {name!r}{_near(name, known)}; there are {', '.join(known)}")
        found |= known if name == paper else {name: known[name]}
    return found


def _near(word: str, known: object) -> str:
    close = get_close_matches(word, list(known), n=1)  # type: ignore[call-overload]
    return f" (did you mean {close[0]!r}?)" if close else ""


__all__ = ["PAPERS", "Claim", "Outcome", "Paper", "claims", "get"]
