"""When a run counts as diverged. Every engine uses this one rule."""

from __future__ import annotations

import math

FACTOR = 1e3
"""A loss above this many times the first loss is called divergence: no training comes back from there in practice,
and stopping keeps its infinities out of everything computed next to it."""


def limit(first_loss: float) -> float:
    """The largest loss that is not yet divergence, given the run's first loss."""
    return FACTOR * max(abs(first_loss), 1e-3)


def has_diverged(loss: float, first_loss: float) -> bool:
    return not math.isfinite(loss) or loss > limit(first_loss)
