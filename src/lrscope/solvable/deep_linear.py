"""Deep linear networks, aligned with their targets: each singular value is a chain of scalars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.dynamics import Dynamics, State, count


class DeepLinearNet(nn.Module):
    """W_L ... W_1, with loss |W_L ... W_1 - target|^2 / 2: a deep linear network on whitened inputs."""

    def __init__(self, layers: list[Tensor], target: Tensor) -> None:
        super().__init__()
        self.layers = nn.ParameterList([nn.Parameter(W.clone()) for W in layers])
        self.register_buffer("target", target)

    def forward(self) -> Tensor:
        product = self.layers[0]
        for W in list(self.layers)[1:]:
            product = W @ product
        return product

    def loss(self) -> Tensor:
        return (self() - self.target).pow(2).sum() / 2


@dataclass(frozen=True)
class DeepLinear(Dynamics):
    r"""Chains f_k = w_1k ... w_Lk with loss sum_k (f_k - y_k)^2 / 2.

    A matrix network W_L ... W_1 on whitened inputs whose layers start aligned (W_l = R_l diag(w_l) R_(l-1)^T with
    rotations R, those of the target at both ends) stays so under gradient descent and its singular values are these
    chains; :meth:`net` is that network.

    What is exact: a minimum has curvature max_k sum_l (y_k / w_lk)^2, which is smallest where the layers of each
    chain are **balanced** (equal in size), L |y|^(2-2/L) for the largest |y|: :attr:`flattest_minimum`. A learning
    rate above 2 over it, :attr:`max_lr`, has no minimum to settle in. And one step of gradient descent multiplies the
    imbalance of two layers of a chain, r = f - y,

    .. math:: w_i'^2 - w_j'^2 = (w_i^2 - w_j^2) \left(1 - \eta^2 r^2 \prod_{l \ne i,j} w_l^2 \right),

    so that gradient flow conserves it and large steps reduce it: what a catapult does to a two-layer network.

    Args:
        targets: y_k, one for each chain (singular value of the target map).
        depth: L, number of layers, 2 or more.
        begin: Weights at the start: a number for all, one for each layer, or ``depth`` rows with one for each target.

    Raises:
        ValueError: Shapes or numbers that do not fit; the message names them.

    Example:
        >>> round(DeepLinear((4.0,), depth=2).max_lr, 3)  # 2 / (2 * 4)
        0.25

    References:
        Saxe, McClelland & Ganguli, 2014, arXiv 1312.6120 (modes); Du, Hu & Lee, 2018, arXiv 1806.00900 (balance under
        flow); Mulayoff & Michaeli, 2020 (flattest minima). The identity for a step is derived here.
    """

    targets: tuple[float, ...] = (1.0,)
    depth: int = 3
    begin: float | tuple[float, ...] | tuple[tuple[float, ...], ...] = 0.5

    def __post_init__(self) -> None:
        count(depth=self.depth)
        if self.depth < 2:
            raise ValueError("depth: expected 2 or more layers, got 1; one layer is a Quadratic")
        object.__setattr__(self, "targets", tuple(float(y) for y in self.targets))
        if not self.targets or not all(abs(y) < float("inf") for y in self.targets):
            raise ValueError(f"targets: expected one finite number or more, got {self.targets!r}")
        given = torch.as_tensor(self.begin, dtype=torch.float64)
        if tuple(given.shape) not in {(), (self.depth,), (self.depth, len(self.targets))}:
            raise ValueError(
                f"begin: expected a number, {self.depth} (one per layer) or {self.depth} rows of "
                f"{len(self.targets)}, got shape {tuple(given.shape)}"
            )

    def __str__(self) -> str:
        return f"DeepLinear({', '.join(f'{y:g}' for y in self.targets)}; depth={self.depth})"

    @cached_property
    def weights(self) -> Tensor:
        """At the start, ``(L, number of targets)``."""
        given = torch.as_tensor(self.begin, dtype=torch.float64)
        given = given[:, None] if given.ndim == 1 else given
        return given.expand(self.depth, len(self.targets)).clone()

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the chains' Hessian at the start."""
        return self._first["sharpness"]

    @property
    def critical_lr(self) -> float:
        """2 / sharpness at the start."""
        return 2 / self.sharpness

    @property
    def flattest_minimum(self) -> float:
        """L |y|^(2-2/L) for the largest |y|: no minimum is flatter, and the balanced one is as flat."""
        return self.depth * max(abs(y) for y in self.targets) ** (2 - 2 / self.depth)

    @property
    def max_lr(self) -> float:
        """2 / flattest_minimum: a larger rate cannot settle in any minimum; ``inf`` if all targets are zero."""
        return 2 / self.flattest_minimum if self.flattest_minimum else float("inf")

    def net(self, seed: int = 0) -> DeepLinearNet:
        """A matrix network in random rotated coordinates whose training is that of the chains, in float64."""
        generator = torch.Generator().manual_seed(seed)
        k = len(self.targets)
        square = torch.randn(self.depth + 1, k, k, dtype=torch.float64, generator=generator)
        R = torch.linalg.qr(square).Q
        layers = [R[i + 1] @ self.weights[i].diag() @ R[i].T for i in range(self.depth)]
        return DeepLinearNet(layers, R[-1] @ self._y.diag() @ R[0].T)

    def objective(self) -> ClosedForm:
        """The loss in theta = the weights, layer by layer, behind the face of ``Objective``."""
        shape = self.weights.shape

        def residual(theta: Tensor) -> tuple[Tensor, Tensor]:
            w = theta.reshape(shape)
            return w, w.prod(0) - self._y

        def grad(theta: Tensor) -> Tensor:
            w, r = residual(theta)
            return (r * _others(w[None])[0]).reshape(-1)

        def hvp(theta: Tensor, v: Tensor) -> Tensor:
            return torch.einsum("ijk,jk->ik", self._hessians(theta.reshape(1, *shape))[0], v.reshape(shape)).reshape(
                -1
            )

        start = self.weights.reshape(-1)
        return ClosedForm(start, value=lambda t: residual(t)[1].pow(2).sum() / 2, grad=grad, hvp=hvp)

    @cached_property
    def _y(self) -> Tensor:
        return torch.tensor(self.targets, dtype=torch.float64)

    def _hessians(self, w: Tensor) -> Tensor:
        """Of each chain, ``(K, L, L, number of targets)`` for weights ``(K, L, number of targets)``."""
        first, r = _others(w), w.prod(1) - self._y
        i, j = torch.triu_indices(self.depth, self.depth, 1)
        rest = torch.ones(len(i), self.depth, dtype=torch.bool)
        rest[torch.arange(len(i)), i] = rest[torch.arange(len(i)), j] = False
        second = torch.zeros(len(w), self.depth, self.depth, w.shape[2], dtype=w.dtype)
        # The product over the layers that a pair leaves; zero weights are allowed, so nothing is divided out.
        second[:, i, j] = torch.where(rest[None, :, :, None], w[:, None], 1.0).prod(2)
        return first[:, :, None] * first[:, None, :] + r[:, None, None] * (second + second.transpose(1, 2))

    def _start(self) -> State:
        return (self.weights[None],)

    def _step(self, state: State, lr: Tensor) -> State:
        (w,) = state
        return (w - lr[:, None, None] * (w.prod(1) - self._y)[:, None] * _others(w),)

    def _observe(self, state: State) -> Mapping[str, Tensor]:
        (w,) = state
        top = torch.linalg.eigvalsh(self._hessians(w).permute(0, 3, 1, 2))[..., -1].amax(1)
        imbalance = (w**2).amax(1) - (w**2).amin(1)
        return {"loss": (w.prod(1) - self._y).pow(2).sum(1) / 2, "sharpness": top, "imbalance": imbalance.amax(1)}

    def _settled(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        rounding = (8 * torch.finfo(torch.float64).eps * float(self._y.norm())) ** 2
        return seen["loss"] <= (1e-20 * first["loss"]).clamp(min=rounding)

    def _escaped(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        return seen["sharpness"] > 1e12 * first["sharpness"].clamp(min=self.flattest_minimum)


def _others(w: Tensor) -> Tensor:
    """Product over the other layers, for each; ``(K, L, k)`` both. Zero weights are allowed."""
    one = torch.ones_like(w[:, :1])
    before = torch.cat([one, w[:, :-1].cumprod(1)], 1)
    after = torch.cat([w[:, 1:].flip(1).cumprod(1).flip(1), one], 1)
    return before * after
