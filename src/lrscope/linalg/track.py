"""The largest eigenvalue of a matrix that moves a little at a time, for about one product per move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import EigenPairs, Matvec, orthonormalise, working_dtype

EXPLORE = 10
"""Updates between looks at the runner-up, which would otherwise rise unseen."""
CAUTION = 4.0
"""Weight of the squared relative residual in the doubt: residual^2 / gap, for a gap of a quarter of the value."""
MOST = 25
"""Products in one update, at most: updates may be far apart and each nearly a solve of its own."""
SKETCH = 2048
"""Numbers kept of a theta: enough for distances between recent ones to within a few percent."""


@dataclass
class _Estimate:
    value: float  # corrected
    quotient: float  # x'Ax, never above the largest eigenvalue
    residual: float
    better: Callable[[], Tensor]  # the vector that the corrected value belongs to
    rival: Callable[[], Tensor]  # and that of the runner-up

    def doubt(self) -> float:
        """Indicator of the relative error: what the correction added, and what the residual may still hide."""
        size = max(abs(self.value), 1e-30)
        return abs(self.value - self.quotient) / size + CAUTION * (self.residual / size) ** 2


class EigenTracker:
    """Follows the largest eigenpair of A(theta) along a path of thetas.

    Each update (1) predicts the top eigenvector at the new theta from remembered products (:class:`ProductMemory`),
    (2) spends one product on it, (3) corrects the Rayleigh quotient by the predicted neighbours it is coupled to,
    and (4) buys more products, combined by Rayleigh-Ritz, while its own doubt exceeds ``tol``.

    Args:
        tol: Relative accuracy aimed at.
        memory: Products remembered; two vectors of length P each.
        seed: Of the first solve's start vector.
    """

    def __init__(self, *, tol: float = 1e-2, memory: int = 28, seed: int = 0) -> None:
        self.tol = tol
        self.seed = seed
        self.memory = ProductMemory(memory, rank=min(10, memory))
        self.time = 0
        self._signs: Tensor | None = None

    def update(self, matvec: Matvec, theta: Tensor, *, most: int | None = None) -> EigenPairs:
        """The largest eigenpair at theta, ``(P,)``, for at most ``most`` products (25; the first is a solve).

        The residual belongs to the vector and its Rayleigh quotient; the value is the corrected one and lies between
        the quotient and quotient + residual. ``converged`` says that the doubt is at most ``tol``: an
        indicator, not a bound. A product that is not finite gives ``nan`` and is not remembered.
        """
        if not len(self.memory):
            return self._first(matvec, theta)
        self.time += 1
        place = self._place(theta)
        C, T = self.memory.predict(place, self.time)
        x = self._leading(C, T)
        image = matvec(x)
        if not bool(torch.isfinite(image).all()):
            nan = x.new_full((1,), torch.nan)
            return EigenPairs(nan, x[:, None] * torch.nan, nan, 1, False)
        rows = [self.memory.add(x, image, place, self.time)]  # this update's pairs, the best first
        now = self._estimate(rows[0], place)
        most = min(MOST if most is None else most, self.memory.size - 1)
        looked = False
        while len(rows) < most:
            if now.doubt() > self.tol:
                wanted = now.better()
            elif len(rows) > 2 and not looked:
                # The prediction was poor, so a rival may have been overlooked, too.
                wanted, looked = now.rival(), True
            else:
                break
            direction = orthonormalise(wanted, self.memory.vectors[rows])
            if direction is None:
                break
            rows.append(self.memory.add(direction, matvec(direction), place, self.time))
            self._ritz(rows)
            now = self._estimate(rows[0], place)
        num = len(rows)
        x = self.memory.vectors[rows[0]].clone()
        if num == 1 and most > 1 and self.time % EXPLORE == 0:
            rival = orthonormalise(now.rival(), x[None])
            if rival is not None:
                self.memory.add(rival, matvec(rival), place, self.time)
                num += 1
        converged = now.doubt() <= self.tol
        value, residual = x.new_tensor([now.value]), x.new_tensor([now.residual])
        return EigenPairs(value, x[:, None], residual, num, converged)

    def _place(self, theta: Tensor) -> Tensor:
        """A short vector whose distances are those of theta: blocks summed up with random signs, ``(SKETCH,)``."""
        if self._signs is None:
            generator = torch.Generator().manual_seed(self.seed)
            signs = 2 * torch.randint(0, 2, theta.shape, dtype=torch.int8, generator=generator) - 1
            self._signs = signs.to(theta.device)
        pad = -len(theta) % SKETCH
        signed = torch.nn.functional.pad(theta * self._signs, (0, pad))
        return signed.view(SKETCH, -1).sum(1, dtype=torch.float64).cpu()

    def _leading(self, C: Tensor, T: Tensor) -> Tensor:
        """The predicted top eigenvector, ``(P,)``; the last one where nothing is known but zeros."""
        if len(T):
            x = self.memory.combine(torch.linalg.eigh(T)[1][:, -1] @ C)
            return x / x.norm()
        return self.memory.vectors[len(self.memory) - 1].clone()

    def _ritz(self, rows: list[int]) -> None:
        """Rotate this update's pairs into Ritz pairs, the largest first."""
        T = self.memory.cross[rows][:, rows]
        self.memory.rotate(rows, torch.linalg.eigh((T + T.T) / 2)[1].flip(1).T)

    def _first(self, matvec: Matvec, theta: Tensor) -> EigenPairs:
        """A cold solve; its runners-up are remembered too."""
        generator = torch.Generator(device=theta.device).manual_seed(self.seed)
        dtype = working_dtype(theta.dtype)
        start = torch.randn(theta.shape, dtype=dtype, device=theta.device, generator=generator)
        pairs = lanczos(matvec, start, count=min(2, theta.numel()), tol=self.tol, generator=generator)
        if bool(torch.isfinite(pairs.values).all()):
            place = self._place(theta)
            for value, x in reversed(list(zip(pairs.values, pairs.vectors.T, strict=True))):
                self.memory.add(x, value * x, place, self.time)
        return EigenPairs(
            pairs.values[:1], pairs.vectors[:, :1], pairs.residuals[:1], pairs.num_matvecs, pairs.converged
        )

    def _estimate(self, row: int, place: Tensor) -> _Estimate:
        """Rayleigh-Ritz on x, the rest of the predicted subspace, and the residual outside of it.

        Row and column of x are measured, the remaining block is predicted, and the direction outside is taken to be
        flat: second-order perturbation theory without the series.
        """
        memory = self.memory
        x, image = memory.vectors[row], memory.images[row]
        quotient = float(x @ image)
        residual = float((image - quotient * x).norm())
        C, T = memory.predict(place, self.time)
        k, n = C.shape
        if k == 0:
            return _Estimate(quotient, quotient, residual, image.clone, image.clone)
        inside = C @ memory.cross[row, :n]
        frame, _ = torch.linalg.qr(torch.cat([inside[:, None], torch.eye(k, dtype=inside.dtype)], dim=1))
        rest = frame[:, 1:k]
        neighbours, S = torch.linalg.eigh(rest.T @ T @ rest)
        D = (rest @ S).T  # the neighbours are the rows of D V, made orthogonal to x
        overlap = D @ inside
        coupling = D @ (C @ memory.gram[row, :n]) - overlap * quotient
        length = max(residual**2 - float(coupling @ coupling), 0.0) ** 0.5
        M = torch.zeros(k + 1, k + 1, dtype=torch.float64)
        M[0, 0] = quotient
        M[0, 1:k] = M[1:k, 0] = coupling
        # A neighbour predicted far above what was just measured is a mistake of the prediction.
        M[1:k, 1:k] = torch.diag(neighbours.clamp(max=1.5 * abs(quotient)))
        M[0, k] = M[k, 0] = length
        values, Y = torch.linalg.eigh(M)

        def vector(y: Tensor) -> Tensor:
            outside = float(y[k]) / length if length > 1e-6 * residual else 0.0
            near = y[1:k] - outside * coupling
            along = float(y[0]) - float(near @ overlap) - outside * quotient
            coefficients = near @ D @ C
            coefficients[row] += outside  # the image of x is one of the remembered ones
            return memory.combine(coefficients) + along * x

        value = min(max(float(values[-1]), quotient), quotient + residual)
        return _Estimate(value, quotient, residual, lambda: vector(Y[:, -1]), lambda: vector(Y[:, -2]))

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "time": self.time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.time = state["time"]
