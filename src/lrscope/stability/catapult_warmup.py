"""A warmup by persistent catapults: where the loss begins to rise, not a number of steps, says how fast it goes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lrscope.errors import LrscopeWarning, MeasurementError, ScheduleError
from lrscope.objective import Objective
from lrscope.schedules import FeedbackSchedule
from lrscope.schedules.checks import number, whole
from lrscope.schedules.feedback import State, heard
from lrscope.stability.built_up import built_up
from lrscope.stability.critical_warmup import FALLBACK
from lrscope.stability.jump import find_jump

_SMALLEST = 1e-6
"""Share of the target that the first search tries at least."""


@dataclass(frozen=True)
class CatapultWarmup(FeedbackSchedule, kind="catapult_warmup"):
    r"""A warmup without a length: it jumps to where the loss begins to rise, waits, and jumps again.

    At the start, and each time when the loss is back below its level at the last jump, the learning rate goes to the
    upper end of a search along the optimizer's real next step,

    .. math:: L < L(\theta + \Delta(\eta)) \le (1 + \delta) L,

    a little beyond the critical one. The loss rises, the curvature falls in answer (a small catapult), and the next
    search finds a larger critical rate. So it climbs as fast as the network lets it, and stops at ``target``. It
    never falls: a search that finds less changes nothing. No sharpness is computed.

    ``ScheduledLR`` runs it, and :func:`lrscope.train` knows what to do. In a loop of your own, call
    ``scheduler.observe`` between ``loss.backward()`` (and clipping) and ``optimizer.step()``; in several processes,
    with the mean of their losses. What follows the warmup is a factor: ``CatapultWarmup(1.0) * Cosine(1, 0, 5000)``.

    A search tries one step. Where steps of one learning rate get longer with time, as momentum builds up or GI-Adam's
    own warmup ends, what it finds is taken by as much smaller (:func:`built_up`).

    With minibatches the loss that is compared is the mean over ``over`` updates, since the last jump or comparison,
    and not that of a single lucky batch. A search uses the coming update's batch for both sides, with dropout off.

    Args:
        target: Where to end, as a factor on each group's own rate (of 1 where an optimizer is given by name).
        delta: By which share a search may raise the loss: the size of each catapult. For Adam and its family the
            paper advises 0.01.
        over: Updates whose mean loss is compared; 1 for full batches, as in the paper.
        share: Part of what a search finds that is used. 1 is the paper's: it throws a catapult. With small batches
            the loss of one batch does not see what a hundred steps at that rate do; a share of 0.1 to 0.25 then keeps
            the loss falling, and climbs as the critical rate does.

    Raises:
        ScheduleError: A number is out of range; when it runs, that it does not drive all groups.
        MeasurementError: When it runs: there is no gradient, or only a sparse one, or the optimizer's next step
            cannot be tried on a copy.

    Example:
        >>> import torch
        >>> import lrscope as lrs
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> scheduler = lrs.ScheduledLR(optimizer, CatapultWarmup(1.0))
        >>> def loss_fn(model, batch):
        ...     return model(batch).square().mean()
        >>> for batch in torch.randn(5, 8, 3):
        ...     optimizer.zero_grad()
        ...     loss = loss_fn(model, batch)
        ...     loss.backward()
        ...     scheduler.observe(loss=loss, measure_on=lambda: lrs.Objective(model, loss_fn, [batch]))
        ...     optimizer.step()
        ...     scheduler.step()

    References:
        Kalra and Barkeshli, "Why Warmup the Learning Rate?", 2024, arXiv 2406.09405, the section on persistent
        catapults, there a sketch for full batches. The comparison over several batches, the start of each search at
        the present rate, and that it never falls are ours.
    """

    target: float = 1.0
    delta: float = 0.1
    over: int = 10
    share: float = 1.0

    every_update = True
    measures = True

    def __post_init__(self) -> None:
        number("CatapultWarmup", "target", self.target, above=0.0)
        if number("CatapultWarmup", "delta", self.delta, above=0.0) > 1:
            raise ScheduleError(f"CatapultWarmup: delta must be a share of the loss, at most 1, got {self.delta:g}")
        if number("CatapultWarmup", "share", self.share, above=0.0) > 1:
            raise ScheduleError(f"CatapultWarmup: share must be above 0 and at most 1, got {self.share:g}")
        whole("CatapultWarmup", "over", self.over, at_least=1, of="updates")

    def bounds(self) -> tuple[float, float]:
        return 0.0, self.target

    def init(self) -> State:
        # lr: not known before the first search. path: [step, lr] of each jump.
        return {"lr": None, "reference": math.inf, "sum": 0.0, "count": 0, "searches": 0, "forwards": 0, "path": []}

    def value(self, state: State, step: int) -> float:
        del step
        return self.target * FALLBACK if state["lr"] is None else state["lr"]

    def is_done(self, state: State) -> bool:
        """Whether the target is reached."""
        return state["lr"] is not None and state["lr"] >= self.target

    def update(self, state: State, step: int, observed: Mapping[str, float]) -> State:
        if self.is_done(state):
            return state
        loss = heard(self, observed, "loss")
        if not math.isfinite(loss):
            return state  # says nothing about the learning rate; a run that diverges is somebody else's matter
        total, count = state["sum"] + loss, state["count"] + 1
        if not self._is_due(state, loss):
            if state["lr"] is not None and count >= self.over:
                total, count = 0.0, 0
            return state | {"sum": total, "count": count}
        if "critical_lr" not in observed:
            raise MeasurementError(
                "CatapultWarmup: has to search for the critical learning rate and cannot; give the scheduler "
                "observe(loss=loss, measure_on=lambda: lrs.Objective(model, loss_fn, [batch]))"
            )
        done = {"searches": state["searches"] + 1, "forwards": state["forwards"] + int(observed["forwards"])}
        found, lr = observed["critical_lr"], state["lr"]
        if math.isnan(found):
            if lr is None:  # there is no level to compare with yet: search again at the next update
                return state | done
            found = lr
        new = min(found, self.target) if lr is None else min(max(found, lr), self.target)
        path = state["path"] if new == lr else [*state["path"], [step, new]]
        return state | done | {"lr": new, "reference": total / count, "sum": 0.0, "count": 0, "path": path}

    def measure(
        self,
        state: State,
        step: int,
        observed: Mapping[str, float],
        objective: Callable[[], Objective],
        optimizer: Any,
        unit: float,
    ) -> Mapping[str, float]:
        loss = heard(self, observed, "loss")
        if self.is_done(state) or not math.isfinite(loss) or not self._is_due(state, loss) or unit <= 0:
            return {}
        unit /= built_up(optimizer, step) * self.share
        now = None if state["lr"] is None else state["lr"] * unit
        jump = find_jump(
            objective(),
            optimizer,
            smallest=now or self.target * unit * _SMALLEST,
            largest=self.target * unit * (1 + 1e-12),  # so that rounding does not end just below it
            delta=self.delta,
            start=now,
        )
        if now is None and math.isnan(jump.lr):
            warnings.warn(
                f"CatapultWarmup: no critical learning rate at step {step} ({jump.status}); this update uses a tenth "
                "of the target, and the next one searches again",
                LrscopeWarning,
                stacklevel=4,
            )
        return {"critical_lr": jump.lr / unit, "forwards": jump.forwards}

    def told(self, state: State) -> str:
        """What it did so far, in one sentence; ``state`` is ``scheduler.heard["lr"]``."""
        path = state["path"]
        if not path:
            return f"catapult warmup to {self.target:.3g}: no critical learning rate was found yet"
        rates = " > ".join(f"{lr:.3g} (update {step})" for step, lr in path)
        end = "reached" if self.is_done(state) else f"has not reached {self.target:.3g} yet"
        return (
            f"catapult warmup {end}: {rates}; {state['searches']} searches, {state['forwards']} forward passes, the "
            f"work of {state['forwards'] / 2:g} training steps"
        )

    def _is_due(self, state: State, loss: float) -> bool:
        """Whether this observation asks for a search."""
        if state["lr"] is None:
            return True
        count = state["count"] + 1
        return count >= self.over and (state["sum"] + loss) / count < state["reference"]
