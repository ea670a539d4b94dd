"""When to measure again: a rule over numbers only, without clocks, networks or vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FAR = 0.1
"""Relative movement of the value between two readings that is accepted far from the edge."""
NEAR = 0.02
"""And at the edge, where a few percent decide."""


class Pace:
    r"""Decides at which steps of a run a quantity is measured, from the readings so far.

    Headroom is ``scale * value``, with the scale known at every step for free (learning rate over threshold). Its
    distance from 1 on a log scale says how much of a movement may pass unseen:

    .. math:: a = \min(\max(|\log h| / 2, 0.02), 0.1), \quad h = \text{scale} \cdot \text{value}

    so that at the assumed speed the headroom gets no further than halfway to 1 between two readings. The next reading
    is due

    - when the value, at its assumed speed, would have moved by more than a before the next chance. The speed is the
      relative movement per step since the reading before, but at least half of what was assumed until then: at a
      surprise the period shrinks at once to what the new speed asks for, in calm it doubles. These periods are odd,
      so that an oscillation of period two, the usual one at the edge of stability, is met in both of its phases;
    - when the scale alone has taken the headroom halfway to 1 (0.01 to 0.1, 0.25 to 0.5), or half as far again away;
    - after ``longest`` steps.

    A gap thus takes at most a / speed steps, or one. A value whose speed does not double between two readings moves
    by at most 2a between them, and headroom that rises towards 1 is read a few percent beyond it at the latest. A
    jump out of calm is read after ``longest`` steps at the latest; what happens between two readings and is gone
    again at the second is not seen at all. A budget comes before all this: a reading waits until as much has been
    saved up as the last one needed, since few readings that are right say more than many that were cut short.

    Args:
        longest: Steps between readings at most.
        budget: Cost units per step that all readings but the first may spend, or ``None``.
    """

    def __init__(self, *, longest: int = 100, budget: float | None = None) -> None:
        self.longest = longest
        self.budget = budget
        self.account = 0.0
        self._values: list[float] = []
        self._elapsed = -1  # steps since the last reading; -1 before the first
        self._needed = 0.0  # what a reading should be able to spend
        self._speed = FAR
        self._scale = self._scale_read = math.nan

    def due(self, scale: float = math.nan, *, price: float = 0.0) -> bool:
        """Once per step: whether to measure now.

        Args:
            scale: What makes a headroom of the value at this step; ``nan`` where there is no threshold.
            price: Cost units of the cheapest reading.
        """
        self._scale = scale
        if self._elapsed < 0:
            return True
        self._elapsed += 1
        if self.budget is not None:
            self.account += self.budget
            if self.account < max(price, self._needed):
                return False
        if self._elapsed >= self.longest or self._pulled():
            return True
        ahead = self._elapsed + 2  # the next odd chance
        return self._elapsed % 2 == 1 and (self._speed * ahead > self._allowed() or ahead > self.longest)

    def read(self, values: Sequence[float], cost: float = 0.0, *, cut: bool = False) -> None:
        """Note a reading, made now.

        Args:
            values: The largest first. Where one is not finite the run has diverged: nothing moves any more, so
                readings become rare.
            cost: Cost units spent on it.
            cut: Whether it would have spent more, had there been more; the next one then waits for twice as much.
        """
        if self._elapsed >= 0:
            self.account -= cost
            self._needed = 2 * cost if cut else cost
        else:
            self._needed = cost / 4  # a warm start needs less than a cold one
        finite = all(map(math.isfinite, values))
        moved = _movement(self._values, values) if finite and self._values else 0.0
        if self._elapsed > 0:
            self._speed = max(moved / self._elapsed, self._speed / 2)
        self._values = list(values) if finite else self._values
        self._elapsed, self._scale_read = 0, self._scale

    @property
    def elapsed(self) -> int:
        """Steps since the last reading; 0 before the first."""
        return max(self._elapsed, 0)

    def _distance(self, scale: float) -> float:
        """|log headroom|, ``inf`` where there is none."""
        headroom = scale * self._values[0] if self._values else math.nan
        return abs(math.log(headroom)) if 0 < headroom < math.inf else math.inf

    def _allowed(self) -> float:
        if self._values and self._scale * self._values[0] >= 1:
            return NEAR
        return min(max(self._distance(self._scale) / 2, NEAR), FAR)

    def _pulled(self) -> bool:
        """Whether the scale alone has taken the headroom halfway to 1, or half as far again away from it."""
        now, then = self._distance(self._scale), self._distance(self._scale_read)
        if math.isinf(now):
            return False
        moved = math.inf if math.isinf(then) else abs(math.log(self._scale / self._scale_read))
        return moved >= max(NEAR, min(now, then / 2))

    def state_dict(self) -> dict[str, Any]:
        return {
            "account": self.account,
            "needed": self._needed,
            "elapsed": self._elapsed,
            "values": list(self._values),
            "speed": self._speed,
            "scale": self._scale,
            "scale_read": self._scale_read,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.account, self._needed = state["account"], state["needed"]
        self._elapsed, self._speed = state["elapsed"], state["speed"]
        self._values = list(state["values"])
        self._scale, self._scale_read = state["scale"], state["scale_read"]


def _movement(before: Sequence[float], now: Sequence[float]) -> float:
    """The largest change of a value, relative to the largest."""
    size = max(abs(before[0]), abs(now[0])) or 1.0
    return max(abs(a - b) for a, b in zip(before, now, strict=True)) / size
