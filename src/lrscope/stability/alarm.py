"""Say once, in plain words, that a run has been beyond what curvature allows for several readings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
"""A rate that was set to the limit is not above it."""


class Alarm:
    """Goes off when the headroom has been above 1 for ``patience`` readings in a row, once until it is below again.

    Args:
        patience: Readings in a row.

    Attributes:
        since: Step of the first of the present readings above 1; ``None`` below.
        worst, worst_step: The highest of them, and its step.
        gone_off: Whether it has gone off since then.

    Raises:
        ValueError: ``patience`` is not a positive number of readings.
    """

    def __init__(self, patience: int) -> None:
        self.patience = checked_patience(patience)
        self._below()

    def see(self, step: int, headroom: float, lr: float, stable_lr: float | None) -> str | None:
        """One reading; returns what to say where it goes off now."""
        if stable_lr is None or not headroom > 1 + ROUNDING:
            self._below()
            return None
        self.count += 1
        self.since = step if self.since is None else self.since
        if headroom > self.worst:
            self.worst, self.worst_step = headroom, step
        if self.gone_off or self.count < self.patience:
            return None
        self.gone_off = True
        readings = f"{self.count} readings in a row" if self.count > 1 else "a reading"
        return (
            f"headroom is above 1 at {readings}, since step {self.since}: the learning rate {lr:.3g} is "
            f"{headroom:.2f} times what curvature allows ({stable_lr:.3g}); at most {self.worst:.2f} times, at step "
            f"{self.worst_step}. If the loss climbs, lower the rate below {stable_lr:.2g}, warm up longer, or give a "
            "cap; if it falls all the same, training sits at the edge of stability, which asks for nothing"
        )

    def _below(self) -> None:
        self.since: int | None = None
        self.count = 0
        self.worst, self.worst_step = 0.0, 0
        self.gone_off = False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the patience is that of this run."""
        vars(self).update({k: v for k, v in state.items() if k != "patience"})


def checked_patience(patience: Any) -> int:
    """``patience`` as it is, or a ValueError."""
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"alarm: expected readings in a row with headroom above 1, such as 5, got {patience!r}")
    return patience
