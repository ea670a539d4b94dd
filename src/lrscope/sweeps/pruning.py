"""When a run of a search is given up, by its loss curve: catapults come back, and a warmup is behind by design."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

LOST = 1e30
"""Stands for a loss that is not finite."""


@dataclass(frozen=True)
class Judgement:
    """What :func:`lrscope.sweeps.optuna.pruner` asks of a loss curve, a mapping from steps to mean losses.

    Attributes:
        startup: Finished runs before any is compared.
        patience: Updates above the first loss after which a run is lost.
        margin: In interquartile ranges of the finished runs.
    """

    startup: int = 5
    patience: int = 100
    margin: float = 1.5

    def lost(self, curve: Mapping[int, float]) -> bool:
        """Whether the loss has stood above its first value for ``patience`` updates: a catapult comes back sooner."""
        steps = sorted(curve)
        if not steps or not math.isfinite(curve[steps[-1]]) or curve[steps[-1]] >= LOST:
            return bool(steps)
        first = curve[steps[0]]
        low = [step for step in steps if curve[step] <= first]
        return steps[-1] - low[-1] >= self.patience

    def behind(self, curve: Mapping[int, float], others: Sequence[Mapping[int, float]], since: int) -> bool:
        """Whether its lowest loss lies above the median of what others had reached at this step, by ``margin`` of how
        far these lie apart; not asked within its warmup, when it is behind by design.
        """
        now = max(curve, default=0)
        if now <= since or len(others) < self.startup:
            return False
        reached = sorted(min(v for s, v in other.items() if s <= now) for other in others if min(other) <= now)
        if len(reached) < self.startup:
            return False
        apart = reached[(3 * len(reached)) // 4] - reached[len(reached) // 4]
        return min(curve.values()) > median(reached) + self.margin * apart
