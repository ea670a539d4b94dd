"""Sharpness, the learning rate it allows, and the headroom of a live training, at the pace it asks for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from lrscope.curvature import EigenResult, SharpnessTracker, headroom, reference_lr, stability_threshold
from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.objective import Objective, require_objective
from lrscope.optimizers.announce import announce
from lrscope.optimizers.clock import innermost
from lrscope.params import groups_of
from lrscope.records import Cost
from lrscope.stability.alarm import Alarm, checked_patience
from lrscope.stability.cap import Cap, checked_limit

Every = int | Literal["auto"]
BUDGET = 0.1
"""Gradients of the measured batches per update that ``every="auto"`` may cost, unless told otherwise."""
LONGEST = 200
"""Updates between two readings at most, by ``every="auto"``."""
_TOL = 0.05
"""Accuracy asked of each of its readings: 0.1 to 0.4 % off in the median, for two thirds of what 1 % costs."""
_QUIET = 20
"""Updates in a row that a cap must leave alone before it is said to have let go: at the limit it comes and goes."""
_LONGEST_WAIT = 64
"""Updates between two attempts at most, where measuring fails."""

Event = Callable[..., None]
"""``event(kind, **detail)`` notes that something happened at this update."""


class StabilityGauge:
    """Reads sharpness, the learning rate it allows, and the headroom, of one live model and optimizer.

    Args:
        objective: Over the live model; its batches stay the same, so that readings compare.
        optimizer: The live optimizer. For an update rule whose threshold is not known, only sharpness is read.
        every: Updates between readings (about two gradients of the objective each, one more for Adam), or ``"auto"``:
            often where the sharpness moves or the headroom comes near 1, rarely where nothing happens; see
            :class:`~lrscope.curvature.pace.Pace`.
        budget: Gradients of the objective per update that readings may cost with ``"auto"``, on average; ``None``:
            no limit.
        alarm: Readings in a row with headroom above 1 after which to warn; ``None``: never.
        cap: Headroom that the learning rate is kept at by a :class:`~lrscope.stability.cap.Cap`; ``None``: the
            learning rate is left alone.

    Attributes:
        lr_used: Rate of the coming update where the cap lowers it, else ``None``.

    Raises:
        TypeError: Not an :class:`~lrscope.objective.Objective`.
        ValueError: A number that is out of range.
        MeasurementError: The optimizer does not hold every trainable parameter of the objective; or an alarm or a
            cap for an optimizer whose threshold is not known.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        every: Every = 1,
        budget: float | None = BUDGET,
        alarm: int | None = None,
        cap: float | None = None,
    ) -> None:
        require_objective(objective)
        check_options(every, budget, alarm, cap)
        self.every: Every = every
        self.budget = budget if every == "auto" else None
        self.objective, self.optimizer = objective, innermost(optimizer)
        groups_of(self.optimizer, objective.model)  # refuses an optimizer of another model
        self._before = Cost()
        self._begin()
        if alarm is not None or cap is not None:
            stability_threshold(self.optimizer, "late")  # raises where it is not known, and says why
            if any(group.get("maximize") for group in self.optimizer.param_groups):
                raise MeasurementError("optimizer: maximize=True climbs the loss, so there is no limit to guard")
        self.alarm = None if alarm is None else Alarm(alarm)
        self.cap = None if cap is None else Cap(self.optimizer, cap)
        self.lr_used: float | None = None
        self._capped_at: tuple[int, int] | None = None  # first and last update of an episode
        self._failed = ""
        self._converged = True  # the last reading
        self._wait = self._patience = 0

    def _begin(self) -> None:
        try:
            stability_threshold(self.optimizer, "late")
            self.known = True
        except MeasurementError:
            self.known = False
        optimizer = self.optimizer if self.known else None
        self.tracker = SharpnessTracker(
            self.objective, optimizer, tol=_TOL if self.every == "auto" else 1e-2, budget=self.budget, longest=LONGEST
        )
        self._trained = self._flags()

    def step(self, step: int, event: Event, *, now: bool = False) -> dict[str, float | None] | None:
        """Once per update, before it: the columns of a reading if one is due, else ``None``.

        What cannot be measured is noted by ``event`` and is no error, after the first reading whatever the model or
        the loss function raises: no reason to stop a training. So is a reading that did not converge: it has no
        ``stable_lr`` and no ``headroom``, and an alarm does not count it; a cap takes it with its residual, to be on
        the safe side. A cap is set for the coming update, an alarm goes off as a warning and an event.

        Args:
            step: Number of the coming update.
            event: Notes what happened.
            now: Whether to measure also if no reading is due.
        """
        row: dict[str, float | None] | None = None
        if self.cap is not None:
            self.cap.settle()
        if self._due(step) or now:
            try:
                self._follow(event)
                row = self._paced(event) if self.every == "auto" and not now else self.read(event)
                self._failed, self._patience = "", 0
            except Warning:  # made an error by whoever wants it to be one
                raise
            except Exception as error:
                if not isinstance(error, MeasurementError) and not self.tracker.num_updates:
                    raise  # nothing has been measured yet: a mistake in the loss, to be put right before the run
                row = {}
                reason = str(error) if isinstance(error, MeasurementError) else f"{type(error).__name__}: {error}"
                reason = (reason.strip().splitlines() or [""])[0]
                if reason != self._failed:
                    event("sharpness not measured", reason=reason)
                self._failed = reason
                self._patience = min(2 * self._patience + 1, _LONGEST_WAIT)
                self._wait = self._patience
        if self.alarm is not None and row and row.get("headroom") is not None:
            text = self.alarm.see(step, float(row["headroom"] or 0), self._lr(), row["stable_lr"])
            if text is not None:
                event("headroom above 1", since=self.alarm.since, worst=self.alarm.worst, text=text)
                if _is_main_process():
                    warnings.warn(text, LrscopeWarning, stacklevel=3)
        self._tell_of_cap(step, event)
        return row

    def read(self, event: Event | None = None) -> dict[str, float | None]:
        """Columns ``sharpness``, ``sharpness_residual``, ``stable_lr`` and ``headroom``, measured now.

        The last two only where the reading converged. They are those of the coming update: at the rate that the cap
        allows it, and before the first one with the threshold of a momentum that has nothing to build on. Cost: about
        two gradients, more at the first reading.

        Raises:
            MeasurementError: The sharpness cannot be measured on this model, or at these rates.
        """
        return self._row(self.tracker.update(steps=None if self.every == "auto" else self.every), event)

    def _paced(self, event: Event) -> dict[str, float | None] | None:
        top = self.tracker.step(self._lr() if self.known else None)
        return None if top is None else self._row(top, event)

    def _row(self, top: EigenResult, event: Event | None = None) -> dict[str, float | None]:
        row: dict[str, float | None] = {"sharpness": top.value, "sharpness_residual": top.residual}
        measured = top.value == top.value
        was, self._converged = self._converged, top.converged or not measured
        if was and not self._converged and event is not None:
            event("sharpness not converged", sharpness=top.value, residual=top.residual, products=top.num_matvecs)
        if not self.known:
            return row
        threshold = self._threshold()
        if self.cap is not None and measured:  # of nothing measured nothing follows
            most = top.value + top.residual
            self.cap.stable_lr = threshold / most if most > 0 else None
        if not self._converged:
            return row
        row["stable_lr"] = threshold / top.value if top.value > 0 else None
        row["headroom"] = headroom(self._lr(), top, threshold)
        return row

    def _threshold(self) -> float:
        """Before the first update, momentum has nothing to build on."""
        return stability_threshold(self.optimizer, "late" if self.optimizer.state else "first")

    def _lr(self) -> float:
        """Rate of the coming update."""
        return reference_lr(self.optimizer) if self.cap is None else self.cap.rate * self.cap.factor

    def _due(self, step: int) -> bool:
        if self.every != "auto":
            return step % self.every == 0
        self._wait -= self._wait > 0
        return self._wait == 0

    def _flags(self) -> list[bool]:
        return [p.requires_grad for p in self.objective.model.parameters()]

    def _follow(self, event: Event) -> None:
        """Begin anew where other parameters are trained than at the last reading: theta is another vector."""
        if self._flags() == self._trained:
            return
        groups_of(self.optimizer, self.objective.model)
        self._before, old = self.cost, self.objective
        self.objective = Objective(old.wrapped, old.loss_fn, old.batches, count=old.count, mode=old.mode)
        self._begin()
        event("trained parameters changed", size=self.objective.size)

    def _tell_of_cap(self, step: int, event: Event) -> None:
        if self.cap is None:
            return
        lr, factor = self.cap.rate, self.cap.factor
        self.lr_used = lr * factor if factor < 1 else None
        if factor < 1:
            if self._capped_at is None:
                event("learning rate capped", lr=lr, lr_used=lr * factor, stable_lr=self.cap.stable_lr)
                announce(
                    f"lrscope: cap: from update {step} on the learning rate {lr:.3g} is lowered, now to "
                    f"{lr * factor:.3g}, where headroom is {self.cap.limit:g}"
                )
            self._capped_at = (step if self._capped_at is None else self._capped_at[0], step)
        elif self._capped_at is not None and step - self._capped_at[1] >= _QUIET:
            event("cap released", since=self._capped_at[0], lr=lr)
            announce(f"lrscope: cap: not needed since update {self._capped_at[1] + 1}, the rate is the schedule's")
            self._capped_at = None

    def close(self) -> None:
        """Let go of the optimizer."""
        if self.cap is not None:
            self.cap.remove()

    @property
    def cost(self) -> Cost:
        """Work so far, in evaluations of single batches."""
        n = len(self.objective.batches)
        spent = self.objective.spent
        return self._before + Cost(spent.forwards * n, spent.gradients * n, spent.products * n)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings; with it loaded, readings, alarm and cap go on as if never interrupted."""
        return {
            "tracker": self.tracker.state_dict(),
            "cost": self.cost.to_dict(),
            "alarm": None if self.alarm is None else self.alarm.state_dict(),
            "cap": None if self.cap is None else self.cap.state_dict() | {"episode": self._capped_at},
            "failed": [self._failed, self._patience, self._wait],
            "converged": self._converged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; an alarm or a cap that is new in this run begins with it.

        Raises:
            MeasurementError: It belongs to another model, or is no such state.
        """
        if not isinstance(state, Mapping) or not {"tracker", "cost", "alarm", "cap", "failed"} <= state.keys():
            raise MeasurementError("state: expected what state_dict() of the same class gave beside the checkpoint")
        self.tracker.load_state_dict(state["tracker"])
        self._before = Cost(**state["cost"])
        self._failed, self._patience, self._wait = state["failed"]
        self._converged = state.get("converged", True)
        if self.alarm is not None and state["alarm"] is not None:
            self.alarm.load_state_dict(state["alarm"])
        if self.cap is not None and state["cap"] is not None:
            self.cap.load_state_dict(state["cap"])
            episode = state["cap"]["episode"]
            self._capped_at = None if episode is None else (episode[0], episode[1])


def _is_main_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized() and distributed.get_rank() != 0)


def check_options(every: Any, budget: Any, alarm: Any, cap: Any) -> None:
    """Refuse what :class:`StabilityGauge` would, before there is a model to measure.

    Raises:
        ValueError: What came, and what is allowed.
    """
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f'every: expected a positive number of updates, or "auto", got {every!r}')
    if budget is not None and (isinstance(budget, bool) or not 0 < budget < float("inf")):
        raise ValueError(f"budget: expected gradients per update, such as {BUDGET}, or None, got {budget!r}")
    if alarm is not None:
        checked_patience(alarm)
    if cap is not None:
        checked_limit(cap)
