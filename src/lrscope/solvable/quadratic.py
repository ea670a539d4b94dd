"""The quadratic: gradient descent, momentum, Nesterov and Adam with a frozen preconditioner, in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.dynamics import Dynamics, State, positive

Rule = Literal["gd", "momentum", "nesterov", "adam"]


class Fastest(NamedTuple):
    """The setting with the smallest factor per step: learning rate, momentum, factor."""

    lr: float
    beta: float
    rate: float


class Quadratic(Dynamics):
    r"""L = theta^T H theta / 2, on which every threshold of the learning rate is exact.

    With h an eigenvalue of H, a step multiplies (theta, buffer) along its eigenvector by a 2 x 2 matrix. In torch's
    convention b <- beta b + w g, theta <- theta - lr (b or, for Nesterov, g + beta b), with w = 1 - beta for
    ``"adam"`` and 1 otherwise:

    .. math:: M = \begin{pmatrix} 1 - \eta h w & -\eta \beta \\ h w & \beta \end{pmatrix}, \qquad
              M_{\mathrm{nes}} = \begin{pmatrix} 1 - \eta h (1 + \beta) & -\eta \beta^2 \\ h & \beta \end{pmatrix}

    ``"adam"`` is Adam with its preconditioner P held fixed and folded into H, that is H stands for
    P^-1/2 H P^-1/2 and its eigenvalues are preconditioned sharpnesses.

    Args:
        curvature: Eigenvalues of H, 0 or more, or H itself, symmetric, shape ``(P, P)``.
        rule: Update rule.
        beta: Momentum (beta1 for ``"adam"``); 0.9 by default, and not used by ``"gd"``.
        start: theta at the first step, shape ``(P,)``; by default 1 along every eigenvector.

    Raises:
        ValueError: An eigenvalue is negative or all are zero, H is not symmetric, or beta is outside [0, 1).

    Example:
        >>> Quadratic([10.0, 1.0]).max_lr
        0.2
        >>> round(Quadratic([10.0, 1.0], "momentum").max_lr, 3)
        0.38
    """

    def __init__(
        self,
        curvature: Sequence[float] | Tensor,
        rule: Rule = "gd",
        *,
        beta: float = 0.9,
        start: Sequence[float] | Tensor | None = None,
    ) -> None:
        if rule not in ("gd", "momentum", "nesterov", "adam"):
            raise ValueError(f"rule: expected 'gd', 'momentum', 'nesterov' or 'adam', got {rule!r}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta: expected a momentum in [0, 1), got {beta!r}")
        H = torch.as_tensor(curvature, dtype=torch.float64)
        if H.ndim == 2 and H.shape[0] == H.shape[1] and torch.allclose(H, H.T):
            self.eigenvalues, self.basis = torch.linalg.eigh(H)
            # Rounding leaves the zero eigenvalues of a singular H a little below zero.
            self.eigenvalues = torch.where(self.eigenvalues.abs() < 1e-13 * H.norm(), 0.0, self.eigenvalues)
        elif H.ndim == 1 and H.numel() > 0:
            self.eigenvalues, self.basis = H, torch.eye(H.numel(), dtype=H.dtype)
        else:
            raise ValueError(
                f"curvature: expected eigenvalues (P,) or a symmetric matrix (P, P), got {tuple(H.shape)}"
            )
        if not bool((self.eigenvalues >= 0).all()) or not float(self.eigenvalues.max()) > 0:
            raise ValueError("curvature: expected eigenvalues of 0 or more, not all 0: elsewhere no step is stable")
        self.H, self.rule, self.beta = H.diag() if H.ndim == 1 else H, rule, 0.0 if rule == "gd" else beta
        ones = self.basis.sum(1)
        self.start = ones if start is None else torch.as_tensor(start, dtype=torch.float64)
        if self.start.shape != self.eigenvalues.shape:
            raise ValueError(f"start: expected shape ({H.shape[0]},), got {tuple(self.start.shape)}")

    def __str__(self) -> str:
        beta = f", beta={self.beta:g}" if self.beta else ""
        return f"Quadratic({len(self.eigenvalues)} eigenvalues up to {self.sharpness:.4g}, {self.rule}{beta})"

    @property
    def sharpness(self) -> float:
        return float(self.eigenvalues.max())

    @property
    def critical_lr(self) -> float:
        """Largest rate whose first step, with an empty buffer, is stable in every direction: 2 / sharpness for
        ``"gd"`` and ``"momentum"``, divided by 1 + beta for ``"nesterov"`` and by 1 - beta for ``"adam"``.
        """
        return 2 / (self.sharpness * {"nesterov": 1 + self.beta, "adam": 1 - self.beta}.get(self.rule, 1.0))

    @property
    def max_lr(self) -> float:
        """Largest rate at which the run does not grow in the long run; see ``stability_threshold``."""
        beta = self.beta
        return (2 + 2 * beta) / (self.sharpness * {"nesterov": 1 + 2 * beta, "adam": 1 - beta}.get(self.rule, 1.0))

    @property
    def loss_crossing(self) -> float:
        """Rate at which the first step leaves the loss as it is: what ``lrs.critical_lr`` measures, 2 over the
        curvature along the gradient (and over the first step's factor, as in :attr:`critical_lr`).
        """
        g = self.H @ self.start
        return float(2 * (g @ g) / (g @ self.H @ g)) * self.critical_lr * self.sharpness / 2

    def rate(self, lr: float) -> float:
        """Factor by which the distance to the minimum shrinks per step in the long run: the largest spectral radius
        over the directions that are curved; above 1 the run grows.
        """
        M = self._matrices(lr)[self.eigenvalues > 0]
        return float(torch.linalg.eigvals(M).abs().max())

    @property
    def fastest(self) -> Fastest:
        r"""The best constant setting, where H has no zero eigenvalue; kappa is the largest over the smallest.

        gd: 2/(L+m) with factor (kappa-1)/(kappa+1). momentum: 4/(sqrt L + sqrt m)^2 with factor
        (sqrt kappa - 1)/(sqrt kappa + 1), whose square is beta. nesterov: 4/(3L+m) with factor
        1 - 2/sqrt(3 kappa + 1). adam: momentum's, its rate divided by 1 - beta.

        Raises:
            ValueError: A zero eigenvalue: along it nothing converges.

        References:
            Lessard, Recht & Packard, "Analysis and design of optimization algorithms via integral quadratic
            constraints", 2016, arXiv 1408.3595, section 3.1 (after Polyak and Nesterov).
        """
        L, m = self.sharpness, float(self.eigenvalues.min())
        if m == 0:
            raise ValueError("curvature: has a zero eigenvalue, along which no setting converges")
        kappa = L / m
        if self.rule == "gd":
            return Fastest(2 / (L + m), 0.0, (kappa - 1) / (kappa + 1))
        if self.rule == "nesterov":
            root = math.sqrt(3 * kappa + 1)
            return Fastest(4 / (3 * L + m), (root - 2) / (root + 2), 1 - 2 / root)
        rate = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
        lr = 4 / (math.sqrt(L) + math.sqrt(m)) ** 2
        return Fastest(lr / (1 - rate**2) if self.rule == "adam" else lr, rate**2, rate)

    def at(self, step: int, lr: float) -> Tensor:
        """The iterate after ``step`` updates, shape ``(P,)``, by powers of M; cost: log2(step) products of them."""
        positive(lr=lr)
        begin = torch.stack([self.basis.T @ self.start, torch.zeros_like(self.start)], 1)
        power = torch.linalg.matrix_power(self._matrices(lr), step)
        return self.basis @ (power @ begin[:, :, None])[:, 0, 0]

    def objective(self) -> ClosedForm:
        """The loss behind the face of :class:`~lrscope.objective.Objective`, standing at ``start``."""
        return ClosedForm(
            self.start,
            value=lambda theta: theta @ self.H @ theta / 2,
            grad=lambda theta: self.H @ theta,
            hvp=lambda _, v: self.H @ v,
        )

    def _matrices(self, lr: float) -> Tensor:
        """M of every eigenvalue, ``(P, 2, 2)``."""
        h, beta, one = self.eigenvalues, self.beta, torch.ones_like(self.eigenvalues)
        if self.rule == "nesterov":
            rows = [1 - lr * h * (1 + beta), -lr * beta**2 * one, h, beta * one]
        else:
            h = h * (1 - beta) if self.rule == "adam" else h
            rows = [1 - lr * h, -lr * beta * one, h, beta * one]
        return torch.stack(rows, 1).reshape(-1, 2, 2)

    def _start(self) -> State:
        theta = (self.basis.T @ self.start)[None]
        return theta, torch.zeros_like(theta)

    def _step(self, state: State, lr: Tensor) -> State:
        theta, b = state
        g, lr = self.eigenvalues * theta, lr[:, None]
        b = self.beta * b + (1 - self.beta if self.rule == "adam" else 1.0) * g
        return theta - lr * (g + self.beta * b if self.rule == "nesterov" else b), b

    def _observe(self, state: State) -> Mapping[str, Tensor]:
        loss = (self.eigenvalues * state[0] ** 2).sum(1) / 2
        return {"loss": loss, "sharpness": torch.full_like(loss, self.sharpness)}
