"""Down when a metric has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import did_you_mean, number, short, whole
from lrscope.schedules.feedback import FeedbackSchedule, State, heard


@dataclass(frozen=True)
class Plateau(FeedbackSchedule, kind="plateau"):
    """Down by a factor each time a metric has stopped improving.

    The value is 1, and ``factor`` times the one before after more than ``patience`` observations in a row that
    did not improve on the best one by the threshold; then ``cooldown`` observations are not counted. It is what
    PyTorch's ``ReduceLROnPlateau`` does, with ``low`` as a floor relative to the group's own rate.

    Args:
        metric: The name under which it is observed: ``scheduler.observe(eval_loss=0.3)``.
        factor: Less than 1.
        patience: Observations without improvement that are borne.
        threshold: How much is an improvement.
        mode: ``"min"``: lower is better; ``"max"``: higher is.
        relative: Whether the threshold is a share of the best value, or absolute.
        cooldown: Observations after a drop that are not counted as bad.
        low: The floor, as a factor.
        eps: A drop that would change the factor by no more than this is not made.
    """

    metric: str = "loss"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    mode: str = "min"
    relative: bool = True
    cooldown: int = 0
    low: float = 0.0
    eps: float = 0.0

    @property
    def listens_to(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({self.metric})

    def __post_init__(self) -> None:
        if not 0 < number("Plateau", "factor", self.factor) < 1:
            raise ScheduleError(f"Plateau: factor must be between 0 and 1, got {self.factor:g}")
        whole("Plateau", "patience", self.patience)
        whole("Plateau", "cooldown", self.cooldown)
        for name in ("threshold", "low", "eps"):
            if number("Plateau", name, getattr(self, name)) < 0:
                raise ScheduleError(f"Plateau: {name} must be 0 or more, got {getattr(self, name):g}")
        if self.mode not in ("min", "max"):
            raise ScheduleError(
                f"Plateau: unknown mode {short(self.mode)}; {did_you_mean(self.mode, ('min', 'max'))}"
            )

    def bounds(self) -> tuple[float, float]:
        return min(self.low, 1.0), 1.0

    def init(self) -> State:
        return {"value": 1.0, "best": math.inf if self.mode == "min" else -math.inf, "bad": 0, "cooldown": 0}

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        del step
        seen = heard(self, observed, self.metric)
        value, best, bad, wait = state["value"], state["best"], state["bad"], state["cooldown"]
        best, bad = (seen, 0) if self._better(seen, best) else (best, bad + 1)
        if wait > 0:
            wait, bad = wait - 1, 0
        if bad > self.patience:
            lower = max(value * self.factor, self.low)
            value = lower if value - lower > self.eps else value
            wait, bad = self.cooldown, 0
        return {"value": value, "best": best, "bad": bad, "cooldown": wait}

    def value(self, state: State, step: int) -> float:
        del step
        return state["value"]

    def _better(self, seen: float, best: float) -> bool:
        if not self.relative:
            return seen < best - self.threshold if self.mode == "min" else seen > best + self.threshold
        return seen < best * (1 - self.threshold) if self.mode == "min" else seen > best * (1 + self.threshold)
