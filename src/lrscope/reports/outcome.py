"""How each full run ended, in numbers that can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lrscope.records import Run

SHORT = {"planned": "plan", "run": "run", "default": "default", "cosine": "cosine"}
LONG = {
    "planned": "the plan",
    "run": "the run",
    "default": "the optimizer's default learning rate held constant",
    "cosine": "cosine with 5\u202f% warmup at the default learning rate",
}
_OURS = {"step", "loss", "lr", "eval_loss", "sharpness", "sharpness_residual", "stable_lr", "headroom"}


@dataclass(frozen=True)
class Outcome:
    """One row of the comparison.

    Attributes:
        final, best: Last and smallest value of the quantity that judges; ``nan`` if the run diverged or has none.
        metrics: Last value of every metric.
        catapults: How many; ``None`` if the run was not searched for them.
        stopped: Step at which the run diverged or was interrupted; ``None`` if it finished.
    """

    name: str
    status: str
    final: float
    best: float
    best_step: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    stopped: int | None = None
    steps: int | None = None
    catapults: int | None = None
    gradients: float = 0.0

    @property
    def comparable(self) -> bool:
        return self.status == "finished" and math.isfinite(self.final)


def short(name: str) -> str:
    return SHORT.get(name, name)


def quantity(runs: Mapping[str, Run]) -> str:
    """The column that judges: ``eval_loss`` if any run was evaluated, else the training ``loss``."""
    return "eval_loss" if any("eval_loss" in run.columns for run in runs.values()) else "loss"


def in_words(column: str) -> str:
    return {"eval_loss": "evaluation loss", "loss": "training loss"}.get(column, column.replace("_", " "))


def metrics(run: Run) -> list[str]:
    """Columns that the user's metrics wrote: those recorded only at steps that were evaluated."""
    if "eval_loss" not in run.columns:
        return []
    evaluated = set(run["eval_loss"].step.tolist())
    return [c for c in run.columns if c not in _OURS and set(run[c].step.tolist()) <= evaluated]


def outcome(name: str, run: Run, column: str) -> Outcome:
    step, value = judged(run, column)
    finite = np.isfinite(value)
    diverged = run.status == "diverged"
    position = int(np.argmin(np.where(finite, value, np.inf))) if finite.any() else None
    return Outcome(
        name=name,
        status=run.status,
        final=math.nan if diverged or not finite.any() else float(value[finite][-1]),
        best=math.nan if position is None else float(value[position]),
        best_step=None if position is None else int(step[position]),
        metrics={} if diverged else {m: run.final(m) for m in metrics(run)},
        stopped=None if run.status == "finished" else stopped_at(run),
        steps=int(run.config["steps"]) if run.config.get("steps") else None,
        catapults=catapults(run),
        gradients=run.cost.in_gradients(),
    )


def judged(run: Run, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values that judge; the training loss of single batches is averaged over a twentieth of the run."""
    if column not in run.columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    step, value = run[column]
    if column == "loss" and len(value) > 20:
        width = len(value) // 20
        value = np.convolve(value, np.ones(width) / width, mode="valid")
        step = step[width - 1 :]
    return step, value


def catapults(run: Run) -> int | None:
    """Number of catapults; only runs whose curvature was watched are searched for them."""
    found = sum(event.kind == "catapult" for event in run.events)
    return found if found or "sharpness" in run.columns else None


def stopped_at(run: Run) -> int:
    found = [event.step for event in run.events if event.kind == run.status]
    return found[-1] if found else run.steps_done


def relative(value: float, reference: float) -> float | None:
    """By what share ``value`` lies above (+) or below (-) ``reference``; ``None`` if a share means nothing here."""
    if not (math.isfinite(value) and math.isfinite(reference)) or reference <= 0 or value < 0:
        return None
    return value / reference - 1
