"""What every measurement begins with and what every result ends with."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrscope.curvature.operators import LinearOperator
from lrscope.curvature.point import point_of, require_finite
from lrscope.curvature.probe import Method, choose
from lrscope.curvature.scaling import scale_of, scaled
from lrscope.linalg import working_dtype
from lrscope.objective import require_objective
from lrscope.records import Cost, Table

if TYPE_CHECKING:
    from lrscope.objective import Objective


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What all results tell of themselves.

    Attributes:
        method: How products were made, ``"exact"`` or ``"difference"``; ``"gradients"`` where there were none.
        error: Relative error of one product, measured when the objective was first met; ``nan`` if not measured.
        cost: All work.
        batches: What it was measured on, in words.
        note: Why this method, or what to be careful about, in one line.
    """

    method: str
    error: float
    cost: Cost = field(repr=False)
    batches: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; long arrays as lists."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if not f.metadata.get("private")}

    def to_frame(self) -> Table:
        """One row, or one per entry of its arrays; ``pandas.DataFrame(result.to_frame().to_dict())`` is a frame."""
        plain = {k: v for k, v in self.to_dict().items() if k != "cost"}
        rows = max((len(v) for v in plain.values() if isinstance(v, list)), default=1)
        return Table({k: v if isinstance(v, list) else [v] * rows for k, v in plain.items()})


class Measuring:
    """A measurement under way: arguments checked, the point finite, products at hand, the cost on the clock.

    Args:
        target: An objective, whose Hessian is measured, or an operator, which is measured itself.
        theta, preconditioner, method: Of an objective only.

    Attributes:
        matvec: Products in the vector's own dtype.
        like: A vector of the right shape, dtype and device.
        gradient: At theta, ``(P,)``; of an objective only.
    """

    def __init__(
        self,
        target: Objective | LinearOperator,
        theta: Tensor | None = None,
        *,
        preconditioner: Tensor | None = None,
        method: Method = "auto",
    ) -> None:
        self._began = time.perf_counter()
        self.objective: Any = getattr(target, "objective", None)
        if hasattr(target, "__matmul__"):
            given = {"theta": theta, "preconditioner": preconditioner, "method": None if method == "auto" else method}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(
                        f"{name}: belongs to an objective; an operator comes with its own point and products "
                        "(Preconditioned(A, P) makes a preconditioned one)"
                    )
            A: Any = target
            self.matvec, self.size = scaled(A), A.size
            self.like = torch.zeros(A.size, dtype=working_dtype(A.dtype), device=A.device)
            self.method, self.error, self.note = "", math.nan, ""
            self._count = A
        else:
            objective: Any = target
            require_objective(objective)
            self.objective = objective
            theta = point_of(objective, theta)
            self._spent = objective.spent
            self.theta, self.size = theta, objective.size
            self.scale = scale_of(preconditioner, theta)
            self.gradient = require_finite(objective, theta)
            self.choice = choose(objective, theta, method=method)
            self.matvec = scaled(self.choice.at(objective, theta), self.scale)
            self.like = torch.zeros(objective.size, dtype=working_dtype(theta.dtype), device=theta.device)
            self.method, self.error, self.note = self.choice.method, self.choice.error, self.choice.why
            self._count = None
        self._products = 0 if self._count is None else self._count.num_matvecs

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(device=self.like.device).manual_seed(seed)

    def random(self, seed: int, columns: int = 1) -> Tensor:
        """Independent normal numbers, ``(P,)``, or ``(P, columns)`` for more than one column."""
        shape = (self.size,) if columns == 1 else (self.size, columns)
        return self.like.new_empty(shape).normal_(generator=self.generator(seed))

    def account(self) -> dict[str, Any]:
        """The fields of :class:`Measurement`, now that the work is done."""
        A = self._count
        if A is None:
            cost = self.objective.spent - self._spent
        else:
            # Known only now: an operator tries its products at the first one.
            self.method, error = getattr(A, "method", type(A).__name__), getattr(A, "error", None)
            self.error = math.nan if error is None else error
            cost = Cost(products=A.num_matvecs - self._products)
        return {
            "method": self.method,
            "error": self.error,
            "cost": replace(cost, seconds=time.perf_counter() - self._began),
            "batches": describe(self.objective),
            "note": self.note,
        }


def describe(objective: Any) -> str:
    """The batches of an objective in words: ``"24 examples in 2 batches, train mode"``."""
    if not hasattr(objective, "batches"):
        return "no batches"
    examples, num = sum(objective.count(batch) for batch in objective.batches), len(objective.batches)
    return f"{examples} examples in {num} batch{'es' * (num != 1)}, {objective.mode} mode"


def axes(ax: Any = None) -> Any:
    """``ax``, or the axes of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _plain(value: Any) -> Any:
    if isinstance(value, Cost):
        return value.to_dict()
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
