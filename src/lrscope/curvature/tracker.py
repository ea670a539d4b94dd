"""Sharpness at every step of a run, for about one product per step."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrscope.curvature.eigen import preconditioned, scale_of
from lrscope.curvature.precondition import is_adaptive, preconditioner
from lrscope.curvature.probe import Choice, Method, choose
from lrscope.curvature.result import EigenResult
from lrscope.errors import MeasurementError
from lrscope.linalg import EigenPairs, lanczos
from lrscope.objective import Objective
from lrscope.records import Cost


class SharpnessTracker:
    """Follows the sharpness through training.

    Args:
        objective: The loss whose sharpness is followed; its model is the one being trained.
        optimizer: If it is Adam or AdamW, the preconditioned sharpness of the coming step is followed.
        tol: Relative accuracy aimed at.
        method: How products are made.
        seed: Of the first solve's random vector.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        tol: float = 1e-2,
        method: Method = "auto",
        seed: int = 0,
    ) -> None:
        if not tol > 0:
            raise ValueError(f"tol: expected a positive relative accuracy such as 1e-2, got {tol!r}")
        self.objective = objective
        self.optimizer = optimizer
        self.adaptive = optimizer is not None and is_adaptive(optimizer)
        self.tol = tol
        self.method: Method = method
        self.seed = seed
        self.num_updates = 0
        self.num_matvecs = 0
        self._vector: Tensor | None = None
        self._choice: Choice | None = None

    def update(
        self,
        theta: Tensor | None = None,
        batches: Iterable[Any] | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> EigenResult:
        """Sharpness now.

        Args:
            theta: Where; the model's current parameters by default.
            batches: Measure on these instead of the objective's own batches, this time.
            gradient: The gradient of the coming step, ``(P,)``, if it is at hand; only Adam's preconditioner needs
                it, and computes it (one gradient) if it is not given.
        """
        began = time.perf_counter()
        objective = self.objective
        if batches is not None:
            objective = Objective(
                objective.model, objective.loss_fn, batches, count=objective.count, mode=objective.mode
            )
        spent = objective.spent
        theta = objective.point() if theta is None else theta.detach()
        if not bool(torch.isfinite(theta).all()):
            return self._not_finite(theta)
        if self._choice is None:
            self._choice = choose(self.objective, theta, method=self.method, purpose="track", tol=self.tol)
        scale = None
        if self.adaptive and self.optimizer is not None:
            scale = scale_of(preconditioner(self.optimizer, objective, gradient), theta)
        matvec = preconditioned(self._choice.at(objective, theta), scale)
        pairs = self._solve(matvec, theta)
        if not bool(torch.isfinite(pairs.values).all()):
            return self._not_finite(theta)
        self.num_updates += 1
        self.num_matvecs += pairs.num_matvecs
        return EigenResult(
            pairs.values,
            pairs.vectors,
            pairs.residuals,
            pairs.num_matvecs,
            pairs.converged,
            self._choice.method,
            self._choice.error,
            replace(objective.spent - spent, seconds=time.perf_counter() - began),
            scale is not None,
            self._choice.why,
        )

    def _solve(self, matvec, theta: Tensor) -> EigenPairs:
        if self._vector is None:
            generator = torch.Generator(device=theta.device).manual_seed(self.seed)
            start = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
            pairs = lanczos(matvec, start, tol=self.tol)
        else:
            pairs = lanczos(matvec, self._vector, tol=10 * self.tol, max_matvecs=2)
        self._vector = pairs.vectors[:, 0]
        return pairs

    def _not_finite(self, theta: Tensor) -> EigenResult:
        nan = theta.new_full((1,), torch.nan)
        method = "exact" if self._choice is None else self._choice.method
        return EigenResult(
            nan, theta.new_full((theta.numel(), 1), torch.nan), nan, 0, False, method, 0.0, Cost(),
            self.adaptive, "parameters or products are not finite: the run has diverged",
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"vector": self._vector, "num_updates": self.num_updates, "num_matvecs": self.num_matvecs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vector = state["vector"]
        if vector is not None and vector.shape != (self.objective.size,):
            raise MeasurementError(
                f"state: its vector has shape {tuple(vector.shape)}, this objective has {self.objective.size} "
                "parameters; it belongs to another model"
            )
        self._vector = vector
        self.num_updates, self.num_matvecs = state["num_updates"], state["num_matvecs"]
