"""Training at the edge of stability: the learning rate times the sharpness hovers around what is stable."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lrscope.errors import MeasurementError
from lrscope.records import Run

NEAR = (0.9, 1.5)
"""Headroom that counts as around the limit. Nothing holds the sharpness below 1, and what pushes it back above acts
late: on full-batch digits smooth networks hovered between 0.98 and 1.1, ReLU networks between 1.05 and 1.65."""
SPAN = 100
"""Updates that decide together: longer than a single catapult and its approach, which only pass the limit."""
FEWEST = 10
"""Readings that decide together, at least."""


@dataclass(frozen=True)
class EdgeOfStability:
    """Where headroom hovered around 1.

    Attributes:
        share: Of all readings, those at the edge.
        since: Step from which on it was there, the last time; ``None`` if it never was.
        until: Step at which it left; ``None`` while it is there.
        mean, spread: Of the headroom at the edge: mean and standard deviation; ``nan`` if it never was there.
        num_readings: All readings; those at a rate that a cap had lowered are not among them.
        episodes: First and last step of each stay; the last step of one that lasts is ``None``.
    """

    share: float
    since: int | None
    until: int | None
    mean: float
    spread: float
    num_readings: int
    episodes: tuple[tuple[int, int | None], ...] = ()

    def __str__(self) -> str:
        if self.since is None:
            return f"training was never at the edge of stability ({self.num_readings} readings)"
        when = f"from step {self.since:,} on" if self.until is None else f"from step {self.since:,} to {self.until:,}"
        return (
            f"training sat at the edge of stability {when} ({self.share:.0%} of the readings): the learning rate "
            f"stayed at {self.mean:.2f} +- {self.spread:.2g} times what curvature allows, as the curvature gave way"
        )


class EdgeDetector:
    """Whether training sits at the edge of stability now, reading by reading.

    It does once 60 % of the readings of the last :data:`SPAN` updates are :data:`NEAR` 1, at least one of them at 1
    or above; until fewer than a quarter are, or none has been at 1 or above for four times as long: what rests below
    the limit is not held there.

    Attributes:
        since: Step of the first of those at 1 or above; ``None`` while it is not there.
        last: Step of the last reading at 1 or above.

    Example:
        >>> detector = EdgeDetector()
        >>> rising = [0.01 * step for step in range(100)]
        >>> [detector.update(step, h) for step, h in enumerate(rising + [1.01, 0.99] * 50)].index("reached")
        149
        >>> detector.since
        100
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.last: int | None = None
        self._recent: deque[tuple[int, float]] = deque()

    def update(self, step: int, headroom: float) -> Literal["reached", "left"] | None:
        """Note a reading; says when the edge is reached or left."""
        if not math.isfinite(headroom):
            return None
        self._recent.append((step, headroom))
        while len(self._recent) > FEWEST and self._recent[0][0] <= step - SPAN:
            self._recent.popleft()
        near = [(s, h) for s, h in self._recent if NEAR[0] <= h <= NEAR[1]]
        if headroom >= 1:
            self.last = step
        share = len(near) / len(self._recent)
        if self.since is not None:
            if share >= 0.25 and self.last is not None and step - self.last <= 4 * SPAN:
                return None
            self.since = None
            return "left"
        long = len(self._recent) >= FEWEST and step - self._recent[0][0] >= 0.9 * SPAN
        if not long or share < 0.6 or max(h for _, h in near) < 1:
            return None
        self.since = next(s for s, h in near if h >= 1)
        return "reached"

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of them; a detector that loads it goes on as if never interrupted."""
        return {"since": self.since, "last": self.last, "recent": [list(r) for r in self._recent]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.since, self.last = state["since"], state["last"]
        self._recent = deque((s, h) for s, h in state["recent"])


def edge_of_stability(run: Run) -> EdgeOfStability:
    """Which share of ``run`` sat at the edge of stability, since when, and how closely.

    The column ``headroom`` goes through an :class:`EdgeDetector`. With momentum and small batches training becomes
    unstable below 1 already and hovers there: that is not told from a learning rate that is small.

    Raises:
        MeasurementError: There are no readings of the headroom.

    References:
        Cohen et al., "Gradient descent on neural networks typically occurs at the edge of stability", 2021,
        arXiv 2103.00065; thresholds of other optimizers as in :func:`~lrscope.curvature.stability_threshold`.
    """
    readings = [
        (int(row["step"]), float(row["headroom"]))
        for row in run.rows
        if row.get("headroom") is not None and row.get("lr_used") is None
    ]
    if not readings:
        raise MeasurementError(
            f"run {run.name!r}: no readings of the headroom (columns: {', '.join(run.columns) or 'none'}); record "
            "them with SharpnessProbe or Watch"
        )
    detector, begun = EdgeDetector(), None
    episodes: list[tuple[int, int | None]] = []
    for step, headroom in readings:
        said = detector.update(step, headroom)
        if said == "reached":
            begun = detector.since
        elif said == "left" and begun is not None:
            episodes.append((begun, detector.last))
            begun = None
    if begun is not None:
        episodes.append((begun, None))
    inside = [h for s, h in readings if any(a <= s <= (math.inf if b is None else b) for a, b in episodes)]
    since, until = episodes[-1] if episodes else (None, None)
    mean, spread = (float(np.mean(inside)), float(np.std(inside))) if inside else (math.nan, math.nan)
    return EdgeOfStability(len(inside) / len(readings), since, until, mean, spread, len(readings), tuple(episodes))
