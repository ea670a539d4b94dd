"""The length of a training run, and what turns epochs, tokens and percentages into steps."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import did_you_mean, number, whole

UNITS = ("%", "epoch", "epochs", "step", "steps", "token", "tokens")


@dataclass(frozen=True)
class Horizon:
    """How long a run is. Every length with a unit is turned into steps here, once.

    Args:
        steps: Optimizer updates in the whole run, 1 or more.
        steps_per_epoch: Optimizer updates per pass over the data; needed for lengths in epochs.
        tokens_per_step: Tokens per optimizer update over all devices; needed for lengths in tokens.

    Example:
        >>> float(Horizon(10_000, steps_per_epoch=500).in_steps(3, "epochs"))
        1500.0
    """

    steps: int
    steps_per_epoch: int | None = None
    tokens_per_step: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("Horizon", "steps", self.steps, at_least=1))
        if self.steps_per_epoch is not None:
            per_epoch = whole("Horizon", "steps_per_epoch", self.steps_per_epoch, at_least=1)
            object.__setattr__(self, "steps_per_epoch", per_epoch)
        if self.tokens_per_step is not None:
            per_step = number("Horizon", "tokens_per_step", self.tokens_per_step, above=0)
            object.__setattr__(self, "tokens_per_step", per_step)

    def in_steps(self, amount: float, unit: str = "steps") -> Fraction:
        """A length as an exact number of steps, not yet rounded.

        Args:
            amount: 0 or more.
            unit: ``"steps"``, ``"epochs"``, ``"tokens"`` or ``"%"`` of this horizon.
        """
        exact = Fraction(number("Horizon", "amount", amount)).limit_denominator(
            10**12
        )  # 33.3 means 333/10, so that percentages add up
        if unit == "%":
            return exact * self.steps / 100
        if unit in ("step", "steps"):
            return exact
        if unit in ("epoch", "epochs"):
            if self.steps_per_epoch is None:
                raise ScheduleError("a length in epochs needs Horizon(steps_per_epoch=...)")
            return exact * self.steps_per_epoch
        if unit in ("token", "tokens"):
            if self.tokens_per_step is None:
                raise ScheduleError("a length in tokens needs Horizon(tokens_per_step=...)")
            return exact / Fraction(self.tokens_per_step)
        raise ScheduleError(f"unknown unit {unit!r}; {did_you_mean(unit, UNITS)}")
