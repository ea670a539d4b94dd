"""Last-layer fine-tuning with normalisation and weight decay: each alone converges, both together do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrscope.solvable.dynamics import count, positive


class Errors(NamedTuple):
    """Classification error and norm of the weights, ``(T+1,)``, and the angle they turn by in each step, ``(T,)``;
    of several models with a last dimension of K.
    """

    error: Tensor
    norm: Tensor
    angle: Tensor


@dataclass(frozen=True)
class LastLayer:
    r"""Logistic regression of sign(x_1) on x ~ N(0, I_m) by SGD with fresh batches, error = angle(w, e_1) / pi.

    With ``normalised`` the output is x . w / |w|, so the loss is scale invariant; with ``weight_decay`` a step
    subtracts lr lambda w. Both together never settle: a small error makes a small gradient, so the decay shrinks
    |w|, so the gradient's noise, of order 1 / |w|, grows until it throws the direction out. Where that ends up is
    :attr:`error_floor`.

    Args:
        dim: m, 2 or more.
        batch: Examples in a batch.
        lr: Learning rate.
        weight_decay: lambda, 0 or more.
        normalised: Whether the output is divided by |w|.
        seed: Of the weights, N(0, scale^2 / m), and of the batches.
        scale: Size of the weights at the start.

    Raises:
        ValueError: A number out of range; the message names it.

    References:
        Li & Arora, "An exponential learning rate schedule for deep learning", 2019, arXiv 1910.07454 (setting and
        mechanism). The error floors are derived here.
    """

    dim: int = 20
    batch: int = 100
    lr: float = 0.1
    weight_decay: float = 0.05
    normalised: bool = True
    seed: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        count(dim=self.dim, batch=self.batch)
        positive(lr=self.lr, scale=self.scale)
        if self.dim < 2:
            raise ValueError("dim: expected 2 or more; in one dimension there is no direction to learn")
        if not 0 <= self.lr * self.weight_decay < 1:
            raise ValueError(f"weight_decay: expected 0 <= lr x weight_decay < 1, got {self.weight_decay!r}")

    @property
    def weights(self) -> Tensor:
        """At the start, ``(m,)``."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.scale / math.sqrt(self.dim) * torch.randn(self.dim, dtype=torch.float64, generator=generator)

    def run(self, steps: int = 10_000) -> Errors:
        """Train; cost: about 50 microseconds per step."""
        return Errors(*(values[:, 0] for values in run_together([self], steps)))

    @property
    def error_floor(self) -> float:
        r"""Mean error in the long run, to leading order in it; 0 with normalisation and no decay, which learns on.

        The m - 1 coordinates of the direction off e_1 are independent walks with a pull h and noise variance s per
        step at effective rate a, so their variance is a s / (h (2 - a h)). Without normalisation a = lr and |w| is
        the minimiser of the decayed loss. With it, |w|^4 = lr G / (lambda (2 - lr lambda)) is the equilibrium norm
        for the gradient G of this same walk, and a = lr / ((1 - lr lambda) |w|^2).
        """
        if self.weight_decay == 0:
            if self.normalised:
                return 0.0
            raise ValueError("weight_decay: without decay or normalisation |w| grows for ever, and there is no floor")
        variance = self._normalised_variance() if self.normalised else self._decayed_variance()
        off = self.dim - 1
        mean = math.sqrt(2) * math.exp(math.lgamma((off + 1) / 2) - math.lgamma(off / 2))
        return math.atan(mean * math.sqrt(variance)) / math.pi

    def _normalised_variance(self) -> float:
        decay, off = self.lr * self.weight_decay, self.dim - 1
        pull = _gaussian(lambda z: _sigmoid(-z) * z + _sigmoid(-z) * _sigmoid(z))
        noise = _gaussian(lambda z: _sigmoid(-z) ** 2) / self.batch
        variance = 0.0
        for _ in range(200):  # a contraction; it settles in about ten rounds
            square = math.sqrt(self.lr * off * (noise + pull**2 * variance) / (self.weight_decay * (2 - decay)))
            rate = self.lr / ((1 - decay) * square)
            variance = rate * noise / (pull * (2 - rate * pull))
        return variance

    def _decayed_variance(self) -> float:
        low, high, norm = 0.0, 1e6, 1.0  # of |w|: where the data's pull along e_1 equals the decay's
        for _ in range(200):
            more = _gaussian(lambda z, norm=norm: _sigmoid(-norm * z) * z) > self.weight_decay * norm
            low, high = (norm, high) if more else (low, norm)
            norm = (low + high) / 2
        pull = _gaussian(lambda z: _sigmoid(-norm * z) * _sigmoid(norm * z)) + self.weight_decay
        noise = _gaussian(lambda z: _sigmoid(-norm * z) ** 2) / self.batch
        return self.lr * noise / (pull * (2 - self.lr * pull)) / norm**2


def run_together(models: Sequence[LastLayer], steps: int) -> Errors:
    """Train several on the same batches, those of the first one's seed; errors and norms are ``(T+1, K)``.

    Raises:
        ValueError: They differ in dimension or batch.
    """
    count(steps=steps)
    first = models[0]
    if any((m.dim, m.batch) != (first.dim, first.batch) for m in models):
        raise ValueError("models: expected the same dim and batch for all, as they share their batches")
    W = torch.stack([m.weights for m in models])
    lr = torch.tensor([m.lr for m in models], dtype=torch.float64)
    keep = 1 - lr * torch.tensor([m.weight_decay for m in models], dtype=torch.float64)
    normalised = torch.tensor([m.normalised for m in models])
    generator = torch.Generator().manual_seed(first.seed + 1_000_003)  # not the stream that drew the weights
    cosines, norms, angles = [], [], []
    for t in range(steps + 1):
        norm = W.norm(dim=1)
        norms.append(norm)
        cosines.append(W[:, 0] / norm)
        if t == steps:
            break
        X = torch.randn(first.batch, first.dim, dtype=torch.float64, generator=generator)
        scale = torch.where(normalised, norm, 1.0)
        sign = X[:, :1].sign()
        pull = -sign * torch.sigmoid(-sign * (X @ (W / scale[:, None]).T)) / first.batch
        grad = pull.T @ X / scale[:, None]
        radial = (grad * W).sum(1) / norm**2
        grad = grad - torch.where(normalised, radial, 0.0)[:, None] * W
        ahead = keep[:, None] * W - lr[:, None] * grad
        angles.append((W * ahead).sum(1) / (norm * ahead.norm(dim=1)))
        W = ahead
    error = torch.stack(cosines).clamp(-1, 1).arccos() / math.pi
    return Errors(error, torch.stack(norms), torch.stack(angles).clamp(-1, 1).arccos())


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(200)


def _gaussian(f) -> float:
    """E f(|z|) for z ~ N(0, 1)."""
    return float((_WEIGHTS * f(np.abs(_NODES))).sum() / math.sqrt(2 * math.pi))


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(z / 2)) / 2  # unlike 1 / (1 + exp(-z)) it cannot overflow
