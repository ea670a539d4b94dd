"""How each full run ended, in numbers that can be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lrscope.records import Run
from lrscope.reports.numbers import loss, percent

SHORT = {"planned": "plan", "run": "run", "default": "default", "cosine": "cosine"}
LONG = {
    "planned": "the plan",
    "run": "the run",
    "default": "the optimizer's untuned default learning rate held constant",
    "cosine": "untuned cosine with 5\u202f% warmup at the default learning rate",
}
_OURS = {"step", "loss", "lr", "lr_used", "eval_loss", "sharpness", "sharpness_residual", "stable_lr", "headroom"}


@dataclass(frozen=True)
class Outcome:
    """One row of the comparison.

    Attributes:
        final, best: Last and smallest value of the quantity that judges; ``nan`` if the run diverged or has none.
        metrics: Last value of every metric.
        catapults: How many; ``None`` if the run was not searched for them.
        stopped: Step at which the run diverged or was interrupted; ``None`` if it finished.
        unjudged: How its evaluation ended, in words, where only that made a run diverged that had trained to its end.
    """

    name: str
    status: str
    final: float
    best: float
    best_step: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    stopped: int | None = None
    unjudged: str | None = None
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
        unjudged=unjudged(run),
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


def watched(run: Run) -> bool:
    """Whether it was recorded by ``Watch``, in a loop of the user's own."""
    return run.name == "watched"


def stopped_at(run: Run) -> int:
    found = [event.step for event in run.events if event.kind == run.status]
    # Watch notes updates that are done, the loop of lrscope those that begin.
    return found[-1] if found else run.steps_done + (watched(run) and bool(run.rows))


def unjudged(run: Run) -> str | None:
    """What the evaluation said of a run whose training losses never diverged; ``None`` for every other run."""
    steps = run.config.get("steps")
    at = [event.step for event in run.events if event.kind == "diverged"]
    if run.status != "diverged" or not steps or not at or at[-1] < int(steps):
        return None
    last = dict(zip(*run["eval_loss"], strict=True)) if "eval_loss" in run.columns else {}
    value = last.get(int(steps), math.nan)
    return loss(value) if math.isfinite(value) else "not finite"


def readings(run: Run, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a curvature reading that say something: finite, positive, and not Adam's at step 0.

    Before any update Adam divides by the first gradient alone, so the few coordinates with the smallest gradients
    decide the reading.
    """
    if column not in run.columns:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    step, value = run[column]
    keep = np.isfinite(value) & (value > 0) & ((step > 0) | (not adaptive(run)))
    return step[keep], value[keep]


def adaptive(run: Run) -> bool:
    found = run.config.get("optimizer")
    name = found.get("name") if isinstance(found, Mapping) else found
    return str(name).lower().rstrip("w").endswith("adam")


def relative(value: float, reference: float) -> float | None:
    """By what share ``value`` lies above (+) or below (-) ``reference``; ``None`` if a share means nothing here."""
    if not (math.isfinite(value) and math.isfinite(reference)) or reference <= 0 or value < 0:
        return None
    return value / reference - 1


def apart(value: float, reference: float) -> float:
    """The difference as a share of the larger size, also where losses are negative or zero."""
    size = max(abs(value), abs(reference))
    share = relative(value, reference)
    return share if share is not None else (value - reference) / size if size > 0 else 0.0


def gap(value: float, reference: float) -> str:
    """How far apart, without a side: "12 %", or the difference where a share means nothing."""
    share = relative(value, reference)
    return loss(abs(value - reference)) if share is None else percent(abs(share))
