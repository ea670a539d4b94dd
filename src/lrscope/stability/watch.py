"""Watch a training loop of one's own: one call per update, and it says how the learning rate stands."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.objective import Objective
from lrscope.optimizers import group_rates
from lrscope.optimizers.announce import announce
from lrscope.records import Logger, Run, RunWriter
from lrscope.records.run import Status
from lrscope.stability.gauge import BUDGET, Every, StabilityGauge
from lrscope.stability.summary import summary

IDLE = 20
"""Calls of ``Watch.step`` without an update of its optimizer after which to say so."""


class Watch:
    """Reports loss, learning rate, sharpness and headroom of a training loop that lrscope does not run.

    Call :meth:`step` once per optimizer update, after the update. Nothing of the model, the optimizer or the
    random state changes. Leaving the ``with`` block, or :meth:`close`, writes how it ended and prints what was seen,
    in one sentence; the record of a loop that was cut off reads as interrupted.

    Args:
        objective: The loss to measure, over the live model. A fixed batch or two is enough.
        optimizer: The live optimizer.
        every: Updates between sharpness readings (about two gradients of the objective each, one more for Adam), or
            ``"auto"``: at the pace that the readings themselves ask for.
        budget: With ``"auto"``, gradients of the objective per update that readings may cost, on average; ``None``:
            no limit.
        alarm: Readings in a row with headroom above 1 after which to warn; ``None``: never. A warning and an event
            of the record say since when, how far and what to do.
        cap: Headroom that the learning rate is kept at; ``None``: the learning rate is left alone. Schedulers, logs
            and checkpoints see the schedule's own rate; see :class:`~lrscope.stability.cap.Cap`. The first reading is
            then made here, before the first update. ``lr_used`` is the rate of the coming update where it is lowered.
        out: Directory for ``runs/planned.jsonl``, which ``lrscope report`` reads; ``None`` keeps rows in memory.
        resume: Continue the record in ``out``, if there is one; :meth:`load_state_dict` then says where.
        on_reading: Called with the row of every reading.
        loggers: Also get every row, as it comes; see :mod:`lrscope.adapters.loggers`.

    Raises:
        TypeError: ``objective`` or ``optimizer`` is something else.
        ValueError: A number is out of range, or ``out`` holds a record already.
        MeasurementError: The optimizer does not hold every trainable parameter of the objective; or an alarm or a
            cap for an optimizer whose threshold is not known.

    Example:
        >>> with Watch(Objective(model, loss_fn, [batch]), optimizer, every="auto") as watch:  # doctest: +SKIP
        ...     for batch in loader:
        ...         loss = training_step(batch)
        ...         watch.step(loss)
        lrscope: watched 1,000 updates: the learning rate 0.05 now uses 83% of what curvature allows (0.06); ...
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        every: Every = 50,
        budget: float | None = BUDGET,
        alarm: int | None = None,
        cap: float | None = None,
        out: Path | str | None = None,
        resume: bool = False,
        on_reading: Callable[[dict[str, float]], None] | None = None,
        loggers: Sequence[Logger] = (),
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.every: Every = every
        self.on_reading = on_reading
        self._gauge = StabilityGauge(objective, optimizer, every=every, budget=budget, alarm=alarm, cap=cap)
        self._optimizer = self._gauge.optimizer
        lines = None if out is None else Path(out) / "runs" / "planned.jsonl"
        append = False
        if lines is not None:
            append = resume and lines.exists()
            if lines.exists() and not resume:
                raise ValueError(
                    f"out: {lines} holds an earlier record already; give another directory, or resume=True and the "
                    "state of the watch that wrote it"
                )
            lines.parent.mkdir(parents=True, exist_ok=True)
        config = {"optimizer": type(optimizer).__name__, "every": every}
        self._writer = RunWriter(lines, "watched", config, append=append, loggers=loggers)
        self._lost = append  # where it goes on, until the state says
        self._status: Status = "finished"
        self._closed = False
        self._idle = 0  # calls of step() in a row without an update of the watched optimizer
        self._watch_updates()
        self._first: dict[str, float | None] | None = None  # the cap's reading before the first update
        self._seconds = [0.0, 0.0]  # of readings; of everything since the first update
        self._began = time.monotonic()
        self.steps = 0
        if cap is not None and not append:
            try:
                self._first = self._measure(now=True)
            except BaseException:
                self._hook.remove()
                self._gauge.close()  # else the cap would stay on the optimizer as long as the traceback lives
                raise

    def step(self, loss: float | Tensor | None = None) -> dict[str, float] | None:
        """Note one finished update; returns the row of a reading when one was due, else ``None``.

        Args:
            loss: Batch loss of this update. A tensor is read, which waits for the device; give it at a pace you
                can afford. The first one that is not finite ends the readings: the run has diverged.

        Raises:
            ValueError: The watch was closed, or continues a record and was not told where.
        """
        if self._closed:
            raise ValueError("Watch.step: this watch was closed and its record has its end; make a new one")
        if self._lost:
            raise ValueError(
                "Watch.step: resume=True continues a record, but not from where; first load_state_dict() what "
                "state_dict() gave beside the model's checkpoint, or give another directory"
            )
        row: dict[str, float] = {"lr": float(self._optimizer.param_groups[0]["lr"]), **group_rates(self._optimizer)}
        if loss is not None:
            value = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
            if math.isfinite(value):
                row["loss"] = value
            elif self._status != "diverged":
                self._status = "diverged"
                self._writer.event(self.steps, "diverged")
        self._note_update()
        reading = None if self._status == "diverged" else self._measure()
        reading, self._first = self._first if reading is None else reading, None
        row |= {k: v for k, v in (reading or {}).items() if v is not None and math.isfinite(v)}
        if self._gauge.lr_used is not None:
            row["lr_used"] = self._gauge.lr_used
        self._writer.row(self.steps, **row)
        self.steps += 1
        if reading is None:
            return None
        self._writer.flush()
        if self.on_reading is not None:
            self.on_reading(row)
        return row

    def _watch_updates(self) -> None:
        me = weakref.ref(self)

        def updated(*_: Any) -> None:
            if (watch := me()) is not None:
                watch._idle = -1

        self._hook = self._optimizer.register_step_post_hook(updated)
        weakref.finalize(self, self._hook.remove)

    def _note_update(self) -> None:
        """Say once that another optimizer trains the model; a scaler may leave out a few updates in a row."""
        self._idle += 1
        if self._idle == IDLE:
            text = (
                f"Watch.step: the watched {type(self._optimizer).__name__} made no update in {IDLE} calls, so "
                "learning rate and headroom may be those of one that no longer trains; watch the one that does"
            )
            self._event("no updates", text=text)
            warnings.warn(text, LrscopeWarning, stacklevel=3)

    def _measure(self, *, now: bool = False) -> dict[str, float | None] | None:
        began = time.monotonic()
        row = self._gauge.step(self.steps, self._event, now=now)
        if row is not None:
            self._seconds[0] += time.monotonic() - began
        return row

    def _event(self, kind: str, **detail: Any) -> None:
        self._writer.event(self.steps, kind, **detail)

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
        """Write the end of the record, ``finished`` or ``diverged``, and print the watch; a second call does nothing.

        A cap lets go of the optimizer.
        """
        if not self._closed:
            self._closed = True
            self._gauge.close()
            self._hook.remove()
            self._writer.end(self._status, self._gauge.cost)
            announce(f"lrscope: {self}")

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings, to be saved beside the model's checkpoint."""
        return {"steps": self.steps, "diverged": self._status == "diverged", "gauge": self._gauge.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as if never interrupted; rows of the record that came after the state are forgotten.

        Raises:
            MeasurementError: The state belongs to another model, or is none of a watch.
            ValueError: The watch was closed.
        """
        if self._closed:
            raise ValueError(
                "Watch.load_state_dict: this watch was closed and its record has its end; make a new one"
            )
        if not isinstance(state, Mapping) or not {"steps", "diverged", "gauge"} <= state.keys():
            raise MeasurementError("state: expected what Watch.state_dict() gave beside the model's checkpoint")
        self._gauge.load_state_dict(state["gauge"])
        self.steps = state["steps"]
        self._status = "diverged" if state["diverged"] else "finished"
        self._lost = False
        self._writer.event(self.steps, "resumed")

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
        total = time.monotonic() - self._began
        share = self._seconds[0] / total if total > 0 else math.nan
        return f"watched {self.steps:,} updates: {summary(self.run(), self._gauge, share)}"
