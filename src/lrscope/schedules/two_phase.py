"""Two phases of SGD: large steps without momentum, then small steps with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import did_you_mean, number, short, whole
from lrscope.schedules.feedback import FeedbackSchedule, State, heard


@dataclass(frozen=True)
class TwoPhase(FeedbackSchedule, kind="two_phase"):
    """A large learning rate without momentum, then a small one with momentum; one switch between them.

    Large steps hardly lower the training loss any more after a while, but where they lead generalises; momentum does
    nothing for them that another learning rate would not. Small steps then optimise, and momentum speeds them up.
    Given as it is to ``ScheduledLR``, ``lrscope.train`` or an adapter, it drives both ``lr`` and ``momentum`` of any
    ``torch.optim.SGD``. No momentum buffer survives the switch: it starts from the first gradient after it.

    The switch comes at a given share of the run; or, with ``"plateau"``, when the metric has stopped improving: the
    median of every ``window`` observations is one reading, and after ``patience`` readings in a row that were not
    lower than the best one by ``improvement`` the second phase starts. Medians, as single batches and single epochs
    jump up and down in the first phase by its very nature.

    Args:
        large, small: Learning rates of the phases, as factors on each group's own rate (of 1 where an optimizer is
            given by name). ``lrscope.stability.two_phase_rates`` measures them.
        switch: ``"plateau"``, or the share of ``steps`` after which to switch, such as 0.6.
        steps: Updates of the whole run, for a share.
        momentum: Of the second phase; the first has none.
        metric: What is observed for a plateau; ``"loss"`` is the training loss of each update.
        window: Observations in a reading. For a metric that comes once per epoch, about 5.
        patience: Readings in a row without improvement.
        improvement: Share by which a reading must be lower than the best one.

    Raises:
        ScheduleError: A number is out of range, or a share is given without ``steps``.

    Example:
        >>> two = TwoPhase(0.5, 0.05, switch=0.6, steps=10)
        >>> [two.value(two.init(), t) for t in (0, 5, 6, 9)]
        [0.5, 0.5, 0.05, 0.05]

    References:
        Leclerc and Madry, "The Two Regimes of Deep Network Training", 2020, arXiv 2002.10376: the two phases. How
        the switch is found is our own choice.
    """

    large: float
    small: float
    switch: str | float = "plateau"
    steps: int | None = None
    momentum: float = 0.9
    metric: str = "loss"
    window: int = 50
    patience: int = 5
    improvement: float = 0.01

    @property
    def every_update(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "loss" in self.listens_to

    @property
    def listens_to(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({self.metric} if self.switch == "plateau" else ())

    def __post_init__(self) -> None:
        for name in ("large", "small"):
            number("TwoPhase", name, getattr(self, name), above=0.0)
        if not 0 <= number("TwoPhase", "momentum", self.momentum) < 1:
            raise ScheduleError(f"TwoPhase: momentum must be 0 or more and less than 1, got {self.momentum:g}")
        for name in ("window", "patience"):
            whole(
                "TwoPhase",
                name,
                getattr(self, name),
                at_least=1,
                of="observations" if name == "window" else "readings",
            )
        if not 0 <= number("TwoPhase", "improvement", self.improvement) < 1:
            raise ScheduleError(f"TwoPhase: improvement must be 0 or more and less than 1, got {self.improvement:g}")
        if isinstance(self.switch, str):
            if self.switch != "plateau":
                hint = did_you_mean(self.switch, ("plateau",))
                raise ScheduleError(f"TwoPhase: unknown switch {short(self.switch)}; {hint}, or a share such as 0.6")
            if self.steps is not None:
                raise ScheduleError("TwoPhase: steps is for a share of the run; a plateau needs none, leave it out")
        elif not 0 <= number("TwoPhase", "switch", self.switch) <= 1:
            raise ScheduleError(f"TwoPhase: switch must be 'plateau' or a share between 0 and 1, got {self.switch:g}")
        elif self.steps is None:
            raise ScheduleError(
                f"TwoPhase: switch={self.switch:g} is a share of the run, whose length is not known; give steps="
            )
        else:
            whole("TwoPhase", "steps", self.steps, at_least=1)

    def drives(self) -> dict[str, FeedbackSchedule]:
        """The learning rate, and the momentum that goes with it."""
        return {"lr": self, "momentum": PhaseMomentum(self)}

    def bounds(self) -> tuple[float, float]:
        return min(self.large, self.small), max(self.large, self.small)

    @classmethod
    def completed(cls, settings: dict[str, Any], steps: int | None) -> dict[str, Any]:
        """A share is of the run that the text is read for."""
        share = isinstance(settings.get("switch"), float) and steps is not None
        return {"steps": steps} | settings if share else settings

    def init(self) -> State:
        at = None if self.switch == "plateau" else round(float(self.switch) * (self.steps or 0))
        return {"switch_at": at, "window": [], "best": math.inf, "stale": 0}

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        if self.switch != "plateau":
            return state
        seen = heard(self, observed, self.metric)
        if state["switch_at"] is not None:
            return state
        window = [*state["window"], seen]
        if len(window) < self.window:
            return state | {"window": window}
        # What is not finite is no improvement; a plain median of it would depend on the order.
        reading = median(x if math.isfinite(x) else math.inf for x in window)
        best, stale = state["best"], state["stale"]
        better = reading < best - self.improvement * abs(best) if math.isfinite(best) else reading < best
        best, stale = (reading, 0) if better else (best, stale + 1)
        at = step if stale >= self.patience else None
        return {"switch_at": at, "window": [], "best": best, "stale": stale}

    def value(self, state: State, step: int) -> float:
        return self.small if self.is_small(state, step) else self.large

    @staticmethod
    def is_small(state: State, step: int) -> bool:
        """Whether the update of this step belongs to the second phase."""
        return state["switch_at"] is not None and step >= state["switch_at"]


@dataclass(frozen=True)
class PhaseMomentum(FeedbackSchedule, kind="phase_momentum"):
    """The momentum of a :class:`TwoPhase`: none, then its own."""

    phases: TwoPhase

    absolute = True

    @property
    def every_update(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.phases.every_update

    @property
    def listens_to(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.phases.listens_to

    def bounds(self) -> tuple[float, float]:
        return 0.0, self.phases.momentum

    def init(self) -> State:
        return self.phases.init()

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        return self.phases.update(state, step, observed)

    def value(self, state: State, step: int) -> float:
        return self.phases.momentum if self.phases.is_small(state, step) else 0.0
