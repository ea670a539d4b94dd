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

    Long vectors are touched once, when a pair is added; everything else is done with their inner products.

    Args:
        size: Pairs remembered; two vectors of length P each.
        rank: Dimension of V, k.
        num_coordinates: q; 0 is a plain average over the recent past.
        decay: Weight lost per update.
        ridge: Penalty on T_0, relative to the squared length of the products; ``30 * ridge`` on the T_j.

    Attributes:
        vectors, images: x and A x in the rows of ``(size, P)``, of which the first ``len(memory)`` are in use.
        cross, gram: Inner products x_i . w_j and w_i . w_j, ``(size, size)``, float64.
    """

    def __init__(
        self, size: int = 28, *, rank: int = 10, num_coordinates: int = 2, decay: float = 0.9, ridge: float = 1e-3
    ) -> None:
        self.size = size
        self.rank = rank
        self.num_coordinates = num_coordinates
        self.decay = decay
        self.ridge = ridge
        self.vectors = self.images = torch.empty(0, 0, device="cpu")
        self.cross = torch.zeros(size, size, dtype=torch.float64, device="cpu")
        self.gram = torch.zeros(size, size, dtype=torch.float64, device="cpu")
        self.places: list[Tensor] = []
        self.times: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self.times)

    def add(self, x: Tensor, image: Tensor, place: Tensor, time: int) -> int:
        """Remember one product, in the row returned; the oldest is forgotten when the memory is full.

        ``place`` says where theta was: a float64 vector on the CPU whose distances are those of the thetas.
        """
        if not self.vectors.numel():
            self.vectors, self.images = x.new_zeros(self.size, len(x)), x.new_zeros(self.size, len(x))
        row, self._next = self._next, (self._next + 1) % self.size
        if len(self) < self.size:
            self.places.append(place)
            self.times.append(time)
        self.places[row], self.times[row] = place, time
        self.vectors[row], self.images[row] = x, image
        n = len(self)
        pair = torch.stack([x, image], dim=1)
        with_images = (self.images[:n] @ pair).double().cpu()
        self.cross[row, :n], self.gram[row, :n] = with_images[:, 0], with_images[:, 1]
        self.cross[:n, row] = (self.vectors[:n] @ image).double().cpu()
        self.gram[:n, row] = with_images[:, 1]
        return row

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Where and in what precision products are made from now on; a loaded state may come from elsewhere."""
        self.vectors, self.images = self.vectors.to(device, dtype), self.images.to(device, dtype)

    def latest(self) -> list[int]:
        """The rows in use, the last product first."""
        return [(self._next - 1 - i) % len(self) for i in range(len(self))]

    def rotate(self, rows: list[int], R: Tensor) -> None:
        """Replace the pairs in ``rows``, all of one theta, by their combinations ``R``, an orthogonal matrix."""
        for long in (self.vectors, self.images):
            long[rows] = R.to(long) @ long[rows]
        for small in (self.cross, self.gram):
            small[rows] = R @ small[rows]
            small[:, rows] = small[:, rows] @ R.T

    def combine(self, coefficients: Tensor) -> Tensor:
        """Combinations of the images: ``(n,)`` or ``(k, n)`` to ``(P,)`` or ``(k, P)``."""
        return coefficients.to(self.images) @ self.images[: len(self)]

    def predict(self, place: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """V as coefficients for :meth:`combine`, ``(k, n)``, and the predicted ``V A V^T``, ``(k, k)``; float64.

        Cost: no product and no pass over long vectors; a dense solve in (1 + q) k (k + 1) / 2 unknowns.
        """
        n = len(self)
        weights = self.decay ** torch.tensor([time - t for t in self.times], dtype=torch.float64, device="cpu")
        # Inner products of float32 vectors say little about directions 10^4 times shorter than the longest.
        cut = 1e-9 if self.images.dtype == torch.float64 else 1e-8
        C = _dominant(self.gram[:n, :n], weights, self.rank, cut)
        x, w = self.cross[:n, :n] @ C.T, self.gram[:n, :n] @ C.T
        z = _coordinates(torch.stack(self.places) - place, weights, self.num_coordinates)
        return C, _regress(x, w, z, weights, self.ridge)

    def state_dict(self) -> dict[str, Any]:
        n = len(self)
        return {
            "vectors": self.vectors[:n].clone(),
            "images": self.images[:n].clone(),
            "cross": self.cross.clone(),
            "gram": self.gram.clone(),
            "places": list(self.places),
            "times": list(self.times),
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["cross"]) != self.size:
            raise ValueError(f"state: it remembers {len(state['cross'])} products, this memory {self.size}")
        n = len(state["times"])
        if n:
            long = state["vectors"].shape[1]
            self.vectors = state["vectors"].new_zeros(self.size, long)
            self.images = state["images"].new_zeros(self.size, long)
            self.vectors[:n], self.images[:n] = state["vectors"], state["images"]
        self.cross, self.gram = state["cross"].clone(), state["gram"].clone()
        self.places, self.times, self._next = list(state["places"]), list(state["times"]), state["next"]


def _dominant(gram: Tensor, weights: Tensor, rank: int, cut: float) -> Tensor:
    """Coefficients ``(k, n)`` of an orthonormal basis of the leading directions of the weighted images."""
    root = weights.sqrt()
    values, Q = torch.linalg.eigh(gram * torch.outer(root, root))
    keep = values > cut * values[-1]
    keep[:-rank] = False
    return (root[:, None] * Q[:, keep] / values[keep].sqrt()).T


def _coordinates(away: Tensor, weights: Tensor, num: int) -> Tensor:
    """First ``num`` principal coordinates of the rows of ``away``, ``(n, S)``, scaled to at most 1; ``(n, num)``."""
    root = weights.sqrt()
    values, Q = torch.linalg.eigh((away @ away.T) * torch.outer(root, root))
    first = max(0, len(values) - num)
    z = Q[:, first:] * values[first:].clamp(min=0).sqrt() / root[:, None]
    top = z.abs().amax() if z.numel() else z.new_zeros(())
    return z[:, -num:] / top if num and top > 0 else z[:, :0]


def _regress(x: Tensor, w: Tensor, z: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """T_0 of the ridge regression ``w ~ (T_0 + sum_j z_j T_j) x`` over symmetric T; x, w ``(S, k)``, z ``(S, q)``."""
    num, k = x.shape
    if k == 0:
        return x.new_zeros(0, 0)
    scale = w.norm(dim=1).max()
    rows, cols = torch.triu_indices(k, k, device="cpu")
    entry = torch.arange(len(rows), device="cpu")
    # (T x)_a = sum_b T_ab x_b, written as a linear function of the upper triangle of T
    design = x.new_zeros(num, k, len(rows))
    design[:, rows, entry] += x[:, cols]
    off = rows != cols
    design[:, cols[off], entry[off]] += x[:, rows[off]]
    features = torch.cat([x.new_ones(num, 1), z], dim=1)
    D = (design[:, :, None, :] * features[:, None, :, None]).reshape(num * k, -1)
    D = D * weights.sqrt().repeat_interleave(k)[:, None]
    b = (w / scale * weights.sqrt()[:, None]).reshape(-1)
    penalty = torch.full((D.shape[1],), 30 * ridge, dtype=D.dtype, device="cpu")
    penalty[: len(rows)] = ridge
    entries = torch.linalg.solve(D.T @ D + torch.diag(penalty), D.T @ b)[: len(rows)]
    T = x.new_zeros(k, k)
    T[rows, cols] = entries * scale
    return T + T.triu(1).T
