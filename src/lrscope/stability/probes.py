"""Sharpness and headroom as a probe of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lrscope.errors import MeasurementError
from lrscope.objective import Objective
from lrscope.records import Cost
from lrscope.stability.gauge import BUDGET, Every, StabilityGauge, check_options
from lrscope.tasks import Task
from lrscope.training.probes import TrainState


class SharpnessProbe:
    """Columns ``sharpness``, ``sharpness_residual``, ``stable_lr`` and ``headroom``, every so many steps.

    Args:
        task: Its first ``num_batches`` training batches are the loss that is measured, the same at every reading.
        every: Steps between readings, or ``"auto"``: at the pace that the readings themselves ask for, within
            ``budget``. Each costs about two gradients per batch.
        num_batches: Batches that are measured.
        seed: Chooses the batches.
        budget, alarm, cap: As in :class:`~lrscope.stability.gauge.StabilityGauge`. Where the cap lowers the rate of
            an update, ``lr_used`` says to what; ``lr`` is the schedule's, ``headroom`` that of the rate used.

    Raises:
        ValueError: A number is out of range.
        MeasurementError: At the first step, where an alarm or a cap is asked for and the optimizer's threshold is
            not known; without them it is noted as an event.
    """

    name = "sharpness"

    def __init__(
        self,
        task: Task,
        *,
        every: Every = 10,
        num_batches: int = 1,
        seed: int = 0,
        budget: float | None = BUDGET,
        alarm: int | None = None,
        cap: float | None = None,
    ) -> None:
        check_options(every, budget, alarm, cap)
        self.pace: Every = every
        # A pace of its own, and a cap, are asked at every step.
        self.every: int | None = None if every == "auto" or cap is not None else every
        self.task, self.num_batches, self.seed = task, num_batches, seed
        self._options: dict[str, Any] = {"budget": budget, "alarm": alarm, "cap": cap}
        self._gauge: StabilityGauge | None = None
        self._stored: dict[str, Any] | None = None
        self._refused: object = None  # the model whose optimizer cannot be gauged

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        if self._refused is state.model:
            return {}
        try:
            gauge = self._gauge_for(state.model, state.optimizer)
        except MeasurementError as error:
            if self._options["alarm"] is not None or self._options["cap"] is not None:
                raise  # whoever asks to be guarded must not go on unguarded
            state.event("sharpness not measured", reason=str(error))
            self._refused = state.model
            return {}
        row = gauge.step(state.step, state.event) or {}
        return row if gauge.lr_used is None else {**row, "lr_used": gauge.lr_used}

    def _gauge_for(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> StabilityGauge:
        if self._gauge is None or self._gauge.objective.wrapped is not model:
            batches = self.task.batches(self.num_batches, seed=self.seed)
            objective = Objective(model, self.task.loss_fn, batches, count=self.task.count)
            self._gauge = StabilityGauge(objective, optimizer, every=self.pace, **self._options)
            if self._stored is not None:
                self._gauge.load_state_dict(self._stored)
                self._stored = None
        return self._gauge

    @property
    def cost(self) -> Cost:
        """Work so far, in evaluations of single batches, that before a resume included."""
        if self._stored is not None:
            return Cost(**self._stored["cost"])
        return self._gauge.cost if self._gauge is not None else Cost()

    def state_dict(self) -> dict[str, Any]:
        if self._stored is not None or self._gauge is None:
            return self._stored or {}
        return self._gauge.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._gauge, self._stored = None, state or None
