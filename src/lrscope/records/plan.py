"""A plan: where to start, how high, how long a warmup, which decay, and the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lrscope.records.cost import Cost
from lrscope.records.critical import CriticalLR
from lrscope.records.environment import environment
from lrscope.records.table import Table


@dataclass(frozen=True)
class Plan:
    """What to run, and why.

    Attributes:
        task: Name of the task planned for.
        optimizer: Its spec, JSON-able.
        steps: Length of the full run, in optimizer updates.
        peak_lr: Learning rate to reach.
        peak_low, peak_high: Peaks that were not told apart from the best one by the trials.
        start_lr: Learning rate of the first update.
        warmup_steps: Updates until the peak.
        decay: Shape after the peak, always to zero.
        schedule: Spec of the whole schedule, absolute learning rates.
        schedule_text: The same as text that ``lrscope show`` accepts.
        expected_loss: Evaluation loss to expect at the end of the full run, with ``expected_low`` and
            ``expected_high``; ``None`` where no trial came close enough to the full length to say.
        critical: The critical learning rate at initialisation, one reading per seed.
        trials: One row per short run: rung, horizon, lr, warmup, seed, score, status, diverged_at.
        cost: Work spent, in evaluations of one training batch.
        share: The cost as a share of one full run.
        not_tried: Plain sentences: what the trials do not cover.
        notes: Plain sentences: what the trials say.
    """

    task: str
    optimizer: Mapping[str, Any]
    steps: int
    peak_lr: float
    peak_low: float
    peak_high: float
    start_lr: float
    warmup_steps: int
    decay: str
    schedule: Mapping[str, Any]
    schedule_text: str
    expected_loss: float | None
    expected_low: float | None
    expected_high: float | None
    critical: tuple[CriticalLR, ...]
    trials: Table
    cost: Cost
    share: float
    not_tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=environment)

    @property
    def warmup_frac(self) -> float:
        return self.warmup_steps / self.steps

    def __str__(self) -> str:
        warmup = (
            f"warmup {self.warmup_steps} steps ({self.warmup_frac:.1%})" if self.warmup_steps > 1 else "no warmup"
        )
        cost = f"{self.cost.in_gradients():.0f} gradient evaluations ({self.share:.3g} x the full run)"
        return (
            f"plan for {self.task}, {self.optimizer.get('name', 'optimizer')}, {self.steps} steps; it cost {cost}\n"
            f"peak {self.peak_lr:.3g} (nothing better known between {self.peak_low:.3g} and {self.peak_high:.3g}), "
            f"{warmup}, {self.decay} decay to zero\n"
            f"{self.schedule_text}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "critical": [c.to_dict() for c in self.critical],
            "trials": self.trials.to_dict(),
            "cost": self.cost.to_dict(),
            "not_tried": list(self.not_tried),
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Plan:
        return cls(
            **{
                **d,
                "critical": tuple(CriticalLR.from_dict(c) for c in d["critical"]),
                "trials": Table(d["trials"]),
                "cost": Cost(**d["cost"]),
                "not_tried": tuple(d["not_tried"]),
                "notes": tuple(d["notes"]),
            }
        )
