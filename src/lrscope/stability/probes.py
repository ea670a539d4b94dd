"""Sharpness and headroom as a probe of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrscope.curvature import SharpnessTracker, headroom, stability_threshold
from lrscope.errors import MeasurementError
from lrscope.objective import Objective, require_objective
from lrscope.params import groups_of
from lrscope.records import Cost
from lrscope.tasks import Task
from lrscope.training.probes import TrainState


class StabilityGauge:
    """Reads sharpness, the learning rate it allows, and the headroom, of one live model and optimizer.

    Args:
        objective: Over the live model; its batches stay the same, so that readings compare.
        optimizer: The live optimizer. For an update rule whose threshold is not known, only sharpness is read.

    Raises:
        TypeError: Not an :class:`~lrscope.objective.Objective`.
        MeasurementError: The optimizer does not hold every trainable parameter of the objective.
    """

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
        require_objective(objective)
        groups_of(optimizer, objective.model)  # refuses an optimizer of another model
        self.objective, self.optimizer = objective, optimizer
        try:
            stability_threshold(optimizer, "late")
            self.tracker = SharpnessTracker(objective, optimizer)
            self.known = True
        except MeasurementError:
            self.tracker = SharpnessTracker(objective)
            self.known = False

    def read(self, lr: float, *, first: bool) -> dict[str, float | None]:
        """Columns ``sharpness``, ``sharpness_residual``, ``stable_lr`` and ``headroom`` for a step at ``lr``.

        ``first`` says that no update was made yet, when momentum has nothing to build on and the threshold differs.
        Cost: about two gradients, more at the first reading.
        """
        top = self.tracker.update()
        row: dict[str, float | None] = {"sharpness": top.value, "sharpness_residual": top.residual}
        if self.known:
            threshold = stability_threshold(self.optimizer, "first" if first else "late")
            row["stable_lr"] = threshold / top.value if top.value > 0 else None
            row["headroom"] = headroom(lr, top, threshold)
        return row

    @property
    def cost(self) -> Cost:
        """Work so far, in evaluations of single batches."""
        n = len(self.objective.batches)
        spent = self.objective.spent
        return Cost(spent.forwards * n, spent.gradients * n, spent.products * n)


class SharpnessProbe:
    """Columns ``sharpness``, ``sharpness_residual``, ``stable_lr`` and ``headroom``, every so many steps.

    Args:
        task: Its first ``num_batches`` training batches are the loss that is measured, the same at every reading.
        every: Steps between readings. Each costs about two gradients per batch.
        seed: Chooses the batches.
    """

    name = "sharpness"

    def __init__(self, task: Task, *, every: int = 10, num_batches: int = 1, seed: int = 0) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every: expected a positive number of steps, got {every!r}")
        self.every: int | None = every
        self.task, self.num_batches, self.seed = task, num_batches, seed
        self._gauge: StabilityGauge | None = None
        self._stored: dict[str, Any] | None = None
        self._before = Cost()

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        try:
            return self._gauge_for(state.model, state.optimizer).read(state.lr, first=state.step == 0)
        except MeasurementError as error:  # the loss of these batches is no longer finite, say: a finding, not an end
            state.event("sharpness not measured", reason=str(error))
            return {}

    def _gauge_for(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> StabilityGauge:
        if self._gauge is None or self._gauge.objective.wrapped is not model:
            batches = self.task.batches(self.num_batches, seed=self.seed)
            objective = Objective(model, self.task.loss_fn, batches, count=self.task.count)
            self._gauge, self._before = StabilityGauge(objective, optimizer), Cost()
            if self._stored is not None:
                self._gauge.tracker.load_state_dict(self._stored["tracker"])
                self._before, self._stored = Cost(**self._stored["cost"]), None
        return self._gauge

    @property
    def cost(self) -> Cost:
        """Work so far, in evaluations of single batches, that before a resume included."""
        if self._stored is not None:
            return Cost(**self._stored["cost"])
        return self._before + self._gauge.cost if self._gauge is not None else Cost()

    def state_dict(self) -> dict[str, Any]:
        if self._stored is not None or self._gauge is None:
            return self._stored or {}
        return {"tracker": self._gauge.tracker.state_dict(), "cost": self.cost.to_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._gauge, self._stored = None, state or None
