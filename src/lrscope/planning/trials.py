"""Short runs with the real shape, and the log that makes a killed plan continue."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrscope.optimizers import OptimizerSpec
from lrscope.planning.recipe import Decay, recipe, warmup_steps
from lrscope.records import Cost, Run, drop_torn_line, read_lines
from lrscope.tasks import Task
from lrscope.tasks.fingerprint import fingerprint, same
from lrscope.training import Cell, run_cells
from lrscope.training.engines import Engine


@dataclass(frozen=True, order=True)
class Trial:
    """One short run: ``horizon`` updates of warmup and decay to zero."""

    horizon: int
    lr: float
    warmup_frac: float
    seed: int

    @property
    def key(self) -> tuple[int, float, float, int]:
        return (self.horizon, float(f"{self.lr:.6g}"), self.warmup_frac, self.seed)


Row = Mapping[str, Any]


class Trials:
    """Runs trials, remembers their rows, and writes each row to ``log`` the moment it is known.

    Rows of an existing log that belong to the same question (the task, by name and fingerprint, optimizer, decay) are
    not run again.

    Attributes:
        rows: All rows so far, in the order they were run.
        cost: Work spent in this process and before, in evaluations of one training batch.
    """

    def __init__(
        self,
        task: Task,
        optimizer: OptimizerSpec,
        decay: Decay,
        *,
        log: Path | None = None,
        engine: Engine = "auto",
        on_trial: Callable[[Row], None] | None = None,
        on_gradients: Callable[[float], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.task, self.optimizer = task, optimizer
        self.decay: Decay = decay
        self.engine: Engine = engine
        self.on_trial, self.on_gradients, self.should_stop = on_trial, on_gradients, should_stop
        self.score_kind = "eval_loss" if task.evaluate is not None else "train_loss"
        self._log = log
        self.rows: list[dict[str, Any]] = []
        self._known: dict[tuple[int, float, float, int], dict[str, Any]] = {}
        self._question: dict[str, Any] = {}
        if log is not None:
            self._question = {"task": task.name, **fingerprint(task)}
            self._question |= {"optimizer": optimizer.to_spec(), "decay": decay}
            if log.exists():
                drop_torn_line(log)
            for row in filter(None, read_lines(log) if log.exists() else ()):
                asked = row.pop("question", {})
                if asked.keys() == self._question.keys() and all(
                    same(asked[k], v) for k, v in self._question.items()
                ):
                    self._known[Trial(row["horizon"], row["lr"], row["warmup_frac"], row["seed"]).key] = row

    @property
    def cost(self) -> Cost:
        def total(what: str) -> float:
            return sum(row[what] for row in self.rows)

        return Cost(total("forwards"), total("gradients"), 0, total("gradients"), total("seconds"))

    def run(self, trials: Iterable[Trial], rung: int) -> list[Row]:
        """Run what is not known yet; rows of all of ``trials``, in their order. Equal horizons run together.

        Raises:
            KeyboardInterrupt: ``should_stop`` said so; what was finished is in the log.
        """
        trials = list(trials)
        missing = [t for t in dict.fromkeys(trials) if t.key not in self._known]
        for horizon in sorted({t.horizon for t in missing}):
            self._run_group([t for t in missing if t.horizon == horizon], horizon, rung)
        rows = []
        for trial in trials:
            row = self._known[trial.key]
            if row not in self.rows:
                self.rows.append(row)
            rows.append(row)
        return rows

    def _run_group(self, trials: Sequence[Trial], horizon: int, rung: int) -> None:
        cells = [
            Cell(recipe(t.lr, warmup_steps(t.warmup_frac, horizon), horizon, self.decay), seed=t.seed) for t in trials
        ]
        before = self.cost.gradients

        def on_run(i: int, run: Run) -> None:
            if run.status == "interrupted":
                return
            row = _row(trials[i], run, rung, self.score_kind)
            self._known[trials[i].key] = row
            if self._log is not None:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**row, "question": self._question}) + "\n")
            if self.on_trial is not None:
                self.on_trial(row)

        def on_progress(done: int, _: int) -> None:
            if self.on_gradients is not None:
                self.on_gradients(before + done)

        runs = run_cells(
            self.task,
            self.optimizer,
            cells,
            horizon,
            engine=self.engine,
            record_every=max(1, horizon // 200),  # only the end is judged; long trials stay small in memory
            on_run=on_run,
            on_progress=on_progress,
            should_stop=self.should_stop,
        )
        if any(run.status == "interrupted" for run in runs):
            raise KeyboardInterrupt


def _row(trial: Trial, run: Run, rung: int, kind: str) -> dict[str, Any]:
    diverged = [e.step for e in run.events if e.kind == "diverged"]
    return {
        "rung": rung,
        "horizon": trial.horizon,
        "lr": trial.lr,
        "warmup_frac": trial.warmup_frac,
        "warmup_steps": warmup_steps(trial.warmup_frac, trial.horizon),
        "seed": trial.seed,
        "score": score_of(run, kind),
        "score_kind": kind,
        "status": run.status,
        "diverged_at": diverged[0] if diverged else None,
        "gradients": run.cost.gradients,
        "forwards": round(run.cost.forwards, 3),
        "seconds": round(run.cost.seconds, 4),
    }


def score_of(run: Run, kind: str) -> float | None:
    """What ranks runs: the final evaluation loss, or the mean training loss of the last tenth; None if diverged."""
    if run.status == "diverged":
        return None
    if kind == "eval_loss":
        score = run.final("eval_loss")
    else:
        losses = run["loss"].value
        score = float(np.mean(losses[-max(1, len(losses) // 10) :]))
    return score if math.isfinite(score) else None
