"""A model of a moving matrix, fitted to the products seen along the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ProductMemory:
    r"""Remembers products ``w = A(theta) x`` and predicts the matrix at a new theta, inside a small subspace.

    While theta moves a little at a time, A is close to affine in theta, and the recent thetas lie near a plane of few
    dimensions: a drift and, at the edge of stability, an oscillation of period two. In the subspace V, spanned by the
    dominant directions of the remembered products,

    .. math:: V A(\theta) V^T \approx T_0 + \sum_{j=1}^{q} z_j(\theta) \, T_j

    with z the first principal coordinates of theta - theta_now. The symmetric matrices :math:`T_j` solve one small
    ridge regression on all remembered pairs, older ones weighted down. At theta_now z is zero and the prediction
    is :math:`T_0`.

    Args:
        size: Pairs remembered.
        rank: Dimension of V, k.
        num_coordinates: q; 0 is a plain average over the recent past.
        decay: Weight lost per update.
        ridge: Penalty on T_0, relative to the squared length of the products; ``30 * ridge`` on the T_j.
    """

    def __init__(
        self, size: int = 28, *, rank: int = 10, num_coordinates: int = 2, decay: float = 0.9, ridge: float = 1e-3
    ) -> None:
        self.size = size
        self.rank = rank
        self.num_coordinates = num_coordinates
        self.decay = decay
        self.ridge = ridge
        self.vectors: list[Tensor] = []  # x, unit, (P,)
        self.images: list[Tensor] = []  # A(theta) x, (P,)
        self.thetas: list[Tensor] = []  # (P,)
        self.times: list[int] = []

    def __len__(self) -> int:
        return len(self.vectors)

    def add(self, x: Tensor, image: Tensor, theta: Tensor, time: int) -> None:
        """Remember one product; the oldest is forgotten when the memory is full."""
        self.vectors.append(x)
        self.images.append(image)
        self.thetas.append(theta)
        self.times.append(time)
        for items in (self.vectors, self.images, self.thetas, self.times):
            del items[: -self.size]

    def replace_last(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Exchange the newest pairs for others at the same theta, such as the Ritz pairs of their span."""
        for back, (x, image) in enumerate(pairs, start=1):
            self.vectors[-back], self.images[-back] = x, image

    def predict(self, theta: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """V, orthonormal rows ``(k, P)``, and the predicted ``V A(theta) V^T``, ``(k, k)`` in float64.

        Cost: no product; O(size * P) for inner products and a dense solve in (1 + q) k (k + 1) / 2 unknowns.
        """
        weights = self.decay ** torch.tensor([time - t for t in self.times], dtype=torch.float64)
        X, W = torch.stack(self.vectors), torch.stack(self.images)
        V = _dominant(W if bool(W.any()) else X, weights, self.rank)
        x, w = (X @ V.T).double().cpu(), (W @ V.T).double().cpu()
        z = _coordinates(torch.stack([t - theta for t in self.thetas]), weights, self.num_coordinates)
        return V, _regress(x, w, z, weights, self.ridge)

    def state_dict(self) -> dict[str, Any]:
        return {name: list(getattr(self, name)) for name in ("vectors", "images", "thetas", "times")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("vectors", "images", "thetas", "times"):
            setattr(self, name, list(state[name])[-self.size :])


def _dominant(rows: Tensor, weights: Tensor, rank: int) -> Tensor:
    """Orthonormal basis (rows) of the leading directions of the weighted ``rows``, ``(S, P)``."""
    root = weights.sqrt()
    gram = (rows @ rows.T).double().cpu() * torch.outer(root, root)
    values, Q = torch.linalg.eigh(gram)
    keep = values > 1e-9 * values[-1]
    Q = (root[:, None] * Q[:, keep] / values[keep].sqrt())[:, -rank:]
    basis, _ = torch.linalg.qr((Q.T.to(rows) @ rows).T)  # the Gram matrix lost half the digits; qr repairs them
    return basis.T


def _coordinates(away: Tensor, weights: Tensor, num: int) -> Tensor:
    """First ``num`` principal coordinates of the rows of ``away``, ``(S, P)``, scaled to at most 1; ``(S, num)``."""
    root = weights.sqrt()
    gram = (away @ away.T).double().cpu() * torch.outer(root, root)
    values, Q = torch.linalg.eigh(gram)
    first = max(0, len(values) - num) if num else len(values)
    z = Q[:, first:] * values[first:].clamp(min=0).sqrt() / root[:, None]
    top = z.abs().amax() if z.numel() else z.new_zeros(())
    return z / top if top > 0 else z[:, :0]


def _regress(x: Tensor, w: Tensor, z: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """T_0 of the ridge regression ``w ~ (T_0 + sum_j z_j T_j) x`` over symmetric T; x, w ``(S, k)``, z ``(S, q)``."""
    num, k = x.shape
    scale = w.norm(dim=1).max()
    if scale == 0:
        return x.new_zeros(k, k)
    rows, cols = torch.triu_indices(k, k)
    entry = torch.arange(len(rows))
    # (T x)_a = sum_b T_ab x_b, written as a linear function of the upper triangle of T
    design = x.new_zeros(num, k, len(rows))
    design[:, rows, entry] += x[:, cols]
    off = rows != cols
    design[:, cols[off], entry[off]] += x[:, rows[off]]
    features = torch.cat([x.new_ones(num, 1), z], dim=1)
    D = (design[:, :, None, :] * features[:, None, :, None]).reshape(num * k, -1)
    D = D * weights.sqrt().repeat_interleave(k)[:, None]
    b = (w / scale * weights.sqrt()[:, None]).reshape(-1)
    penalty = torch.full((D.shape[1],), 30 * ridge, dtype=D.dtype)
    penalty[: len(rows)] = ridge
    entries = torch.linalg.solve(D.T @ D + torch.diag(penalty), D.T @ b)[: len(rows)]
    T = x.new_zeros(k, k)
    T[rows, cols] = entries * scale
    return T + T.triu(1).T
