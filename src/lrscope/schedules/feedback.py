"""Schedules that listen: their value depends on what the run reported, not on the step alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import did_you_mean, number, short
from lrscope.schedules.shapes import Constant

State = dict[str, Any]

_KINDS: dict[str, type[FeedbackSchedule]] = {}


class FeedbackSchedule(ABC):
    """A value that depends on what the run reports, with all its memory in a state that is plain data.

    The object itself never changes. :meth:`init` gives the state before the first update, :meth:`update` a new
    state from an observation, :meth:`value` the value at a step. So a run can be stopped anywhere: the state is
    stored, and going on from it is exact. A subclass is a frozen dataclass of its settings; ``kind="name"`` in its
    class line gives it a text form and lets it go through :meth:`to_spec` and back.

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
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if kind:
            known = _KINDS.setdefault(kind, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ScheduleError(f"{cls.__name__}: kind {kind!r} already belongs to {known.__qualname__}")
            _KINDS[kind] = cls

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

    def parted(self) -> tuple[FeedbackSchedule, Schedule]:
        """What listens, and what its value is multiplied by, which only the step decides."""
        return self, Constant(1.0)

    def bounds(self) -> tuple[float, float]:
        """The least and the most that its value can become, before it is multiplied by a schedule."""
        return -math.inf, math.inf

    def told(self, state: State) -> str:
        """What it did so far, in one sentence; empty where the values say it. ``state`` is that of the scheduler."""
        del state
        return ""

    @classmethod
    def completed(cls, settings: dict[str, Any], steps: int | None) -> dict[str, Any]:
        """Settings of the text form, with what follows from the ``steps`` of the run, if those are known."""
        del steps
        return settings

    def to_spec(self) -> dict[str, Any]:
        """Plain data (JSON-able) from which ``from_spec(spec, listening=True)`` builds an equal schedule."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # pyright: ignore[reportArgumentType]
        inner = (Schedule, FeedbackSchedule)
        plain = {name: v.to_spec() if isinstance(v, inner) else v for name, v in values.items()}
        return {"kind": self.kind or type(self).__name__, **plain}

    def to_text(self) -> str:
        """Text from which ``parse(text, listening=True)`` builds an equal schedule."""
        from lrscope.schedules.write import to_text

        return to_text(self)


@dataclass(frozen=True)
class Scaled(FeedbackSchedule, kind="scaled"):
    """A schedule that listens times one that does not: ``Plateau() * warmup(500)``.

    Args:
        feedback: What listens.
        factor: What its value is multiplied by, at the same step.
    """

    feedback: FeedbackSchedule
    factor: Schedule

    def __post_init__(self) -> None:
        for name, value, wanted in (
            ("feedback", self.feedback, FeedbackSchedule),
            ("factor", self.factor, Schedule),
        ):
            if not isinstance(value, wanted):
                raise ScheduleError(f"Scaled: {name} must be a {wanted.__name__}, got {short(value)}")

    def __mul__(self, other: Schedule | float) -> Scaled:
        return Scaled(self.feedback, self.factor * other)

    __rmul__ = __mul__

    def parted(self) -> tuple[FeedbackSchedule, Schedule]:
        core, inner = self.feedback.parted()
        return core, self.factor if inner == Constant(1.0) else inner * self.factor

    def bounds(self) -> tuple[float, float]:
        return self.feedback.bounds()

    def told(self, state: State) -> str:
        return self.feedback.told(state)

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


def heard(schedule: FeedbackSchedule, observed: Mapping[str, Any], name: str) -> float:
    """What ``schedule`` was told under ``name``; NaN and infinity are numbers too, of a run that diverges.

    Raises:
        ScheduleError: It was not told, or something that is no number.
    """
    who = type(schedule).__name__
    if name not in observed:
        hint = did_you_mean(name, observed)
        raise ScheduleError(f"{who}: {short(name)} was not observed; {hint}; call scheduler.observe({name}=...)")
    value = observed[name]
    try:
        return float(value.detach() if hasattr(value, "detach") else value)  # torch warns of a loss with a graph
    except (TypeError, ValueError, RuntimeError):
        raise ScheduleError(f"{who}: {name} must be a number, got {short(value)}") from None


def listening_kinds() -> Mapping[str, type[FeedbackSchedule]]:
    """Every schedule that listens and can be named in text or a specification, by its name.

    Those that measure with torch are here once ``lrscope.stability`` is imported.
    """
    return _KINDS


MEASURING = ("catapult_warmup", "gen")
"""Kinds of ``lrscope.stability``, which this room may not import."""
