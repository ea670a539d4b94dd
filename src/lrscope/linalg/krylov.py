"""A subspace and what products have told about it, in one long vector per product."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from lrscope.linalg.pairs import Inner, Matvec, Which, lengths

BLOCK = 8
"""Long vectors allocated at a time: a solve that needs six shall not hold twenty-four."""
STRIP = 2**18
"""Entries of the long vectors rotated at a time, so that a rotation needs no second copy of them."""


class Basis:
    """Orthonormal long vectors: the rows of a few blocks, of which the first ``len(basis)`` are in use.

    Small matrices are float64 arrays on the CPU, whatever the long vectors are.
    """

    def __init__(self, like: Tensor, limit: int, inner: Inner) -> None:
        self.like = like.new_empty(0)
        self.limit = limit
        self.inner = inner
        self.blocks: list[Tensor] = []
        self.num = 0

    def __len__(self) -> int:
        return self.num

    @property
    def newest(self) -> Tensor:
        """The last row, ``(P,)``."""
        return self.blocks[(self.num - 1) // BLOCK][(self.num - 1) % BLOCK]

    def append(self, v: Tensor) -> None:
        """Copy ``v``, ``(P,)``, into the next row."""
        index, row = divmod(self.num, BLOCK)
        if index == len(self.blocks):
            self.blocks.append(self.like.new_empty(min(BLOCK, self.limit - self.num), len(v)))
        self.blocks[index][row] = v
        self.num += 1

    def outside(self, v: Tensor, others: Tensor | None = None) -> tuple[Tensor, np.ndarray, float]:
        """The part of ``v``, ``(P,)``, that is orthogonal to the basis and to the orthonormal rows ``others``.

        Returns:
            A new unit vector; the coefficients of what was taken out; the length of the rest, 0 if that is nothing
            but rounding errors, ``nan`` if ``v`` is not finite.
        """
        parts = self._parts() if others is None else [*self._parts(), others]
        taken = np.zeros(sum(map(len, parts)))
        v = v.clone()
        first = before = length = self._length(v)
        if not math.isfinite(first):
            return v, taken * math.nan, math.nan
        for _ in range(3):  # until the length stays: then what is left is orthogonal to working precision
            found = [self.inner(part, v[None])[:, 0] for part in parts]
            for part, coefficients in zip(parts, found, strict=True):
                v.addmv_(part.T, coefficients, alpha=-1)
            taken += torch.cat([self.like, *found]).cpu().double().numpy()
            length = self._length(v)
            if not length < 0.7 * before:
                break
            before = length
        if length <= 10 * torch.finfo(v.dtype).eps * first:
            return v, taken, 0.0
        return v.div_(length), taken, length

    def combine(self, S: np.ndarray) -> Tensor:
        """Combinations of the rows with the columns of S, ``(M, K)``, as rows ``(K, P)``."""
        weights = torch.as_tensor(S.T, dtype=self.like.dtype, device=self.like.device).split(BLOCK, dim=1)
        first, *rest = zip(weights, self._parts(), strict=True)
        out = first[0] @ first[1]
        for weight, part in rest:
            out.addmm_(weight, part)
        return out

    def rotate(self, S: np.ndarray) -> None:
        """Replace the rows by their combinations with the columns of S, ``(M, K)``; K is at most M."""
        weights, parts = torch.as_tensor(S.T, dtype=self.like.dtype, device=self.like.device), self._parts()
        self.num = S.shape[1]
        for begin in range(0, parts[0].shape[1], STRIP):
            strip = slice(begin, begin + STRIP)
            turned = weights @ torch.cat([part[:, strip] for part in parts])
            for part, rows in zip(self._parts(), turned.split(BLOCK), strict=True):
                part[:, strip] = rows

    def _parts(self) -> list[Tensor]:
        full, rest = divmod(self.num, BLOCK)
        return self.blocks[:full] + ([self.blocks[full][:rest]] if rest else [])

    def _length(self, v: Tensor) -> float:
        return float(lengths(v[None], self.inner)[0])


class Krylov:
    r"""A basis V (rows), what a symmetric A does inside its span, and where it leads out.

    .. math:: A V^T = V^T H + R^T C

    with H small and the few rows of R orthonormal and orthogonal to V. Grown from one vector, R is one vector, the
    next one of Lanczos, and :math:`H` is tridiagonal; every further start vector adds one. The images of V are not
    kept, yet Ritz pairs have their true residuals, ``||(H - value) s||`` and ``||C s||`` together, also if A is
    symmetric only up to rounding. After a restart (:meth:`shrink`) the relation still holds (Krylov-Schur,
    Stewart 2002).

    Attributes:
        num_matvecs: Products so far.
        lone: Whether everything so far came from one start vector.
    """

    def __init__(self, matvec: Matvec, like: Tensor, limit: int, which: Which, inner: Inner) -> None:
        self.matvec = matvec
        self.basis = Basis(like, limit, inner)
        self.R = like.new_empty(0, len(like))
        self.H, self.C = np.zeros((0, 0)), np.zeros((0, 0))
        self.inner = inner
        self.which: Which = which
        self.num_matvecs = 0
        self.lone = True
        self._history: list[tuple[np.ndarray, float | None]] = []

    def __len__(self) -> int:
        return len(self.basis)

    def join(self, v: Tensor) -> bool:
        """Take in the new direction in a foreign vector, ``(P,)``; False, at no cost, if there is none."""
        unit, _, length = self.basis.outside(v)
        if not length > 0:  # also nan
            return False
        self.lone = self.lone and not len(self)
        along = self.inner(self.R, unit[None])[:, 0].cpu().double().numpy()
        size = float(np.linalg.norm(along))
        row = along @ self.C
        if size > 0:
            # Turn R until one of its rows holds all that lies along the vector, and take that out.
            turn = _frame(along / size)
            self.R, self.C = self._turned(turn), turn @ self.C
            others = torch.cat([unit[None], self.R[1:]])
            rest, _, length = self.basis.outside(self.R[0] - size * unit, others)
            self.R[0] = rest
            self.C[0] *= length
            if length == 0:
                self.R, self.C = self.R[1:], self.C[1:]
        self.basis.append(unit)
        self._multiply(row)
        return True

    def grow(self, s: np.ndarray | None = None) -> bool:
        """Take in where the residual of the combination ``s``, ``(M,)``, leads, or where the last product led.

        False, at no cost, if it leads nowhere.
        """
        away = np.eye(1, len(self.R), len(self.R) - 1)[0] if s is None else self.C @ s
        size = float(np.linalg.norm(away))
        if not size > 0:
            return False
        away = away / size
        row = away @ self.C if len(away) > 1 else self.C[0]
        if len(away) > 1:
            turn = _frame(away)
            self.R, self.C = self._turned(turn), turn @ self.C
        self.basis.append(self.R[0])
        # A copy, so that the row's memory is free while the product is made.
        self.R, self.C = self.R[1:].clone(), self.C[1:]
        self._multiply(row)
        return True

    def _multiply(self, row: np.ndarray) -> None:
        """The newest vector of V, along which older images have the components ``row``, gets its image."""
        v = self.basis.newest
        rest, taken, length = self.basis.outside(self.matvec(v).to(v), self.R)
        self.num_matvecs += 1
        m = len(self) - 1
        column, old = taken[: m + 1], taken[m + 1 :]
        H = np.zeros((m + 1, m + 1))
        H[:m, :m], H[m, :m], H[:, m] = self.H, row, column
        self.H, self.C = H, np.column_stack([self.C, old])
        if length > 0:
            new = np.zeros((1, m + 1))
            new[0, m] = length
            self.C = np.concatenate([self.C, new])
            self.R = rest[None] if not len(self.R) else torch.cat([self.R, rest[None]])
        if self.lone:
            self._history.append((column, length))

    def ritz(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Wanted Ritz values ``(K,)``, coefficients of their vectors ``(M, K)``, and residuals; K = min(count, M).

        Last comes the largest magnitude among all Ritz values: what is known of the norm of A. After a product that
        is not finite everything is ``nan``.
        """
        values, S = self._eigh()
        scale = float(np.abs(values).max())
        values, S = values[:count], S[:, :count]
        inside = np.linalg.norm(self.H @ S - S * values, axis=0)
        return values, S, np.hypot(inside, np.linalg.norm(self.C @ S, axis=0)), scale

    def shrink(self, keep: int) -> None:
        """Restart: only the ``keep`` best Ritz vectors stay."""
        S = self._eigh()[1][:, : min(keep, len(self) - 1)]
        self.basis.rotate(S)
        self.H, self.C = S.T @ self.H @ S, self.C @ S
        if self.lone:
            self._history.append((S, None))

    def vectors(self, S: np.ndarray) -> Tensor:
        """The long vectors with the coefficients S, ``(M, K)``, as rows ``(K, P)``."""
        self.R = self.R[:0].clone()  # nothing grows after the end
        return self.basis.combine(S)

    def component(self, mu: float) -> float:
        r"""Largest component that the start, as a unit vector, may have along an eigenvector u with value ``mu``.

        With c that component, :math:`y = V u / c` and :math:`\rho = R u / c` follow from
        :math:`\mu \, (V u) = H^T V u + C^T R u` one product after the other (for an unrestarted run y holds the
        orthonormal polynomials at mu), and :math:`c^2 (|y|^2 + \rho^2) \le 1`.
        """
        y, m = np.zeros(self.basis.limit), 0
        rho, inside, most = 1.0, 0.0, 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            for small, length in self._history:
                if length is None:
                    turned = small.T @ y[:m]
                    m = len(turned)
                    y[:m], inside = turned, float(turned @ turned)
                    continue
                if length == 0:  # the space is invariant: u is in it or has no component
                    return 0.0
                y[m] = rho
                m += 1
                inside += rho**2
                rho = float(mu * rho - small @ y[:m]) / length
                most = max(most, inside + rho**2)
        return most**-0.5

    def _turned(self, turn: np.ndarray) -> Tensor:
        return torch.as_tensor(turn, dtype=self.R.dtype, device=self.R.device) @ self.R

    def _eigh(self) -> tuple[np.ndarray, np.ndarray]:
        if not np.isfinite(self.H).all():
            return np.full(len(self), math.nan), np.eye(len(self))
        values, S = np.linalg.eigh((self.H + self.H.T) / 2)
        order = np.argsort(-wanted(values, self.which), kind="stable")
        return values[order], S[:, order]


def wanted(values: np.ndarray, which: Which) -> np.ndarray:
    """Values so signed that the wanted ones are the largest."""
    return np.abs(values) if which == "magnitude" else values if which == "largest" else -values


def _frame(v: np.ndarray) -> np.ndarray:
    """An orthogonal matrix whose first row is the unit vector ``v``."""
    Q = np.linalg.qr(np.column_stack([v, np.eye(len(v))]))[0].T
    return Q if Q[0] @ v > 0 else -Q
