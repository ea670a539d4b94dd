"""The next run's schedule from the gradient norms that an earlier one logged."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.records import Run
from lrscope.schedules import Schedule, refined

Norm = Literal["l2", "l1"]
_COLUMNS: dict[Norm, str] = {"l2": "gradient_norm", "l1": "gradient_norm_l1"}


@dataclass(frozen=True)
class Refinement:
    """A schedule refined from a run.

    Attributes:
        schedule: Absolute learning rates: the refined shape, with the old run's peak. The peak is to be tuned anew,
            within a factor of two or three.
        peak_lr: That peak.
        steps: Updates of the next run.
        norm: Which norm of the gradients it was made from.
        num_norms: How many of them.
        note: Why it is linear decay instead, where the norms allow no refinement; else empty.
    """

    schedule: Schedule
    peak_lr: float
    steps: int
    norm: Norm
    num_norms: int
    note: str = ""

    @property
    def peak_frac(self) -> float:
        """Share of the run at which the peak is reached: the length of the warmup."""
        values = self.schedule.values(self.steps)
        return int(values.argmax()) / self.steps

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"schedule": self.schedule.to_spec(), "peak_frac": self.peak_frac}


def refine(run: Run, *, norm: Norm | None = None, steps: int | None = None) -> Refinement:
    """The schedule that is best for the gradient norms which ``run`` logged, see :func:`lrscope.schedules.refined`.

    Args:
        run: A finished one, trained with the probe :class:`~lrscope.training.GradientNorm`; best with a warmup and
            linear decay.
        norm: ``"l2"`` for SGD, ``"l1"`` for Adam and its kin; by the run's optimizer unless given.
        steps: Length of the next run; that of the old one unless given.

    Raises:
        MeasurementError: The run did not finish, has no gradient norms or no learning rate, or its optimizer does not
            say which norm is meant.
        ScheduleError: Too few norms.
    """
    if run.status != "finished":
        raise MeasurementError(
            f"run: {run.name!r} {_ENDED[run.status]} after {run.steps_done} updates; a schedule is refined from a "
            "whole run, so finish it, or give another one"
        )
    norm = _norm_of(run) if norm is None else norm
    if norm not in _COLUMNS:
        raise ValueError(f"norm: expected 'l2' (SGD) or 'l1' (Adam), got {norm!r}")
    if _COLUMNS[norm] not in run.columns:
        raise MeasurementError(
            f"run: {run.name!r} has no {_COLUMNS[norm]}, only {', '.join(run.columns) or 'no column'}; train it with "
            "the probe GradientNorm() (lrscope train --gradient-norms)"
        )
    if "lr" not in run.columns or not (peak := float(run["lr"].value.max())) > 0:
        raise MeasurementError(f"run: {run.name!r} has no learning rate above 0, so the refined one has no peak")
    norms = run[_COLUMNS[norm]].value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shape = refined(norms, norm=norm, steps=run.steps_done if steps is None else steps)
    notes = [str(w.message) for w in caught if issubclass(w.category, LrscopeWarning)]
    return Refinement(peak * shape, peak, shape.num_steps or 0, norm, len(norms), "; ".join(notes))


_ENDED = {"diverged": "diverged", "interrupted": "was interrupted"}


def _norm_of(run: Run) -> Norm:
    spec = run.config.get("optimizer")
    name = spec.get("name") if isinstance(spec, Mapping) else spec
    if isinstance(spec, Mapping) and name == "sgd":
        return "l2"
    if isinstance(spec, Mapping) and isinstance(name, str) and name.endswith(("adam", "adamw")):
        return "l1"
    raise MeasurementError(
        f"run: {run.name!r} was trained by {name!r}, which does not say the norm; give norm='l2' for SGD and its "
        "kin, norm='l1' for Adam and its kin (--norm)"
    )
