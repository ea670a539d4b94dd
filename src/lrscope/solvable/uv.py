"""The "uv" model: a two-layer linear network on one sample, exactly two numbers whatever its width."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.dynamics import State, count, positive
from lrscope.solvable.phases import Phased
from lrscope.solvable.two_layer import TwoLayerNet, objective


@dataclass(frozen=True)
class UV(Phased):
    r"""f = x v . u / sqrt(N) on one sample (x, y), with loss (f - y)^2 / 2, trained by gradient descent.

    With r = f - y, the kernel lambda = x^2 (|u|^2 + |v|^2) / N and kappa = x^2 / N, and nothing neglected:

    .. math::
        r' &= r \, (1 - \eta \lambda + \eta^2 \kappa f r), \\
        \lambda' &= \lambda + \kappa \, \eta r \, (\eta \lambda r - 4 f).

    Three phases follow, fixed by the curvature lambda_0 at the start: below 2 / lambda_0 the loss only falls and the
    curvature stays (**lazy**); up to 4 / lambda_0 the loss first jumps, which throws the weights into a flatter place
    where training settles with lambda <= 2 / lr (**catapult**); beyond, training diverges. For y = 0 the last
    boundary is exact at every width: lambda changes with the sign of lr lambda - 4, and |f| is at most
    lambda / (2 sqrt kappa). The first is then off by the factor of :attr:`loss_crossing`, about
    1 + 2 kappa f_0^2 / lambda_0^2. For y != 0 both are limits of large N.

    Args:
        width: n, length of u and v.
        x, y: The sample.
        scale: Weights are drawn from N(0, scale^2 / n^mup), so lambda_0 is about 2 scale^2 x^2.
        mup: 0 for the neural tangent parameterisation, N = n; 1 for mean field (muP), N = 1; between,
            N = n^(1 - mup). Curvature moves by O(1 / N) while the loss is of order 1: not at all in a wide network
            at 0, at any width alike at 1.
        seed: Of the weights.
        begin: Output f_0 and kernel lambda_0 to start from, instead of drawn weights.

    Raises:
        ValueError: A number out of range, or a ``begin`` that no weights have; the message names it.

    Example:
        >>> uv = UV(width=512)
        >>> print(uv.phase(1.5 * uv.critical_lr))
        catapult
        >>> run = uv.run(1.5 * uv.critical_lr)
        >>> run.status, run.phase, bool(run.final_curvature * run.lr[0] <= 2)
        ('converged', 'catapult', True)

    References:
        Lewkowycz et al., "The large learning rate phase of deep learning", 2020, arXiv 2003.02218, eq. 1, 2 and
        theorem 1. General (x, y) and the parameterisations between: Kalra, He and Barkeshli, "Universal sharpness
        dynamics", 2023, arXiv 2311.02076. The exact Hessian and the exact crossing are derived here.
    """

    width: int = 512
    x: float = 1.0
    y: float = 0.0
    scale: float = 1.0
    mup: float = 0.0
    seed: int = 0
    begin: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        count(width=self.width)
        positive(scale=self.scale)
        if not 0 <= self.mup <= 1:
            raise ValueError(f"mup: expected a number from 0 (tangent kernel) to 1 (muP), got {self.mup!r}")
        if self.x == 0 or not math.isfinite(self.x) or not math.isfinite(self.y):
            raise ValueError(f"x, y: expected finite numbers, x not 0, got {self.x!r} and {self.y!r}")
        if self.begin is not None and not 2 * math.sqrt(self.kappa) * abs(self.begin[0]) <= self.begin[1] < math.inf:
            f, kernel = self.begin
            raise ValueError(
                f"begin: no weights have output {f!r} and kernel {kernel!r}; the kernel is at least "
                f"2 sqrt(kappa) |f| = {2 * math.sqrt(self.kappa) * abs(f):.4g} at this width"
            )

    def __str__(self) -> str:
        said = {"x": 1.0, "y": 0.0, "scale": 1.0, "mup": 0.0}
        shown = "".join(f", {k}={getattr(self, k):g}" for k, usual in said.items() if getattr(self, k) != usual)
        return f"UV(width={self.width}{shown})"

    @property
    def N(self) -> float:
        """n^(1 - mup); the output is divided by its root."""
        return self.width ** (1 - self.mup)

    @property
    def kappa(self) -> float:
        """x^2 / N: how strongly an update of the weights moves the curvature."""
        return self.x**2 / self.N

    @cached_property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Vectors u and v at the start, ``(n,)`` each."""
        if self.begin is None:
            generator = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(2, self.width, dtype=torch.float64, generator=generator)
            u, v = self.scale * self.width ** (-self.mup / 2) * drawn
            return u, v
        f, kernel = self.begin
        c = math.copysign(math.sqrt(self.kappa), self.x)
        plus, minus = (math.sqrt(max(kernel + sign * 2 * c * f, 0.0) / self.kappa) for sign in (1, -1))
        u, v = torch.zeros(2, self.width, dtype=torch.float64)
        u[0], v[0] = (plus + minus) / 2, (plus - minus) / 2
        return u, v

    def net(self) -> TwoLayerNet:
        """The same network in torch, in float64; train it on half the squared error over ``([[x]], [y])``."""
        u, v = self.weights
        return TwoLayerNet(u[:, None], v, math.sqrt(self.N))

    def objective(self) -> ClosedForm:
        """The loss in theta = (u, v), behind the face of :class:`~lrscope.objective.Objective`."""
        u, v = self.weights
        X, y = torch.tensor([[self.x]], dtype=torch.float64), torch.tensor([self.y], dtype=torch.float64)
        return objective(X, y, u[:, None], v, math.sqrt(self.N))

    @property
    def output(self) -> float:
        """The output f at the start."""
        return self._first["output"]

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the Hessian at the start; see :func:`uv_sharpness`."""
        return self._first["sharpness"]

    @property
    def flattest_minimum(self) -> float:
        """Smallest curvature that any minimum has, 2 sqrt(kappa) |y|, as lambda >= 2 sqrt(kappa) |f| everywhere.

        A rate above 2 over this has no minimum to settle in, whatever the start.
        """
        return 2 * math.sqrt(self.kappa) * abs(self.y)

    @property
    def loss_crossing(self) -> float:
        """Largest rate up to which no first step raises the loss, exact at this width: what ``lrs.critical_lr``
        measures. ``inf`` where no step does.
        """
        f, r, kernel = self.output, self.output - self.y, self.kernel
        q = self.kappa * f * r  # r'/r = 1 - lr kernel + lr^2 q leaves [-1, 1] through -1 or, later, through 1
        below = kernel**2 - 8 * q
        if below >= 0:
            return 4 / (kernel + math.sqrt(below))
        return kernel / q

    def tendency(self, lr: float) -> Literal["sharpening", "reduction"]:
        """What the first step does to the curvature: it falls if and only if lr lambda r^2 < 4 f r.

        At small rates an output between 0 and the target sharpens; one beyond it, or of the wrong sign, flattens.
        """
        positive(lr=lr)
        f, r = self.output, self.output - self.y
        return "reduction" if lr * self.kernel * r**2 < 4 * f * r else "sharpening"

    def peak_step(self, lr: float) -> float:
        """About when a catapult's loss is largest: growth by lr lambda_0 - 1 per step brings f to 1 / sqrt kappa."""
        growth = lr * self.kernel - 1
        if growth <= 1:
            raise ValueError(
                f"lr: {lr!r} starts no catapult; above critical_lr = {self.critical_lr:.6g} there is one"
            )
        return max(0.0, math.log(1 / (math.sqrt(self.kappa) * abs(self.output - self.y))) / math.log(growth))

    def _start(self) -> State:
        f, kernel = self.begin or (None, None)
        if f is None or kernel is None:
            u, v = self.weights
            f, kernel = self.x * (u @ v) / math.sqrt(self.N), self.kappa * (u @ u + v @ v)
        return torch.as_tensor([f - self.y], dtype=torch.float64), torch.as_tensor([kernel], dtype=torch.float64)

    def _step(self, state: State, lr: Tensor) -> State:
        r, kernel = state
        f = r + self.y
        return (
            r * (1 - lr * kernel + lr**2 * self.kappa * f * r),
            kernel + self.kappa * lr * r * (lr * kernel * r - 4 * f),
        )

    def _observe(self, state: State) -> Mapping[str, Tensor]:
        r, kernel = state
        f = r + self.y
        return {
            "loss": r**2 / 2,
            "kernel": kernel,
            "sharpness": uv_sharpness(f, r, kernel, self.kappa, self.width),
            "output": f,
        }

    def _settled(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        rounding = (4 * torch.finfo(torch.float64).eps * self.y) ** 2
        return seen["loss"] <= (1e-20 * first["loss"]).clamp(min=rounding)

    def _escaped(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        return seen["kernel"] > 1e6 * first["kernel"].clamp(min=self.flattest_minimum)


def uv_sharpness(f: Tensor, r: Tensor, kernel: Tensor, kappa: float, width: int) -> Tensor:
    r"""Largest eigenvalue of the Hessian of the uv model.

    .. math:: \frac{\lambda}{2} + \sqrt{\frac{\lambda^2}{4} + \kappa r (r + 2 f)}

    in the plane of (u, v) and (v, u); every other direction has sqrt(kappa) r or its negative.
    """
    inside = kernel / 2 + torch.sqrt((kernel**2 / 4 + kappa * r * (r + 2 * f)).clamp(min=0.0))
    return inside if width == 1 else torch.maximum(inside, math.sqrt(kappa) * r.abs())
