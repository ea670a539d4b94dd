"""Down until the loss converges, up until the weights have moved away, and down again: several optima in one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import number, short, whole
from lrscope.schedules.feedback import FeedbackSchedule, State, heard


@dataclass(frozen=True)
class AutoEnsemble(FeedbackSchedule, kind="auto_ensemble"):
    r"""Cycles whose length the training decides, to collect an ensemble from one run.

    The rate falls by ``fall`` per update, no lower than ``low``, until the loss has converged: its mean over the
    last ``window`` updates is above :math:`1 - \epsilon` times that over the window before, three windows after the
    descent began at the earliest. That is a minimum, and a member. Then the rate rises by ``rise`` per update, no
    higher than ``high``, until the weights have turned away from the member,
    :math:`1 - \cos(\theta, \theta_m) >` ``distance``, and falls again. After ``members - 1`` minima it stays down:
    the end of the run is the last member.

    :class:`~lrscope.training.Snapshots`, given to :func:`lrscope.train` as a probe, saves the members and reports the
    distance. In a loop of your own report both: ``scheduler.observe(loss=loss)``, then
    ``scheduler.observe(distance=snapshots.look(model, step, lr)["distance"])``.
    :func:`lrscope.training.ensemble` then judges members and ensemble.

    Args:
        low, high: Bounds of the learning rate, as factors on each group's own rate (of 1 where an optimizer is given
            by name). It begins at ``high``, which should train well by itself: where it diverges, so do members.
        members: How many to collect, 2 or more.
        window: Updates in a mean of the loss.
        epsilon: Improvement from one window to the next below which the loss has converged.
        fall, rise: Factors per update.
        distance: How far to go away from a member; 0.05 is a turn of 18 degrees.
        patience: Updates after which an ascent ends, however near the member still is.

    Raises:
        ScheduleError: A number is out of range; when it runs, that it is told neither loss nor distance.

    Example:
        >>> schedule = AutoEnsemble(0.01, 0.1, window=2)
        >>> state = schedule.init()
        >>> rates = []
        >>> for step in range(8):
        ...     state = schedule.update(state, step, {"loss": 1.0})
        ...     rates.append(round(schedule.value(state, step), 4))
        >>> rates, state["minima"]  # a loss that stands still: down for three windows, then up
        ([0.099, 0.098, 0.097, 0.0961, 0.0951, 0.0999, 0.1, 0.1], [5])

    References:
        Yang and Wang, "Auto-Ensemble", 2020, arXiv 2003.11266: rise and fall by the model's own convergence, members
        kept apart by a distance. The paper's exact rules were not at hand: these are a reconstruction, with default
        values that worked on digits (docs, "Listening").
    """

    low: float
    high: float
    members: int = 8
    window: int = 50
    epsilon: float = 0.02
    fall: float = 0.99
    rise: float = 1.05
    distance: float = 0.05
    patience: int = 500

    listens_to = frozenset({"loss", "distance"})
    every_update = True

    def __post_init__(self) -> None:
        low, high = (number("AutoEnsemble", name, getattr(self, name), above=0.0) for name in ("low", "high"))
        if low >= high:
            raise ScheduleError(f"AutoEnsemble: low must be below high, got low={low:g}, high={high:g}")
        whole("AutoEnsemble", "members", self.members, at_least=2)
        whole("AutoEnsemble", "window", self.window, at_least=1, of="updates")
        whole("AutoEnsemble", "patience", self.patience, at_least=1, of="updates")
        for name in ("epsilon", "distance"):
            if not 0 <= number("AutoEnsemble", name, getattr(self, name)) < 1:
                raise ScheduleError(
                    f"AutoEnsemble: {name} must be 0 or more and below 1, got {getattr(self, name):g}"
                )
        if not 0 < number("AutoEnsemble", "fall", self.fall) < 1:
            raise ScheduleError(f"AutoEnsemble: fall must be between 0 and 1, a factor per update, got {self.fall:g}")
        if number("AutoEnsemble", "rise", self.rise) <= 1:
            raise ScheduleError(f"AutoEnsemble: rise must be above 1, a factor per update, got {self.rise:g}")

    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def init(self) -> State:
        return {"lr": self.high, "rising": False, "since": 0, "losses": [], "minima": []}

    def value(self, state: State, step: int) -> float:
        del step
        return state["lr"]

    def update(self, state: State, step: int, observed: Mapping[str, Any]) -> State:
        if "loss" not in observed and "distance" not in observed:
            raise ScheduleError(
                f"AutoEnsemble: neither 'loss' nor 'distance' was observed, only {short(sorted(observed))}; call "
                "scheduler.observe(loss=...) and scheduler.observe(distance=...) before each update"
            )
        if "loss" in observed:
            state = (
                self._climb(state) if state["rising"] else self._descend(state, step, heard(self, observed, "loss"))
            )
        if state["rising"] and "distance" in observed and heard(self, observed, "distance") > self.distance:
            state = state | {"rising": False, "since": 0}
        return state

    def _descend(self, state: State, step: int, loss: float) -> State:
        if not math.isfinite(loss):
            return state  # says nothing about convergence; a run that diverges is somebody else's matter
        losses, since = [*state["losses"], loss][-2 * self.window :], state["since"] + 1
        more = len(state["minima"]) < self.members - 1
        if more and since >= 3 * self.window and self._converged(losses):
            lr = min(self.high, state["lr"] * self.rise)
            return {"lr": lr, "rising": True, "since": 0, "losses": [], "minima": [*state["minima"], step]}
        return state | {"lr": max(self.low, state["lr"] * self.fall), "since": since, "losses": losses}

    def _climb(self, state: State) -> State:
        if state["since"] + 1 >= self.patience:
            return state | {"rising": False, "since": 0}
        return state | {"lr": min(self.high, state["lr"] * self.rise), "since": state["since"] + 1}

    def _converged(self, losses: list[float]) -> bool:
        before, last = (math.fsum(part) for part in (losses[: self.window], losses[self.window :]))
        return last > before - self.epsilon * abs(before)
