"""The largest eigenvalues of a matrix that moves a little at a time, for about one product each per move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrscope.linalg.lanczos import lanczos
from lrscope.linalg.memory import ProductMemory
from lrscope.linalg.pairs import EigenPairs, Matvec, orthonormalise, without_autocast, working_dtype

EXPLORE = 5
"""Steps between looks at the runner-up, which could rise unseen; odd, so that they meet both phases of a swing."""
SURPRISE = 3.0
"""Tolerances by which the largest value may fall short of its prediction before the runner-up is looked at."""
MOST = 25
"""Products in one update, at most: updates may be far apart and each nearly a solve of its own."""
RISK = 1e-3
"""Accepted probability that the random start of the first solve hides a larger eigenvalue."""
SKETCH = 2048
"""Numbers kept of a theta: enough for distances between recent ones to within a few percent."""


@dataclass
class _Estimate:
    values: Tensor  # corrected, the largest first, (k,)
    expected: Tensor  # the same, where predicted neighbours that nothing measured is coupled to count, too
    quotients: Tensor  # x_i' A x_i of the Ritz vectors, never above the eigenvalue of the same rank
    residuals: Tensor
    vector: Callable[[int], Tensor]  # the vector that the i-th corrected value belongs to; i = k: the runner-up

    def doubts(self) -> Tensor:
        """Indicators of the error relative to the largest: what the correction added, what it may not have seen.

        Measured on networks, the error is 0.1 to 0.4 of the correction where no rival was overlooked.
        """
        size = max(float(self.values.abs().max()), 1e-30)
        return 2 * (self.expected - self.quotients) / size + (self.residuals / size) ** 2


class EigenTracker:
    """Follows the ``count`` largest eigenpairs of A(theta) along a path of thetas.

    Each update (1) predicts the top eigenvectors at the new theta from remembered products (:class:`ProductMemory`),
    (2) spends one product on each, (3) corrects their Ritz values by the predicted neighbours they are coupled to,
    and (4) buys more products, combined by Rayleigh-Ritz, while its own doubt exceeds ``tol``. From time to time it
    looks at the runner-up, which could rise unseen. Which eigenvalue is the largest is decided anew each time.

    Args:
        count: Number of eigenpairs, k.
        tol: Accuracy aimed at, relative to the largest value.
        memory: Products remembered; two vectors of length P each; at least ``3 * count + 1``.
        seed: Of the first solve's start vector.
    """

    def __init__(self, *, count: int = 1, tol: float = 1e-2, memory: int = 28, seed: int = 0) -> None:
        if memory < 3 * count + 1:
            raise ValueError(f"memory: expected at least 3 * count + 1 = {3 * count + 1} products, got {memory!r}")
        self.count = count
        self.tol = tol
        self.seed = seed
        self.memory = ProductMemory(memory, rank=min(10 + 2 * (count - 1), memory))
        self.time = 0
        self._unseen = 0  # steps since the last look at the runner-up
        self._signs: Tensor | None = None

    def anew(self) -> EigenTracker:
        """One that follows the same eigenvalues and remembers nothing."""
        return EigenTracker(count=self.count, tol=self.tol, memory=self.memory.size, seed=self.seed)

    @without_autocast
    def update(self, matvec: Matvec, theta: Tensor, *, most: int | None = None, steps: int = 1) -> EigenPairs:
        """The largest eigenpairs at theta, ``(P,)``.

        Vectors are Ritz vectors of this update's products, and a residual belongs to the vector and its Rayleigh
        quotient: an eigenvalue lies within it of the quotient, and no quotient is above the eigenvalue of its rank.
        Each value is the corrected one, between quotient and quotient + residual; so it is within the residual of the
        eigenvalue of its rank unless a larger one hides from all remembered products, as a runner-up that has just
        risen may until the next look. ``converged`` says that all doubts are at most ``tol``: an indicator, not a
        bound. A product that is not finite gives ``nan`` and is not remembered.

        Args:
            matvec: Symmetric A(theta) as a function ``(P,) -> (P,)``.
            theta: Where; only distances between thetas matter.
            most: Products at most, though never fewer than ``count``; by default 25, or ``5 * count`` if that is
                more. The first update is a solve and spends what it needs.
            steps: How many small moves of theta lie between the last update and this one: the more, the sooner the
                runner-up is looked at again.
        """
        if not len(self.memory):
            return self._first(matvec, theta)
        self.time += 1
        self._unseen += steps
        self.memory.to(theta.device, working_dtype(theta.dtype))
        k, place = self.count, self._place(theta)
        most = min(max(MOST, 5 * k) if most is None else max(most, k), self.memory.size - 1)
        vectors, predicted = self._leading(place)
        images = torch.stack([matvec(x) for x in vectors])
        if not bool(torch.isfinite(images).all()):
            return self._not_finite(theta, k)
        # The rows of the memory with this update's pairs, the best first.
        rows = [self.memory.add(x, image, place, self.time) for x, image in zip(vectors, images, strict=True)]
        self._ritz(rows)
        now = self._estimate(rows[:k], place)
        if predicted - float(now.expected[0]) > SURPRISE * self.tol * abs(predicted):
            self._unseen = EXPLORE  # what fell unexpectedly may have been overtaken
        while len(rows) < most:
            doubts = now.doubts()
            if float(doubts.max()) > self.tol:
                wanted = now.vector(int(doubts.argmax()))
            elif self._unseen >= EXPLORE or (len(rows) > k + 1 and self._unseen):
                # Where the prediction was poor, a rival may have been overlooked, too.
                wanted, self._unseen = now.vector(k), 0
            else:
                break
            direction = orthonormalise(wanted, self.memory.vectors[rows])
            if direction is None:
                break
            image = matvec(direction)
            if not bool(torch.isfinite(image).all()):
                return self._not_finite(theta, len(rows) + 1)
            rows.append(self.memory.add(direction, image, place, self.time))
            self._ritz(rows)
            now = self._estimate(rows[:k], place)
        vectors = self.memory.vectors[rows[:k]]
        converged = float(now.doubts().max()) <= self.tol
        return EigenPairs(now.values.to(vectors), vectors.T.clone(), now.residuals.to(vectors), len(rows), converged)

    def _place(self, theta: Tensor) -> Tensor:
        """A short vector whose distances are those of theta: blocks summed up with random signs, ``(SKETCH,)``."""
        if self._signs is None:
            generator = torch.Generator(device="cpu").manual_seed(self.seed)
            signs = 2 * torch.randint(0, 2, theta.shape, dtype=torch.int8, generator=generator, device="cpu") - 1
            self._signs = signs.to(theta.device)
        pad = -len(theta) % SKETCH
        signed = torch.nn.functional.pad(theta * self._signs, (0, pad))
        return signed.view(SKETCH, -1).sum(1, dtype=torch.float64).cpu()

    def _leading(self, place: Tensor) -> tuple[Tensor, float]:
        """The predicted top eigenvectors, ``(k, P)``, and the largest value; the last ones where all is zero."""
        memory = self.memory
        C, T = memory.predict(place, self.time)
        values, S = torch.linalg.eigh(T)
        best = S.flip(1).T @ C
        found = memory.vectors[:0]
        for x in [*memory.combine(best[: self.count]), *memory.vectors[memory.latest()]]:
            unit = orthonormalise(x, found) if len(found) < self.count else None
            if unit is not None:
                found = torch.cat([found, unit[None]])
        return found, float(values[-1]) if len(values) else 0.0

    def _ritz(self, rows: list[int]) -> None:
        """Rotate this update's pairs into Ritz pairs, the largest first."""
        T = self.memory.cross[rows][:, rows]
        self.memory.rotate(rows, torch.linalg.eigh((T + T.T) / 2)[1].flip(1).T)

    def _first(self, matvec: Matvec, theta: Tensor) -> EigenPairs:
        """A cold solve; its runner-up is remembered too."""
        generator = torch.Generator(device=theta.device).manual_seed(self.seed)
        dtype = working_dtype(theta.dtype)
        start = torch.randn(theta.shape, dtype=dtype, device=theta.device, generator=generator)
        count = min(self.count + 1, theta.numel())
        pairs = lanczos(matvec, start, count=count, tol=self.tol, risk=RISK, generator=generator)
        if bool(torch.isfinite(pairs.values).all()):
            place = self._place(theta)
            for value, x in reversed(list(zip(pairs.values, pairs.vectors.T, strict=True))):
                self.memory.add(x, value * x, place, self.time)
        k = self.count
        return replace(pairs, values=pairs.values[:k], vectors=pairs.vectors[:, :k], residuals=pairs.residuals[:k])

    def _not_finite(self, theta: Tensor, products: int) -> EigenPairs:
        nan = theta.new_full((self.count,), torch.nan)
        return EigenPairs(nan, theta.new_full((theta.numel(), self.count), torch.nan), nan, products, False)

    def _estimate(self, rows: list[int], place: Tensor) -> _Estimate:
        """Rayleigh-Ritz on the Ritz vectors X, the rest of the predicted subspace, and the residuals outside of it.

        Rows and columns of X are measured, the remaining block is predicted, and directions outside are taken to be
        flat: second-order perturbation theory without the series.
        """
        memory, k = self.memory, len(rows)
        X, W = memory.vectors[rows], memory.images[rows]
        quotients = memory.cross[rows, rows]
        R = W - quotients.to(W)[:, None] * X
        residuals = R.norm(dim=1).double().cpu()
        C, T = memory.predict(place, self.time)
        K, n = C.shape
        inside = C @ memory.cross[rows, :n].T
        frame, _ = torch.linalg.qr(torch.cat([inside, torch.eye(K, dtype=inside.dtype, device="cpu")], dim=1))
        rest = frame[:, k:K]
        neighbours, S = torch.linalg.eigh(rest.T @ T @ rest)
        D = (rest @ S).T @ C  # the neighbours are the rows of D W, orthogonal to X
        coupling = D @ memory.gram[rows, :n].T
        outside, E = torch.linalg.eigh((R @ R.T).double().cpu() - coupling.T @ coupling)
        lengths = outside.clamp(min=0).sqrt()
        m = len(neighbours)
        M = torch.zeros(2 * k + m, 2 * k + m, dtype=torch.float64, device="cpu")
        M[:k, :k] = torch.diag(quotients)
        M[k : k + m, :k] = coupling
        # A neighbour predicted far above what was just measured is a mistake of the prediction.
        M[k : k + m, k : k + m] = torch.diag(neighbours.clamp(max=1.5 * float(quotients.abs().max())))
        M[k + m :, :k] = (E * lengths).T
        values, Y = torch.linalg.eigh((M + M.T) - torch.diag(M.diagonal()))
        values, Y = values.flip(0), Y.flip(1)

        def vector(i: int) -> Tensor:
            """X' y_X + (D W)' y_N + U' y_U, with U the orthonormal directions of R outside."""
            y = Y[:, i]
            known = lengths > 1e-6 * float(residuals.max())
            z = E @ torch.where(known, y[k + m :] / lengths.clamp(min=1e-300), 0.0)
            coefficients = (y[k : k + m] - coupling @ z) @ D
            coefficients[rows] += z  # R is W - quotients X, and W are remembered images
            return memory.combine(coefficients) + (y[:k] - z * quotients).to(X) @ X

        expected = torch.maximum(values[:k], quotients)
        return _Estimate(torch.minimum(expected, quotients + residuals), expected, quotients, residuals, vector)

    def state_dict(self) -> dict[str, Any]:
        counts = {"count": self.count, "seed": self.seed, "time": self.time, "unseen": self._unseen}
        return counts | {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where the state was taken.

        Raises:
            ValueError: It follows another number of eigenvalues, or remembers another number of products.
        """
        if state["count"] != self.count:
            raise ValueError(f"state: it follows {state['count']} eigenvalues, this tracker {self.count}")
        self.memory.load_state_dict(state["memory"])
        self.time, self._unseen = state["time"], state["unseen"]
        self.seed, self._signs = state["seed"], None
