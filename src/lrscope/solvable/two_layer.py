"""The two-layer linear network on any data: its training is an exact recursion in outputs and kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.dynamics import State, count, positive
from lrscope.solvable.phases import Phased


class TwoLayerNet(nn.Module):
    """f(x) = v . (u x) / sqrt(N) as a torch module; u is ``(n, d)``, v is ``(n,)``."""

    def __init__(self, u: Tensor, v: Tensor, root: float) -> None:
        super().__init__()
        self.u, self.v, self.root = nn.Parameter(u.clone()), nn.Parameter(v.clone()), root

    def forward(self, X: Tensor) -> Tensor:
        """Outputs ``(m,)`` for inputs ``(m, d)``."""
        return X @ self.u.T @ self.v / self.root


def half_mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Half the mean squared error, the loss of all models of this room."""
    return (model(batch[0]) - batch[1]).pow(2).mean() / 2


@dataclass(frozen=True, eq=False)
class TwoLayer(Phased):
    r"""f(x) = v . (u x) / sqrt(N) on m samples, with loss sum (f - y)^2 / 2m, trained by full-batch gradient descent.

    With r = f - y, G = X X^T, K = X u^T u X^T / (N m) and w = |v|^2 / N, the kernel is Theta = w G / m + K and

    .. math::
        r' &= r - \eta \Theta r + \frac{\eta^2}{N m^2} (f \cdot r) \, G r, \\
        K' &= K - \frac{\eta}{N m^2} (f (G r)^T + G r f^T) + \frac{\eta^2}{N m^3} w \, G r (G r)^T, \\
        w' &= w - \frac{2 \eta}{N m} f \cdot r + \frac{\eta^2}{N m} r^T K r

    with nothing neglected: training costs the same at every width. Its three phases are those of
    :class:`~lrscope.solvable.UV`, which is this model on one sample; here their boundaries are the limits of large
    width.

    Args:
        X: Inputs, ``(m, d)``.
        y: Targets, ``(m,)``.
        width: n, hidden units.
        scale: Weights are drawn from N(0, scale^2 / n^mup).
        mup: 0 for the neural tangent parameterisation, N = n; 1 for mean field (muP), N = 1; between,
            N = n^(1 - mup). The kernel at the start is of order 1 in all of them.
        seed: Of the weights.

    Raises:
        ValueError: Shapes that do not match, or numbers out of range; the message names them.

    References:
        Lewkowycz et al., "The large learning rate phase of deep learning", 2020, arXiv 2003.02218, section on the
        full model; the closed form in (r, K, w) is derived here. The parameterisations between: Kalra, He and
        Barkeshli, 2023, arXiv 2311.02076.
    """

    X: Tensor = field(repr=False)
    y: Tensor = field(repr=False)
    width: int = 512
    scale: float = 1.0
    mup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.X.ndim != 2 or self.y.shape != self.X.shape[:1] or self.X.numel() == 0:
            raise ValueError(
                f"X, y: expected shapes (m, d) and (m,), got {tuple(self.X.shape)} and {tuple(self.y.shape)}"
            )
        object.__setattr__(self, "X", self.X.to(torch.float64))
        object.__setattr__(self, "y", self.y.to(torch.float64))
        count(width=self.width)
        positive(scale=self.scale)
        if not 0 <= self.mup <= 1:
            raise ValueError(f"mup: expected a number from 0 (tangent kernel) to 1 (muP), got {self.mup!r}")

    def __str__(self) -> str:
        return f"TwoLayer(width={self.width}, {self.X.shape[0]} samples in {self.X.shape[1]} dimensions)"

    @property
    def N(self) -> float:
        """n^(1 - mup); outputs are divided by its root."""
        return self.width ** (1 - self.mup)

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """u, ``(n, d)``, and v, ``(n,)``, at the start."""
        generator = torch.Generator().manual_seed(self.seed)
        std = self.scale * self.width ** (-self.mup / 2)
        d = self.X.shape[1]
        u = std * torch.randn(self.width, d, dtype=torch.float64, generator=generator)
        return u, std * torch.randn(self.width, dtype=torch.float64, generator=generator)

    def net(self) -> TwoLayerNet:
        """The same network in torch, in float64; train it on :func:`half_mse` over ``(X, y)``."""
        return TwoLayerNet(*self.weights, math.sqrt(self.N))

    def objective(self) -> ClosedForm:
        """The loss in theta = (u row by row, v), behind the face of :class:`~lrscope.objective.Objective`."""
        return objective(self.X, self.y, *self.weights, math.sqrt(self.N))

    @property
    def kappa(self) -> float:
        """How strongly an update of the weights moves the kernel, 1 / N per unit of input."""
        return float(torch.linalg.eigvalsh(self._gram)[-1]) / (len(self.y) * self.N)

    @cached_property
    def _gram(self) -> Tensor:
        return self.X @ self.X.T

    def kernel_matrix(self, state: State) -> Tensor:
        """Theta of K runs, ``(K, m, m)``."""
        _, K, w = state
        return w[:, None, None] * self._gram / len(self.y) + K

    def _start(self) -> State:
        u, v = self.weights
        hidden = u @ self.X.T
        r = hidden.T @ v / math.sqrt(self.N) - self.y
        K = hidden.T @ hidden / (self.N * len(self.y))
        return r[None], K[None], (v @ v / self.N)[None]

    def _step(self, state: State, lr: Tensor) -> State:
        r, K, w = state
        G, m, N = self._gram, len(self.y), self.N
        lr, f = lr[:, None], r + self.y
        Gr, Kr = r @ G, (K @ r[:, :, None])[:, :, 0]
        along = (f * r).sum(1, keepdim=True)
        sides = f[:, :, None] * Gr[:, None, :]
        growth = lr[:, :, None] ** 2 / (N * m**3) * w[:, None, None] * Gr[:, :, None] * Gr[:, None, :]
        return (
            r - lr * (w[:, None] * Gr / m + Kr) + lr**2 / (N * m**2) * along * Gr,
            K - lr[:, :, None] / (N * m**2) * (sides + sides.mT) + growth,
            w + (-2 * lr * along + lr**2 * (r * Kr).sum(1, keepdim=True))[:, 0] / (N * m),
        )

    def _observe(self, state: State) -> Mapping[str, Tensor]:
        return {
            "loss": state[0].pow(2).mean(1) / 2,
            "kernel": torch.linalg.eigvalsh(self.kernel_matrix(state))[:, -1],
        }

    def _escaped(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        flattest = 2 * math.sqrt(self.kappa) * float(self.y.norm()) / math.sqrt(len(self.y))
        return seen["kernel"] > 1e6 * first["kernel"].clamp(min=flattest)


def objective(X: Tensor, y: Tensor, u: Tensor, v: Tensor, root: float) -> ClosedForm:
    """Half the mean squared error of x -> v . (u x) / root in theta = (u row by row, v), standing at u, v."""
    m, (n, d) = len(y), u.shape

    def split(theta: Tensor) -> tuple[Tensor, Tensor]:
        return theta[: n * d].reshape(n, d), theta[n * d :]

    def residual(theta: Tensor) -> Tensor:
        u, v = split(theta)
        return X @ (u.T @ v) / root - y

    def grad(theta: Tensor) -> Tensor:
        u, v = split(theta)
        z = X.T @ residual(theta) / (m * root)
        return torch.cat([torch.outer(v, z).reshape(-1), u @ z])

    def hvp(theta: Tensor, direction: Tensor) -> Tensor:
        (u, v), (du, dv) = split(theta), split(direction)
        z = X.T @ residual(theta) / (m * root)
        dz = X.T @ (X @ (u.T @ dv + du.T @ v)) / (m * root**2)
        return torch.cat([(torch.outer(v, dz) + torch.outer(dv, z)).reshape(-1), u @ dz + du @ z])

    start = torch.cat([u.reshape(-1), v])
    return ClosedForm(start, value=lambda t: residual(t).pow(2).mean() / 2, grad=grad, hvp=hvp)
