"""Scale-invariant losses: normalised weights under gradient descent with weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.dynamics import Dynamics, State, count, positive


@dataclass(frozen=True)
class ScaleInvariant(Dynamics):
    r"""L = x^2 / (x^2 + y^2) under gradient descent with weight decay: the smallest model of a normalised layer.

    In polar coordinates, x = rho sin(phi) and y = rho cos(phi), a step is exactly

    .. math::
        \phi' = \phi - \arctan \frac{\eta \sin 2\phi}{(1 - \eta\lambda) \rho^2}, \qquad
        \rho'^2 = (1 - \eta\lambda)^2 \rho^2 + \eta^2 \frac{\sin^2 2\phi}{\rho^2},

    and the sharpness is 2 cos(phi)^2 / rho^2. Without weight decay the norm can only grow, so the effective learning
    rate lr / rho^2 falls and every rate converges. With it, near a minimum the norm shrinks until it falls below
    :meth:`critical_norm`; there the minimum is unstable, the angle is thrown out, the gradient lifts the norm again,
    and so on for ever: full-batch training that never settles.

    Args:
        begin: (x, y) at the start, not (0, 0).
        weight_decay: lambda, 0 or more; a step subtracts lr lambda theta.

    Raises:
        ValueError: A number out of range; the message names it.

    References:
        Li, Lyu & Arora, 2020, arXiv 2010.02916 (the model). The recursion, sharpness and critical norm are derived
        here.
    """

    begin: tuple[float, float] = (1.0, 0.5)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < math.hypot(*self.begin) < math.inf:
            raise ValueError(f"begin: expected finite (x, y), not (0, 0), got {self.begin!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected 0 or more, got {self.weight_decay!r}")

    @property
    def sharpness(self) -> float:
        """Largest eigenvalue of the Hessian at the start, 2 y^2 / (x^2 + y^2)^2."""
        x, y = self.begin
        return 2 * y**2 / (x**2 + y**2) ** 2

    @property
    def critical_lr(self) -> float:
        """2 / sharpness at the start; ``inf`` on the ridge y = 0."""
        return 2 / self.sharpness if self.sharpness else math.inf

    def critical_norm(self, lr: float) -> float:
        """Norm below which a minimum is unstable, sqrt(lr / (1 - lr weight_decay))."""
        positive(lr=lr)
        return math.sqrt(lr / self._kept(lr))

    def calm_steps(self, lr: float, norm: float) -> float:
        """Steps that weight decay takes from ``norm``, at a minimum, to the critical one; ``inf`` without decay."""
        positive(norm=norm)
        shrink = -math.log(self._kept(lr))
        return max(0.0, math.log(norm / self.critical_norm(lr)) / shrink) if shrink else math.inf

    def objective(self) -> ClosedForm:
        """The loss in theta = (x, y), without the decay, behind the face of ``Objective``."""

        def value(t: Tensor) -> Tensor:
            return t[0] ** 2 / (t @ t)

        def grad(t: Tensor) -> Tensor:
            x, y = t
            return 2 * x * y / (t @ t) ** 2 * torch.stack([y, -x])

        def hvp(t: Tensor, v: Tensor) -> Tensor:
            x, y = t
            r2 = t @ t
            xx, yy, xy = y**2 * (r2 - 4 * x**2), x**2 * (4 * y**2 - r2), 2 * x * y * (x**2 - y**2)
            return 2 / r2**3 * torch.stack([xx * v[0] + xy * v[1], xy * v[0] + yy * v[1]])

        return ClosedForm(torch.tensor(self.begin, dtype=torch.float64), value=value, grad=grad, hvp=hvp)

    def _kept(self, lr: float) -> float:
        kept = 1 - lr * self.weight_decay
        if kept <= 0:
            raise ValueError(
                f"lr: {lr!r} times weight_decay {self.weight_decay!r} is 1 or more, so a step keeps nothing"
            )
        return kept

    def _start(self) -> State:
        x, y = self.begin
        return torch.tensor([math.atan2(x, y)], dtype=torch.float64), torch.tensor([x**2 + y**2], dtype=torch.float64)

    def _step(self, state: State, lr: Tensor) -> State:
        phi, square = state
        self._kept(float(lr.max()))
        kept, turn = 1 - lr * self.weight_decay, lr * torch.sin(2 * phi)
        return phi - torch.atan2(turn, kept * square), kept**2 * square + turn**2 / square

    def _observe(self, state: State) -> Mapping[str, Tensor]:
        phi, square = state
        return {
            "loss": phi.sin() ** 2,
            "sharpness": 2 * phi.cos() ** 2 / square,
            "norm": square.sqrt(),
            "angle": phi,
        }

    def _settled(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:
        if self.weight_decay:  # however small the loss, the norm goes on shrinking
            return torch.zeros_like(seen["loss"], dtype=torch.bool)
        return super()._settled(seen, first)

    def _escaped(self, seen: Mapping[str, Tensor], first: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """No run ever: the loss is at most 1, however close to a minimum it began."""
        return torch.zeros_like(seen["loss"], dtype=torch.bool)


class Walk(NamedTuple):
    """Norm of the weights, ``(T+1,)``; the angle they turn by in each step, ``(T,)``; share of steps clipped."""

    norm: Tensor
    angle: Tensor
    clipped: float = 0.0


@dataclass(frozen=True)
class NormEquilibrium:
    r"""Weights of a normalised layer whose gradient is noise: where weight decay and gradient growth balance.

    The gradient is tangential (the loss is scale invariant), of mean square G / |w|^2, and independent from step to
    step in many dimensions. With b <- gamma b + g + lambda w, w <- w - lr b (torch's SGD), the second moments
    R = |w|^2, S = w . b and B = |b|^2 obey an exact linear recursion with the fixed point

    .. math::
        |w|^4 = \frac{\eta G}{\lambda (1-\gamma) \left(2 - \frac{\eta\lambda}{1+\gamma}\right)}, \qquad
        \cos(\text{angle per step}) = 1 - \frac{\eta\lambda}{1+\gamma}.

    So the rate at which directions turn is set by lr x weight decay alone, sqrt(2 lr lambda / (1 + gamma)) when
    small, whatever the gradients.

    Args:
        weight_decay: lambda, positive.
        momentum: gamma in [0, 1).
        gradient: G, the mean squared gradient at norm 1.

    Raises:
        ValueError: A number out of range; the message names it.

    References:
        Li, Lyu & Arora, 2020, arXiv 2010.02916, for gamma = 0; Wan et al., 2021, arXiv 2006.08419, for the leading
        order with momentum. The fixed point for every lr lambda and gamma is derived here.
    """

    weight_decay: float
    momentum: float = 0.0
    gradient: float = 1.0

    def __post_init__(self) -> None:
        positive(weight_decay=self.weight_decay, gradient=self.gradient)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {self.momentum!r}")

    def norm(self, lr: float) -> float:
        """Norm of the weights at equilibrium."""
        per_step = self._per_step(lr)
        return (lr * self.gradient / (self.weight_decay * (1 - self.momentum) * (2 - per_step))) ** 0.25

    def angle(self, lr: float) -> float:
        """Angle in radians by which the weights turn in a step at equilibrium."""
        return math.acos(1 - self._per_step(lr))

    def relaxation_steps(self, lr: float) -> float:
        """Steps in which the distance of |w|^4 from equilibrium falls by e, to leading order in lr lambda."""
        positive(lr=lr)
        return (1 - self.momentum) / (4 * lr * self.weight_decay)

    def _per_step(self, lr: float) -> float:
        positive(lr=lr)
        per_step = lr * self.weight_decay / (1 + self.momentum)
        if per_step >= 2:
            raise ValueError(f"lr: {lr!r} has no equilibrium; lr x weight decay must stay below 2 (1 + momentum)")
        return per_step

    def moments(self, lr: float, steps: int, *, norm: float = 1.0) -> Walk:
        """The recursion in (R, S, B), exact in infinitely many dimensions, from ``norm`` and an empty buffer."""
        self._per_step(lr)
        positive(norm=norm)
        count(steps=steps)
        lam, gamma = self.weight_decay, self.momentum
        R, S, B = norm**2, 0.0, 0.0
        norms, angles = [norm], []
        for _ in range(steps):
            along = gamma * S + lam * R
            B = gamma**2 * B + self.gradient / R + lam**2 * R + 2 * gamma * lam * S
            old, R = R, R - 2 * lr * along + lr**2 * B
            S = along - lr * B
            angles.append(math.acos(max(-1.0, min(1.0, (old - lr * along) / math.sqrt(old * R)))))
            norms.append(math.sqrt(R))
        return Walk(torch.tensor(norms, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64))

    def simulate(
        self,
        lr: float,
        steps: int,
        *,
        dim: int = 2000,
        norm: float | None = None,
        spikes: float = 0.0,
        spike_size: float = 50.0,
        clip: float | None = None,
        seed: int = 0,
    ) -> Walk:
        """Random tangential gradients, normally distributed, on weights of ``dim`` numbers (2 or more), step by step.

        Args:
            lr, steps, dim, seed: Of the run.
            norm: At the start; the equilibrium's by default.
            spikes, spike_size: Share of the steps whose gradient is so many times as long.
            clip: C of relative clipping: gradients longer than sqrt(2 C lambda / lr) |w| are cut to that.

        References:
            Clipping: Li et al., "Robust training of neural networks using scale invariant architectures", 2022,
            arXiv 2202.00980.
        """
        count(steps=steps, dim=dim - 1)
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(dim, dtype=torch.float64, generator=generator)
        w *= (self.norm(lr) if norm is None else norm) / w.norm()
        b, norms, angles, clipped = torch.zeros_like(w), [w.norm()], [], 0
        length = math.sqrt(self.gradient / (dim - 1))  # of each of the dim - 1 tangential directions
        spiked = torch.rand(steps, dtype=torch.float64, generator=generator) < spikes
        for t in range(steps):
            size = norms[-1]
            g = torch.randn(dim, dtype=torch.float64, generator=generator)
            g -= (g @ w / size**2) * w
            g *= length * (spike_size if spiked[t] else 1.0) / size
            longest = math.inf if clip is None else math.sqrt(2 * clip * self.weight_decay / lr) * float(size)
            if g.norm() > longest:
                g *= longest / g.norm()
                clipped += 1
            b = self.momentum * b + g + self.weight_decay * w
            ahead = w - lr * b
            norms.append(ahead.norm())
            angles.append(torch.acos((w @ ahead / (size * norms[-1])).clamp(-1, 1)))
            w = ahead
        return Walk(torch.stack(norms), torch.stack(angles), clipped / steps)
