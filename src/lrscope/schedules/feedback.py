"""Schedules that listen: their value depends on what the run reported, not on the step alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean, number, short, whole
from lrscope.schedules.shapes import Constant

State = dict[str, Any]


class FeedbackSchedule(ABC):
    """A value that depends on what the run reports, with all its memory in a state that is plain data.

    The object itself never changes. :meth:`init` gives the state before the first update, :meth:`update` a new
    state from an observation, :meth:`value` the value at a step. So a run can be stopped anywhere: the state is
    stored, and going on from it is exact. A subclass is a frozen dataclass of its settings.

    ``ScheduledLR`` runs it like a schedule; ``scheduler.observe(loss=...)`` hands it what was seen, and
    :func:`lrscope.train` does so by itself. Multiplied by a :class:`Schedule`, it still listens.

    Attributes:
        listens_to: Names of what it wants to hear.
        every_update: Whether it is to hear the training loss before each update, also where a trainer of someone
            else reports validations only.
        measures: Whether it has to measure something by itself, see :meth:`measure`.
        absolute: Whether its values are those of the group's key itself, not factors on the group's own value.
    """

    listens_to: frozenset[str] = frozenset({"loss"})
    every_update = False
    measures = False
    absolute = False

    def drives(self) -> dict[str, FeedbackSchedule]:
        """What drives which key of the optimizer's groups; the learning rate, unless it says otherwise."""
        return {"lr": self}

    def measure(
        self,
        state: State,
        step: int,
        observed: Mapping[str, float],
        objective: Callable[[], Any],
        optimizer: Any,
        unit: float,
    ) -> Mapping[str, float]:
        """What it has to measure by itself before the coming update, to be observed together with ``observed``.

        Gradients are ready then, and the parameters not yet moved. Most schedules measure nothing.

        Args:
            state, step, observed: As for :meth:`update`, which comes next.
            objective: Makes the loss of the coming update's batch, an :class:`~lrscope.Objective`.
            optimizer: The live one.
            unit: Learning rate of the optimizer's first group for a value of 1.
        """
        del state, step, observed, objective, optimizer, unit
        return {}

    def __mul__(self, other: Schedule | float) -> FeedbackSchedule:
        return Scaled(
            self, other if isinstance(other, Schedule) else Constant(number("FeedbackSchedule", "*", other))
        )

    __rmul__ = __mul__

    @abstractmethod
    def init(self) -> State:
        """The state before the first update: numbers, text, and lists and dicts of them."""

    @abstractmethod
    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        """A new state after ``observed`` was reported at ``step``; ``state`` itself is left as it is."""

    @abstractmethod
    def value(self, state: State, step: int) -> float:
        """The value at ``step``."""

    def to_spec(self) -> dict[str, Any]:
        """Plain data that tells this schedule from another one."""
        settings = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        return {"kind": type(self).__name__, **settings}


@dataclass(frozen=True)
class Scaled(FeedbackSchedule):
    """A schedule that listens times one that does not: ``Plateau() * warmup(500)``.

    Args:
        feedback: What listens.
        factor: What its value is multiplied by, at the same step.
    """

    feedback: FeedbackSchedule
    factor: Schedule

    @property
    def listens_to(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.listens_to

    @property
    def every_update(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.every_update

    @property
    def measures(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.measures

    @property
    def absolute(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.feedback.absolute

    def drives(self) -> dict[str, FeedbackSchedule]:
        """The learning rate is what is scaled; other keys stay as they are."""
        return self.feedback.drives() | {"lr": self}

    def init(self) -> State:
        return self.feedback.init()

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        return self.feedback.update(state, step, observed)

    def value(self, state: State, step: int) -> float:
        return self.feedback.value(state, step) * self.factor(step)

    def measure(
        self,
        state: State,
        step: int,
        observed: Mapping[str, float],
        objective: Callable[[], Any],
        optimizer: Any,
        unit: float,
    ) -> Mapping[str, float]:
        return self.feedback.measure(state, step, observed, objective, optimizer, unit * self.factor(step))

    def to_spec(self) -> dict[str, Any]:
        return {"kind": "Scaled", "feedback": self.feedback.to_spec(), "factor": self.factor.to_spec()}


@dataclass(frozen=True)
class Plateau(FeedbackSchedule):
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

    def init(self) -> State:
        return {"value": 1.0, "best": math.inf if self.mode == "min" else -math.inf, "bad": 0, "cooldown": 0}

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        del step
        if self.metric not in observed:
            raise ScheduleError(
                f"Plateau: {short(self.metric)} was not observed; {did_you_mean(self.metric, observed)}; "
                f"call scheduler.observe({self.metric}=...)"
            )
        seen = _observed(self.metric, observed[self.metric])
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


def _observed(name: str, value: Any) -> float:
    """A metric as a float, which may be NaN or infinite: a run that diverges reports so."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ScheduleError(f"Plateau: {name} must be a number, got {short(value)}") from None
