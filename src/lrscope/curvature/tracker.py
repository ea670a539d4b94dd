"""Sharpness at every step of a run, for about one product per step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from lrscope.curvature.measurement import describe
from lrscope.curvature.pace import Pace
from lrscope.curvature.point import loss_and_grad
from lrscope.curvature.precondition import is_adaptive, preconditioner, reference_lr, stability_threshold
from lrscope.curvature.probe import Choice, Method, choose, contradict
from lrscope.curvature.result import EigenResult
from lrscope.curvature.scaling import scale_of, scaled
from lrscope.errors import MeasurementError
from lrscope.linalg import EigenPairs, EigenTracker, without_autocast, working_dtype
from lrscope.objective import Objective, require_objective
from lrscope.params import groups_of, relative_rates
from lrscope.records import Cost

MEMORY_BYTES = 2**30
"""What remembered products may occupy by default."""
GRADIENTS = {"difference": (2.0, 2.0), "exact": (3.3, 2.2), "forward": (4.0, 4.0)}
"""What the first product at a theta costs, and each further one, in gradients: measured means, see docs."""

CHECK = 20
"""Readings by difference between two checks by another product, at most."""


class SharpnessTracker:
    r"""Follows the sharpness through training, at one to two Hessian-vector products per reading.

    The first reading is a cold solve. Later ones predict the top eigenvectors from the products of earlier readings,
    spend one product on each and buy more only where the result is in doubt; see
    :class:`~lrscope.linalg.track.EigenTracker` for the method and ``docs/curvature.md`` for measured accuracy.
    It works inside any loop: every reading is made at the model's current parameters and leaves no trace.

    Two ways to use it: :meth:`step` at every training step, which measures only when it is time to; :meth:`update`
    where a reading is wanted now.

    What a reading promises: an eigenvalue lies within the residual of the Rayleigh quotient of each vector, and the
    value between the quotient and that plus the residual. That no larger eigenvalue hides, no residual can say: the
    first solve bounds the probability (``risk``), later readings look at the runner-up every fifth step and at every
    surprise. On random moving matrices, with crossings and sudden swaps, the error was at most ``residual + tol *
    value`` in 99 of 100 readings. ``sharpness(objective)`` checks any single step with a bounded risk.

    All this is as true as the products are. Where they are differences of gradients and another kind works, the first
    reading, every 20th and each one that is surprisingly hard is checked by a product of that kind, at the theta it
    was made at; if that contradicts it, the memory is dropped, the other kind takes over, and the reading is made
    again.

    Args:
        objective: The loss whose sharpness is followed; its model is the one being trained. Its batches stay fixed
            while training moves theta.
        optimizer: If it is adaptive (Adam and its kin, RMSprop), the preconditioned sharpness of the coming step is
            followed; if it is SGD with groups of different learning rates, their ratio is taken into account.
        count: Number of eigenvalues followed, the largest ones; each costs a product per reading.
        tol: Accuracy aimed at, relative to the largest value.
        budget: Gradients of the objective per training step that readings after the first may cost on average, saved
            up while none is due; 0.05 of a gradient per step is a reading every 40 steps. It comes before accuracy
            and before ``longest``. ``None``: as accuracy asks, which at the edge of stability is every step.
        longest: Steps between two readings of :meth:`step`, at most.
        memory: Products remembered, two vectors of length P each. By default 28, or ``6 * count`` if that is more;
            fewer if they would not fit into 1 GiB, but at least ``3 * count + 1``.
        method: How products are made; see :func:`~lrscope.curvature.probe.choose`.
        seed: Of the first solve's random vector.

    Attributes:
        num_updates, num_matvecs: Readings and their products so far, the first solve included.

    Raises:
        ValueError: ``count``, ``tol``, ``budget``, ``longest`` or ``memory`` out of range.
        TypeError: Not an :class:`~lrscope.objective.Objective`.
        MeasurementError: An optimizer whose preconditioner is not known, or of another model.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        count: int = 1,
        tol: float = 1e-2,
        budget: float | None = None,
        longest: int = 100,
        memory: int | None = None,
        method: Method = "auto",
        seed: int = 0,
    ) -> None:
        require_objective(objective)
        if not 0 < tol < float("inf"):
            raise ValueError(f"tol: expected a positive relative accuracy such as 1e-2, got {tol!r}")
        if budget is not None and not 0 < budget < float("inf"):
            raise ValueError(f"budget: expected gradients per training step, such as 0.05, or None, got {budget!r}")
        if not isinstance(longest, int) or longest < 1:
            raise ValueError(f"longest: expected a positive number of steps, got {longest!r}")
        if not isinstance(count, int) or not 1 <= count <= objective.size:
            raise ValueError(f"count: expected an integer from 1 to {objective.size}, got {count!r}")
        least = 3 * count + 1
        if memory is not None and memory < least:
            raise ValueError(f"memory: expected at least 3 * count + 1 = {least} products, got {memory!r}")
        if memory is None:
            bytes_each = 2 * objective.size * torch.finfo(working_dtype(objective.point().dtype)).bits // 8
            memory = min(max(28, 6 * count), max(least, MEMORY_BYTES // bytes_each))
        self.objective = objective
        self.optimizer = optimizer
        self.adaptive = optimizer is not None and is_adaptive(optimizer)
        if optimizer is not None:
            _require_same_model(optimizer, objective)
        self.count = count
        self.tol = tol
        self.method: Method = method
        self.num_updates = 0
        self.num_matvecs = 0
        self._pace = Pace(longest=longest, budget=budget)
        self._tracker = EigenTracker(count=count, tol=tol, memory=memory, seed=seed)
        self._choice: Choice | None = None
        self._unchecked = CHECK  # readings since one was checked

    def step(self, lr: float | None = None, *, gradient: Tensor | None = None) -> EigenResult | None:
        """Once per training step: the sharpness if it is time to measure it, else ``None``.

        :class:`~lrscope.curvature.pace.Pace` decides, from the readings so far and from the learning rate: often
        where the sharpness moves, at the edge of stability and on the way to it, rarely where nothing happens.

        Args:
            lr: Learning rate of the coming step; that of the optimizer by default. Without an optimizer there is no
                threshold and the movement of the sharpness alone decides.
            gradient: As for :meth:`update`.

        Raises:
            As :meth:`update`.
        """
        if not self._pace.due(self._headroom_of_one(lr), price=self._price(gradient)):
            return None
        return self.update(gradient=gradient)

    def _headroom_of_one(self, lr: float | None) -> float:
        """Headroom per unit of sharpness; ``nan`` where no threshold is known."""
        if self.optimizer is None:
            return math.nan
        try:
            lr = reference_lr(self.optimizer) if lr is None else float(lr)
            return lr / stability_threshold(self.optimizer)
        except MeasurementError:  # groups that differ in momentum, or rates at 0 whose ratios are not known
            return math.nan

    def _gradients(self, products: int) -> float:
        """What a reading's products cost."""
        first, further = GRADIENTS["difference" if self._choice is None else self._choice.method]
        return first + (products - 1) * further  # one operator a reading: its graph is shared

    def _price(self, gradient: Tensor | None) -> float:
        """Gradients that the cheapest reading costs."""
        check = self._check_price() if self._unchecked >= CHECK else 0.0
        return self._gradients(self.count) + check + (self.adaptive and gradient is None)

    def _check_price(self) -> float:
        if self._choice is None or self._choice.method != "difference" or not self._choice.check:
            return 0.0
        return GRADIENTS[self._choice.check][0]

    def _affordable(self, gradient: Tensor | None) -> int | None:
        """Products that the budget pays for now, at least one for each eigenvalue; ``None`` without a budget."""
        if self._pace.budget is None:
            return None
        beyond = self._pace.account - self._price(gradient)
        return self.count + max(0, math.floor(beyond / (self._gradients(2) - self._gradients(1))))

    @without_autocast
    def update(
        self,
        theta: Tensor | None = None,
        batches: Iterable[Any] | None = None,
        *,
        gradient: Tensor | None = None,
        steps: int | None = None,
    ) -> EigenResult:
        """Sharpness now.

        Args:
            theta: Where; the model's current parameters by default.
            batches: Measure on these instead of the objective's own batches, this time.
            gradient: The gradient of the coming step, ``(P,)``, if it is at hand; only Adam's preconditioner needs
                it, and computes it (one gradient) if it is not given.
            steps: Training steps since the last reading; by default those that :meth:`step` was called for, or 1.
                Where they are many, the runner-up is looked at every time.

        Returns:
            :class:`EigenResult`; ``converged`` says that the estimated error is at most ``tol``. A diverged run gives
            ``nan`` and ``converged=False``, not an error. Cost: ``count`` products, about half as many again in rough
            phases, plus one gradient for an adaptive optimizer. It is charged to the budget, which buys no further
            product when it is used up.

        Raises:
            ValueError: ``theta`` or ``gradient`` has the wrong shape.
            MeasurementError: No product can be computed on this model, or the groups' rates have no known ratio.
        """
        began = time.perf_counter()
        objective = self.objective
        if batches is not None:
            objective = objective.on(batches)
        spent = objective.spent
        theta = objective.point() if theta is None else theta.detach()
        if theta.shape != (objective.size,):
            raise ValueError(f"theta: expected shape ({objective.size},), got {tuple(theta.shape)}")
        if not bool(torch.isfinite(theta).all()):
            return self._not_finite(theta, 0.0)
        most = self._affordable(gradient)
        if gradient is None and (self.adaptive or self._choice is None):
            gradient = loss_and_grad(objective, theta)[1]
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            return self._not_finite(theta, (objective.spent - spent).gradients)
        if self._choice is None:
            self._choice = choose(self.objective, theta, method=self.method, purpose="track", tol=self.tol)
        scale = self._scale(objective, theta, gradient)
        matvec = scaled(self._choice.at(objective, theta), scale)
        pairs = self._tracker.update(matvec, theta, most=most, steps=steps or max(self._pace.elapsed, 1))
        finite = bool(torch.isfinite(pairs.values).all())
        cut = most is not None and pairs.num_matvecs >= most and not pairs.converged
        in_gradients = self._gradients(pairs.num_matvecs)
        if finite and self._is_to_be_checked(pairs, cut):
            in_gradients += self._check_price() if self.num_updates else 0.0  # the first reading is on no budget
            pairs = self._checked(pairs, objective, theta, scale)
            finite = bool(torch.isfinite(pairs.values).all())
        cost = replace(objective.spent - spent, seconds=time.perf_counter() - began)
        in_gradients += cost.gradients
        if not finite:
            return self._not_finite(theta, in_gradients)
        self.num_updates += 1
        self.num_matvecs += pairs.num_matvecs
        self._pace.read(pairs.values.tolist(), in_gradients, cut=cut)
        return EigenResult.of(
            pairs,
            preconditioned=scale is not None,
            method=self._choice.method,
            error=self._choice.error,
            cost=cost,
            batches=describe(objective),
            note=self._choice.why,
        )

    def _is_to_be_checked(self, pairs: EigenPairs, cut: bool) -> bool:
        if not self._check_price():
            return False
        due = self._unchecked >= CHECK
        self._unchecked += 1
        if pairs.converged or cut or due:
            return due
        self._unchecked = CHECK  # more products than ever are needed: no matrix behind them, perhaps
        return self._pace.budget is None  # else at the next reading, which saves up for it

    def _checked(self, pairs: EigenPairs, objective: Objective, theta: Tensor, scale: Tensor | None) -> EigenPairs:
        """The reading, if a product of another kind keeps its promise; else another one, made by that kind.

        The promise is that an eigenvalue lies within the residual of the quotient. One product; a new solve where it
        is broken, which like the first one is on no budget.
        """
        choice = self._choice
        assert choice is not None
        assert choice.check
        self._unchecked = 0
        x, value, residual = pairs.vectors[:, 0], pairs.values[0], pairs.residuals[0]
        other = scaled(replace(choice, method=choice.check).at(objective, theta), scale)
        # The value is the corrected quotient, which may lie as far from the quotient as the residual is long.
        beyond = float((other(x) - value * x).norm() - math.sqrt(2) * residual)
        error = beyond / max(abs(float(value)), 1e-30)
        pairs = replace(pairs, num_matvecs=pairs.num_matvecs + 1)
        if error <= self.tol:
            return pairs
        contradict(self.objective, theta, error)
        if self.method != "auto":
            self._choice = replace(choice, error=max(choice.error, error))
            return replace(pairs, converged=False)
        self._choice = choose(self.objective, theta, purpose="track", tol=self.tol)
        self._tracker = self._tracker.anew()
        again = self._tracker.update(scaled(self._choice.at(objective, theta), scale), theta)
        return replace(again, num_matvecs=pairs.num_matvecs + again.num_matvecs)

    def _scale(self, objective: Objective, theta: Tensor, gradient: Tensor | None) -> Tensor | None:
        """P^-1/2 of the coming step, ``None`` where all parameters move at one rate."""
        if self.optimizer is None:
            return None
        groups = self.optimizer.param_groups
        climbs = any(group.get("maximize") for group in groups)  # refused by preconditioner()
        if not self.adaptive and not climbs and len(set(relative_rates(groups))) == 1:
            return None
        return scale_of(preconditioner(self.optimizer, objective, gradient), theta)

    def _not_finite(self, theta: Tensor, in_gradients: float) -> EigenResult:
        self._pace.read([math.nan] * self.count, in_gradients)
        nan = theta.new_full((self.count,), torch.nan)
        return EigenResult(
            values=nan,
            vectors=theta.new_full((theta.numel(), self.count), torch.nan),
            residuals=nan,
            num_matvecs=0,
            converged=False,
            preconditioned=self.adaptive,
            method="exact" if self._choice is None else self._choice.method,
            error=0.0,
            cost=Cost(),
            batches=describe(self.objective),
            note="parameters, loss or products are not finite: the run has diverged",
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and strings only; a tracker that loads it continues as if never interrupted."""
        return {
            "num_updates": self.num_updates,
            "num_matvecs": self.num_matvecs,
            "size": self.objective.size,
            "choice": None if self._choice is None else asdict(self._choice),
            "unchecked": self._unchecked,
            "pace": self._pace.state_dict(),
            "tracker": self._tracker.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken.

        Raises:
            MeasurementError: The state belongs to a tracker or a model of another kind.
        """
        remedy = "; give no state, and the tracker begins with a solve of its own"
        if not isinstance(state, Mapping):
            raise MeasurementError(f"state: expected what state_dict() gave, got {type(state).__name__}{remedy}")
        missing = self.state_dict().keys() - state.keys()
        if missing:
            raise MeasurementError(
                f"state: no {', '.join(sorted(missing))} in it, so no tracker of this version has saved it{remedy}"
            )
        if state["size"] != self.objective.size:
            raise MeasurementError(
                f"state: it belongs to a model of {state['size']} parameters, this objective has "
                f"{self.objective.size}; load the state that was saved beside this model's checkpoint"
            )
        try:
            self._tracker.load_state_dict(state["tracker"])
        except ValueError as error:
            raise MeasurementError(f"{error}{remedy}") from error
        self.num_updates, self.num_matvecs = state["num_updates"], state["num_matvecs"]
        self._choice = None if state["choice"] is None else Choice(**state["choice"])
        self._unchecked = state["unchecked"]
        self._pace.load_state_dict(state["pace"])


def _require_same_model(optimizer: torch.optim.Optimizer, objective: Objective) -> None:
    if not hasattr(objective, "layout"):
        return
    params = dict(objective.model.named_parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(params[name]) not in held for name in objective.layout.names):
        groups_of(optimizer, objective.model)  # raises, and names them
