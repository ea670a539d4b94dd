"""Warmups that know the landscape: where the loss begins to rise, not a number of steps, says how fast they go."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning, MeasurementError, ScheduleError
from lrscope.objective import Objective
from lrscope.optimizers.clock import innermost
from lrscope.optimizers.clone import NextStep
from lrscope.records import CriticalLR
from lrscope.schedules import FeedbackSchedule, Linear, Schedule
from lrscope.schedules.checks import number, whole
from lrscope.schedules.feedback import State
from lrscope.stability.crossing import Search
from lrscope.wrapping import whole as gathered

FALLBACK = 0.1
"""Share of the peak to start at where no critical learning rate was found (Kalra & Barkeshli 2024)."""


@dataclass(frozen=True)
class CriticalWarmup:
    """A linear warmup that starts at the critical learning rate, and what that saves.

    Attributes:
        schedule: Learning rates; it ends at the peak, so ``.schedule.then(Cosine(peak, 0.0, 9_000))`` goes on.
        start, peak: Learning rate of the first update, and where it goes.
        steps: Updates that the warmup from 0 would take.
        reach_steps: Updates until the peak, the first one at ``start``.
        search_steps: What finding the critical learning rate cost, in training steps (one is two forward passes).
        reason: Why it starts where it starts.
    """

    schedule: Schedule
    start: float
    peak: float
    steps: int
    reach_steps: int
    search_steps: float
    reason: str

    @property
    def saved_steps(self) -> float:
        """Training steps saved, net of the search; negative where the search cost more than it brought."""
        return self.steps - self.reach_steps - self.search_steps

    def __str__(self) -> str:
        lost = " lost, as the search cost more than it brought" if self.saved_steps < 0 else " saved"
        return (
            f"warmup from {self.start:.3g} ({self.reason}) reaches {self.peak:.3g} after {self.reach_steps} updates "
            f"instead of {self.steps}: {abs(self.saved_steps):.3g} training steps{lost} "
            f"(search: {self.search_steps:.3g})"
        )


def warmup_from_critical(critical_lr: CriticalLR | float, peak: float, steps: int) -> CriticalWarmup:
    r"""Linear warmup from the critical learning rate :math:`\eta_c` instead of 0, with the slope kept.

    .. math:: \eta_t = \min(\eta_c + \eta_{peak}\, t / T,\; \eta_{peak}), \qquad
              T_{reach} = \max(1,\; T (1 - \eta_c / \eta_{peak}))

    Below :math:`\eta_c` a step lowers the loss anyway, so the part of a warmup that is spent there protects from
    nothing. The slope is what makes instabilities mild, so it stays.

    Args:
        critical_lr: From :func:`~lrscope.stability.critical_lr`, or a number. Where none was found, the warmup
            starts at a tenth of the peak, and says why.
        peak: Learning rate to reach; of the same optimizer.
        steps: T, the updates that the warmup from 0 would take.

    Returns:
        :class:`CriticalWarmup`. Its schedule holds learning rates, for an optimizer of base rate 1 or
        ``ScheduledLR(..., absolute=["lr"])``; ``schedule / peak`` are factors.

    Raises:
        ScheduleError: A number is out of range.

    Example:
        >>> found = warmup_from_critical(0.25, peak=1.0, steps=8)
        >>> found.schedule.values(8)
        array([0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   , 1.   ])
        >>> print(found)
        warmup from 0.25 (given) reaches 1 after 6 updates instead of 8: 2 training steps saved (search: 0)

    References:
        Kalra and Barkeshli, "Why Warmup the Learning Rate?", 2024, arXiv 2406.09405, the section on the initial
        learning rate of warmup. One training step is booked as two forward passes, as there.
    """
    peak = number("warmup_from_critical", "peak", peak, above=0.0)
    steps = whole("warmup_from_critical", "steps", steps, at_least=1)
    if isinstance(critical_lr, CriticalLR):
        start, reason = _start(critical_lr, peak)
        cost = critical_lr.cost.in_gradients(per_forward=0.5)
    else:
        start, reason, cost = number("warmup_from_critical", "critical_lr", critical_lr, above=0.0), "given", 0.0
    if start >= peak:
        shape, reach = Linear(peak, peak, 1), 1
        reason += f": {start:.3g} is critical, above the peak" if start > peak else ""
    else:
        reach = max(1, math.ceil(steps * (1 - start / peak) - 1e-9))
        shape = Linear(start, start + peak * reach / steps, reach).clip(high=peak)
    return CriticalWarmup(shape, min(start, peak), peak, steps, reach, cost, reason)


def _start(critical: CriticalLR, peak: float) -> tuple[float, str]:
    if critical.status == "found":
        return critical.lr, "where the loss begins to rise"
    if critical.status == "stable up to the largest":
        return critical.high, "the largest that was tried, and it lowered the loss"
    return peak * FALLBACK, f"a tenth of the peak, as no critical learning rate was found: {critical.status}"


@dataclass(frozen=True)
class CatapultWarmup(FeedbackSchedule):
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

    With minibatches the loss that is compared is the mean over ``over`` updates, since the last jump or comparison,
    and not that of a single lucky batch. A search uses the coming update's batch for both sides, with dropout off.

    Args:
        target: Where to end, as a factor on each group's own rate (of 1 where an optimizer is given by name).
        delta: By which share a search may raise the loss: the size of each catapult. For Adam and its family the
            paper advises 0.01.
        over: Updates whose mean loss is compared; 1 for full batches, as in the paper.

    Raises:
        ScheduleError: A number is out of range; when it runs, that it does not drive all groups.
        MeasurementError: When it runs: there is no gradient, or only a sparse one, or the optimizer's next step
            cannot be tried on a copy.

    Example:
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

    every_update = True
    measures = True

    def __post_init__(self) -> None:
        number("CatapultWarmup", "target", self.target, above=0.0)
        if number("CatapultWarmup", "delta", self.delta, above=0.0) > 1:
            raise ScheduleError(f"CatapultWarmup: delta must be a share of the loss, at most 1, got {self.delta:g}")
        whole("CatapultWarmup", "over", self.over, at_least=1, of="updates")

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
        loss = self._loss(observed)
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
        loss = self._loss(observed)
        if self.is_done(state) or not math.isfinite(loss) or not self._is_due(state, loss) or unit <= 0:
            return {}
        target, lr = self.target * unit, state["lr"]
        low = target * 1e-6 if lr is None else lr * unit
        found, forwards, why = _upper_end(objective(), innermost(optimizer), low, target, self.delta, lr is not None)
        if math.isnan(found) and lr is None:
            warnings.warn(
                f"CatapultWarmup: no critical learning rate at step {step} ({why}); this update uses a tenth of the "
                "target, and the next one searches again",
                LrscopeWarning,
                stacklevel=4,
            )
        return {"critical_lr": self.target if found >= target else found / unit, "forwards": forwards}

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

    def _loss(self, observed: Mapping[str, float]) -> float:
        if "loss" not in observed:
            raise ScheduleError("CatapultWarmup: 'loss' was not observed; call scheduler.observe(loss=...)")
        loss = observed["loss"]
        return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _upper_end(
    objective: Objective, optimizer: torch.optim.Optimizer, low: float, high: float, delta: float, moving: bool
) -> tuple[float, int, str]:
    """Learning rate in ``[low, high]`` of the next step that raises the loss by ``delta`` of it at most.

    ``nan`` where there is no answer; also the forward passes made, and the search's status. ``moving`` says that
    ``low`` is the learning rate of the moment, so the search starts there.
    """
    grad = ready_gradient(objective)
    if not bool(torch.isfinite(grad).all()):
        return math.nan, 0, "gradient not finite"
    if not bool(grad.any()):
        return math.nan, 0, "zero gradient"
    theta = objective.point()
    level = objective.loss(theta)
    if not math.isfinite(level):
        return math.nan, 1, "loss not finite"
    move = NextStep(optimizer, objective.model, theta, grad)
    slope = float(grad @ move(1.0)) if move.linear else math.nan
    tried: dict[float, float] = {}

    def probe(lr: float) -> float:
        tried[lr] = objective.loss(theta + move(lr))
        return tried[lr]

    search = Search(low, high * (1 + 1e-12), min(delta, 0.1), 25, start=low if moving else None, rise=delta)
    found = search.along(probe, level, slope)
    passes = 1 + len(tried)
    if found.status == "stable up to the largest":
        return found.low, passes, found.status
    if found.status == "unstable at the smallest":
        return low, passes, found.status
    if found.status != "found":
        return math.nan, passes, found.status
    gentle = tried[found.high] <= level + delta * abs(level)
    return found.high if gentle else found.low, passes, found.status


def ready_gradient(objective: Objective) -> Tensor:
    """The gradient in ``.grad``, as the coming update will use it: accumulated, clipped, averaged; ``(P,)``.

    Raises:
        MeasurementError: There is none, or it is sparse.
    """
    params = dict(objective.model.named_parameters())
    grads = {name: params[name].grad for name in objective.layout.names}
    if all(grad is None for grad in grads.values()):
        raise MeasurementError(
            "CatapultWarmup: no parameter has a gradient; call scheduler.observe after loss.backward() and before "
            "optimizer.step()"
        )
    for name, grad in grads.items():
        if grad is not None and grad.is_sparse:
            raise MeasurementError(
                f"CatapultWarmup: the gradient of {name!r} is sparse, so steps cannot be tried; build the embedding "
                "with sparse=False"
            )
    pieces = {n: torch.zeros_like(params[n]) if g is None else g for n, g in grads.items()}
    return objective.layout.flatten({n: gathered(g.detach()) for n, g in pieces.items()})
