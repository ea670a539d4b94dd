"""The answer to "how large a step does my model survive, now?"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lrscope.records.cost import Cost

CriticalStatus = Literal[
    "found",
    "stable up to the largest",
    "unstable at the smallest",
    "zero gradient",
    "momentum points uphill",
    "loss not finite",
]


@dataclass(frozen=True)
class CriticalLR:
    """Largest learning rate whose next step does not raise the loss, by the loss catapult.

    Attributes:
        lr: Geometric mean over the batches with a crossing; ``nan`` unless the status is ``found``.
        low, high: Smallest and largest over the batches; with one batch, the ends of the bracket that holds it.
        status: ``found`` on at least half of the batches; or why there is no number.
        samples: The critical LR of every batch (``nan`` where none was found).
        optimizer: Name and hyper-parameters of the update rule that was stepped.
        two_over_sharpness: 2/sharpness for SGD, or the first-step threshold on the preconditioned sharpness for
            the Adam family; ``None`` if it was not measured.
        cost: Work spent, in evaluations of single batches.
        growth: Length of a late step over that of the step that was tried, at one learning rate, were all gradients
            alike: 1 / (1 - momentum) for SGD at its first step, 1 for Adam.
    """

    lr: float
    low: float
    high: float
    status: CriticalStatus
    samples: tuple[float, ...] = ()
    optimizer: str = ""
    two_over_sharpness: float | None = None
    cost: Cost = field(default_factory=Cost)
    growth: float = 1.0

    def __str__(self) -> str:
        if self.status == "found":
            text = f"largest stable learning rate now: {self.lr:.3g} (between {self.low:.3g} and {self.high:.3g})"
            if self.two_over_sharpness is not None:
                text += f"; curvature alone says {self.two_over_sharpness:.3g}"
            if self.growth > 1.05:
                text += (
                    f"; for one step only: later ones at the same rate are up to {self.growth:.3g} times as long, so "
                    f"begin nearer to {self.lr / self.growth:.3g}"
                )
            return text
        return {
            "stable up to the largest": f"every step up to learning rate {self.high:.3g} lowered the loss",
            "unstable at the smallest": f"already the smallest learning rate tried, {self.low:.3g}, raised the loss",
            "zero gradient": "the gradient is zero at the starting point, so there is no downhill step to judge",
            "momentum points uphill": "momentum (or weight decay) outweighs the gradient and points the next step "
            "uphill, so even the smallest learning rate would raise the loss",
            "loss not finite": "the loss is not finite at the starting point, so no step can be judged",
        }.get(self.status, f"no largest stable learning rate: {self.status}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"cost": self.cost.to_dict(), "samples": list(self.samples)}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> CriticalLR:
        numbers = {k: _number(d[k]) for k in ("lr", "low", "high")}
        samples = tuple(_number(x) for x in d["samples"])
        return cls(**{**d, **numbers, "samples": samples, "cost": Cost(**d["cost"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else value  # JSON has null where there is no number
