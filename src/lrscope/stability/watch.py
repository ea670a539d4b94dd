"""Watch a training loop of one's own: one call per update, and it says how the learning rate stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from lrscope.errors import MeasurementError
from lrscope.objective import Objective
from lrscope.optimizers import group_rates
from lrscope.records import Logger, Run, RunWriter
from lrscope.records.run import Status
from lrscope.stability.catapult import find_catapults
from lrscope.stability.probes import StabilityGauge


class Watch:
    """Reports loss, learning rate, sharpness and headroom of a training loop that lrscope does not run.

    Call :meth:`step` once per optimizer update, after the update. Nothing of the model, the optimizer or the
    random state changes. Leaving the ``with`` block, or :meth:`close`, writes how it ended; the record of a loop
    that was cut off reads as interrupted.

    Args:
        objective: The loss to measure, over the live model. A fixed batch or two is enough.
        optimizer: The live optimizer.
        every: Updates between sharpness readings (about two gradients of the objective each).
        out: Directory for ``runs/planned.jsonl``, which ``lrscope report`` reads; ``None`` keeps rows in memory.
        on_reading: Called with the row of every reading.
        loggers: Also get every row, as it comes; see :mod:`lrscope.adapters.loggers`.

    Raises:
        TypeError: ``objective`` or ``optimizer`` is something else.
        ValueError: ``every`` is out of range, or ``out`` holds a record already.
        MeasurementError: The optimizer does not hold every trainable parameter of the objective.

    Example:
        >>> with Watch(Objective(model, loss_fn, [batch]), optimizer, every=50) as watch:  # doctest: +SKIP
        ...     for batch in loader:
        ...         loss = training_step(batch)
        ...         watch.step(loss)
        >>> print(watch)                                                                   # doctest: +SKIP
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 50,
        out: Path | str | None = None,
        on_reading: Callable[[dict[str, float]], None] | None = None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every: expected a positive number of updates, got {every!r}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.every, self.on_reading = every, on_reading
        self._gauge, self._optimizer = StabilityGauge(objective, optimizer), optimizer
        lines = None if out is None else Path(out) / "runs" / "planned.jsonl"
        if lines is not None:
            if lines.exists():
                raise ValueError(f"out: {lines} holds an earlier record already; give another directory")
            lines.parent.mkdir(parents=True, exist_ok=True)
        config = {"optimizer": type(optimizer).__name__, "every": every}
        self._writer = RunWriter(lines, "watched", config, loggers=loggers)
        self._status: Status = "finished"
        self._closed = False
        self.steps = 0

    def step(self, loss: float | Tensor | None = None) -> dict[str, float] | None:
        """Note one finished update; returns the row of a reading when one was due, else ``None``.

        Args:
            loss: Batch loss of this update. A tensor is read, which waits for the device; give it at a pace you
                can afford. The first one that is not finite ends the readings: the run has diverged.

        Raises:
            ValueError: The watch was closed.
        """
        if self._closed:
            raise ValueError("Watch.step: this watch was closed and its record has its end; make a new one")
        row: dict[str, float] = {"lr": float(self._optimizer.param_groups[0]["lr"]), **group_rates(self._optimizer)}
        if loss is not None:
            value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
            if math.isfinite(value):
                row["loss"] = value
            elif self._status != "diverged":
                self._status = "diverged"
                self._writer.event(self.steps, "diverged")
        due = self.steps % self.every == 0
        if due and self._status != "diverged":
            try:
                reading = self._gauge.read(row["lr"], first=False)
                row |= {k: v for k, v in reading.items() if v is not None and math.isfinite(v)}
            except MeasurementError as error:  # a finding, and no reason to stop a training loop
                self._writer.event(self.steps, "sharpness not measured", reason=str(error))
        self._writer.row(self.steps, **row)
        self.steps += 1
        if due:
            self._writer.flush()
        if due and self.on_reading is not None:
            self.on_reading(row)
        return row if due else None

    def run(self) -> Run:
        """What was seen so far, as a record."""
        return Run(
            self._writer.name,
            self._writer.config,
            tuple(self._writer.rows),
            self._status,
            tuple(self._writer.events),
            self._writer.environment,
            self._gauge.cost,
        )

    def close(self) -> None:
        """Write the end of the record, ``finished`` or ``diverged``; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._writer.end(self._status, self._gauge.cost)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._closed and self._status == "finished":
            self._status = "interrupted"
            self._writer.event(self.steps, "interrupted")
        self.close()

    def __str__(self) -> str:
        run = self.run()
        if "headroom" not in run.columns:
            return f"watched {self.steps} updates; no headroom reading yet"
        steps, use = run["headroom"]
        text = (
            f"watched {self.steps} updates: the learning rate now uses {use[-1]:.0%} of what curvature allows "
            f"(at most {use.max():.0%}, at step {steps[use.argmax()]})"
        )
        catapults = find_catapults(run)
        if catapults:
            worst = max(catapults, key=lambda c: c.ratio)
            text += f"; {len(catapults)} catapults, the largest x{worst.ratio:.2g} at step {worst.peak}"
        return text
