"""The largest eigenvalue of a matrix that moves a little at a time, for about one product per move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import EigenPairs, Matvec, orthonormalise

CREDIT = 15.0
"""Extra products that a new tracker may spend at once: the matrix moves fastest at the beginning of training."""
EXPLORE = 10
"""Updates between looks at the runner-up, which would otherwise rise unseen."""
CAUTION = 4.0
"""Weight of the squared relative residual in the doubt: residual^2 / gap, for a gap of a quarter of the value."""
MOST = 6
"""Extra products in one update on a budget, at most."""
MOST_FREE = 24
"""The same without a budget, where updates may be far apart and each nearly a solve of its own."""


@dataclass
class _Estimate:
    value: float  # corrected
    quotient: float  # x'Ax, never above the largest eigenvalue
    residual: float
    better: Tensor  # the vector that the corrected value belongs to
    second: Tensor

    def doubt(self) -> float:
        """Indicator of the relative error: what the correction added, and what the residual may still hide."""
        size = max(abs(self.value), 1e-30)
        return abs(self.value - self.quotient) / size + CAUTION * (self.residual / size) ** 2


class EigenTracker:
    """Follows the largest eigenpair of A(theta) along a path of thetas.

    Each update (1) predicts the top eigenvector at the new theta from remembered products (:class:`ProductMemory`),
    (2) spends one product on it, (3) corrects the Rayleigh quotient by the predicted neighbours it is coupled to,
    and (4) buys more products, combined by Rayleigh-Ritz, while its own doubt exceeds ``tol`` and the account allows.
    The scarcer the credit, the larger the doubt must be.

    Args:
        tol: Relative accuracy aimed at.
        budget: Extra products per update, saved up when not needed; ``None``: as many as the accuracy asks for, up
            to 24 in one update.
        memory: Products remembered; three vectors of length P each.
        seed: Of the first solve's start vector.
    """

    def __init__(self, *, tol: float = 1e-2, budget: float | None = None, memory: int = 28, seed: int = 0) -> None:
        self.tol = tol
        self.budget = budget
        self.seed = seed
        self.memory = ProductMemory(memory, rank=min(10, memory))
        self.credit = CREDIT
        self.time = 0

    def update(self, matvec: Matvec, theta: Tensor) -> EigenPairs:
        """The largest eigenpair at theta, ``(P,)``.

        The residual belongs to the vector and its Rayleigh quotient; the value is the corrected one and lies between
        the quotient and quotient + residual. ``converged`` says that the doubt is at most ``tol``: an
        indicator, not a bound. A product that is not finite gives ``nan`` and is not remembered.
        """
        if not len(self.memory):
            return self._first(matvec, theta)
        self.time += 1
        self.credit += self.budget or 0.0
        V, T = self.memory.predict(theta, self.time)
        x = torch.linalg.eigh(T)[1][:, -1].to(V) @ V
        x = x / x.norm()
        basis, images = [x], [matvec(x)]
        if not bool(torch.isfinite(images[0]).all()):
            nan = x.new_full((1,), torch.nan)
            return EigenPairs(nan, x[:, None] * torch.nan, nan, 1, False)
        self.memory.add(x, images[0], theta, self.time)
        now = self._estimate(x, images[0], theta)
        most = MOST_FREE if self.budget is None else MOST
        looked = self.budget is not None
        while len(basis) <= most:
            if now.doubt() > self._price():
                wanted = now.better
            elif len(basis) > 2 and not looked:
                # The prediction was poor, so a rival may have been overlooked, too.
                wanted, looked = now.second, True
            else:
                break
            direction = orthonormalise(wanted, torch.stack(basis))
            if direction is None:
                break
            self.credit -= 1
            basis.append(direction)
            images.append(matvec(direction))
            self.memory.add(direction, images[-1], theta, self.time)
            pairs = _ritz(basis, images)
            self.memory.replace_last(pairs[:3])
            x, image = pairs[0]
            now = self._estimate(x, image, theta)
        num = len(basis)
        if num == 1 and self.time % EXPLORE == 0 and (self.budget is None or self.credit > 1):
            self.credit -= 1
            self.memory.add(now.second, matvec(now.second), theta, self.time)
            num += 1
        converged = now.doubt() <= self.tol
        value, residual = x.new_tensor([now.value]), x.new_tensor([now.residual])
        return EigenPairs(value, x[:, None], residual, num, converged)

    def _price(self) -> float:
        """The doubt that is worth a product now."""
        if self.budget is None:
            return self.tol
        return self.tol * max(1.0, 10 / self.credit) if self.credit >= 1 else float("inf")

    def _first(self, matvec: Matvec, theta: Tensor) -> EigenPairs:
        """A cold solve; its runners-up are remembered too."""
        generator = torch.Generator(device=theta.device).manual_seed(self.seed)
        start = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
        pairs = lanczos(matvec, start, count=min(2, theta.numel()), tol=self.tol, generator=generator)
        if bool(torch.isfinite(pairs.values).all()):
            for value, x in reversed(list(zip(pairs.values, pairs.vectors.T, strict=True))):
                self.memory.add(x.contiguous(), value * x, theta, self.time)
        return EigenPairs(
            pairs.values[:1], pairs.vectors[:, :1], pairs.residuals[:1], pairs.num_matvecs, pairs.converged
        )

    def _estimate(self, x: Tensor, image: Tensor, theta: Tensor) -> _Estimate:
        """Rayleigh-Ritz on x, the rest of the predicted subspace, and the residual outside of it.

        Row and column of x are measured, the remaining block is predicted, and the direction outside is taken to be
        flat: second-order perturbation theory without the series.
        """
        V, T = self.memory.predict(theta, self.time)
        quotient = float(x @ image)
        residual = image - quotient * x
        inside = (V @ x).double().cpu()
        k = len(inside)
        frame, _ = torch.linalg.qr(torch.cat([inside[:, None], torch.eye(k, dtype=inside.dtype)], dim=1))
        rest = frame[:, 1:k]
        neighbours, S = torch.linalg.eigh(rest.T @ T @ rest)
        B = (rest @ S).T.to(V) @ V
        B = B - torch.outer(B @ x, x)
        coupling = B @ image
        outside = residual - B.T @ coupling
        length = float(outside.norm())
        M = torch.zeros(k + 1, k + 1, dtype=torch.float64)
        M[0, 0] = quotient
        M[0, 1:k] = M[1:k, 0] = coupling.double().cpu()
        # A neighbour predicted far above what was just measured is a mistake of the prediction.
        M[1:k, 1:k] = torch.diag(neighbours.clamp(max=1.5 * abs(quotient)))
        M[0, k] = M[k, 0] = length
        values, Y = torch.linalg.eigh(M)
        frame_rows = torch.cat([x[None], B, outside[None] / max(length, 1e-30)])
        better, second = (Y[:, [-1, -2]].T.to(x) @ frame_rows).unbind()
        norm = float(residual.norm())
        value = min(max(float(values[-1]), quotient), quotient + norm)
        return _Estimate(value, quotient, norm, better / better.norm(), second / second.norm())

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "credit": self.credit, "time": self.time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.credit, self.time = state["credit"], state["time"]


def _ritz(basis: list[Tensor], images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Ritz pairs (vector, image) of an orthonormal basis, largest first."""
    B, W = torch.stack(basis), torch.stack(images)
    T = (B @ W.T).double()
    S = torch.linalg.eigh((T + T.T) / 2)[1].flip(1).T.to(B)
    return list(zip(S @ B, S @ W, strict=True))
