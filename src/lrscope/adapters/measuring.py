"""Curvature readings inside someone else's trainer."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lrscope.errors import LrscopeWarning
from lrscope.objective import Objective
from lrscope.optimizers.announce import announce
from lrscope.records import Event, Run, as_metrics
from lrscope.stability import StabilityGauge
from lrscope.stability.summary import summary


class Measuring:
    """A gauge, what it read and what happened; readings come as metrics, a sentence at the end.

    Attributes:
        gauge: Measures; it exists on every process, since a reading of a distributed model is made by all together.
        rows: Readings so far.
        events: What happened.
    """

    def __init__(self, objective: Objective, optimizer: Optimizer, options: Mapping[str, Any]) -> None:
        self.gauge = StabilityGauge(objective, optimizer, **options)
        self.rows: list[dict[str, float]] = []
        self.events: list[Event] = []
        self._steps = 0
        self._step = 0
        self._seconds, self._began = 0.0, time.monotonic()

    def step(self, step: int) -> dict[str, float]:
        """Once per update, before it: the metrics of a reading, empty where none was due."""
        self._step = step
        self._steps += 1
        began = time.monotonic()
        row = self.gauge.step(step, self._event)
        if row is None:
            return {}
        self._seconds += time.monotonic() - began
        used = {} if self.gauge.lr_used is None else {"lr_used": self.gauge.lr_used}
        seen = {k: v for k, v in {**row, **used}.items() if v is not None and math.isfinite(v)}
        if seen:
            self.rows.append({"step": step, "lr": float(self.gauge.optimizer.param_groups[0]["lr"]), **seen})
        return as_metrics(seen)

    def _event(self, kind: str, **detail: Any) -> None:
        self.events.append(Event(self._step, kind, detail))
        if kind == "sharpness not measured":
            warnings.warn(f"{kind} at update {self._step}: {detail['reason']}", LrscopeWarning, stacklevel=2)

    def end(self) -> None:
        """Say what was seen, and let go of the optimizer."""
        self.gauge.close()
        run = Run("watched", {}, tuple(self.rows), events=tuple(self.events))
        total = time.monotonic() - self._began
        share = self._seconds / total if total > 0 else math.nan
        announce(f"lrscope: watched {self._steps:,} updates: {summary(run, self.gauge, share)}")

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings."""
        return self.gauge.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gauge.load_state_dict(state)
