"""Mode connectivity: a curve of low loss between two networks, found by training its bends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lrscope.landscape.barriers import along, check_count
from lrscope.landscape.path import Kind, Path, combined, weights
from lrscope.landscape.points import Point
from lrscope.landscape.profile import Barrier, Profile
from lrscope.landscape.surface import OnProgress, Surface, Target
from lrscope.objective import derivative
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost

DEFAULT_LR = {"sgd": 0.03}
OTHER_LR = 1e-3
REFINED = 8
"""Further points on each side of the worst one of the grid."""


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """A trained curve between two networks, and the loss along it.

    Attributes:
        path: The curve; ``curve(t)`` is a point on it, ``curve.points`` are its control points.
        barrier: Along the curve, on a grid that was refined around its worst point.
        status: ``"done"``, or ``"diverged"`` where the loss of a training step was not finite: the curve is then the
            one before that step.
        losses: Of the training steps, at the random places of ``ts``, without the L2 term; ``(steps,)`` each.
        settings: What was asked for.
        cost: Gradients and updates of training, and the forward passes of the evaluation.
    """

    path: Path
    barrier: Barrier
    status: Literal["done", "diverged"]
    losses: np.ndarray
    ts: np.ndarray
    settings: dict[str, Any]
    cost: Cost

    def __call__(self, t: float) -> Tensor:
        """Parameters at ``t``, ``(P,)``; bit by bit the networks given at t = 0 and 1."""
        return self.path(t)

    @property
    def points(self) -> tuple[Tensor, ...]:
        return self.path.points

    @property
    def bends(self) -> tuple[Tensor, ...]:
        return self.path.points[1:-1]

    @property
    def profile(self) -> Profile:
        return self.barrier.profile

    @property
    def length(self) -> float:
        return self.path.length

    @property
    def detour(self) -> float:
        """Length of the curve in units of the straight distance between its ends; ``nan`` if they are equal."""
        return self.length / self.path.distance if self.path.distance > 0 else math.nan

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        diverged = " (training diverged)" if self.status == "diverged" else ""
        form = f"{self.path.kind} with {len(self.bends)} bend(s), {self.detour:.3g} x the straight way"
        return f"{form}{diverged}; {self.barrier}"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the vectors themselves."""
        return {
            "kind": self.path.kind,
            "length": self.length,
            "distance": self.path.distance,
            "status": self.status,
            "settings": self.settings,
            "barrier": self.barrier.to_dict(),
            "losses": [float(x) if math.isfinite(x) else None for x in self.losses],
            "ts": self.ts.tolist(),
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the loss along the curve; returns the axes."""
        return self.barrier.plot(ax, **{"label": self.path.kind, **options})


def connect(
    target: Target,
    a: Point,
    b: Point,
    *,
    kind: Kind = "bezier",
    bends: int = 1,
    steps: int = 1000,
    optimizer: str | OptimizerSpec = "sgd(momentum=0.9)",
    lr: float | None = None,
    weight_decay: float = 5e-4,
    seed: int = 0,
    of: str = "train_loss",
    num_points: int = 61,
    num_batches: int | None = None,
    on_progress: OnProgress | None = None,
) -> Curve:
    r"""Train the bends of a curve between two networks so that the loss is low all along it.

    .. math:: \min_{p_1 \ldots p_K} \; E_{t \sim U(0, 1)} \left[ L(\phi(t)) + \tfrac{w}{2} \|\phi(t)\|^2 \right]

    Each step draws one t and one batch. The ends stay as they are, bit by bit. Bends start on the straight line,
    equally spaced. The learning rate is ``lr`` for the first half of the steps, falls linearly to ``lr / 100`` until
    0.9 of them, and stays there. In training BatchNorm uses the batch's statistics and, of a task, dropout is on;
    for the evaluation that follows everything is as for :func:`barrier`.

    Args:
        target, a, b: As for :func:`barrier`.
        kind: ``"bezier"`` (one bend: quadratic), smooth and drawn towards its bends, or ``"chain"``, straight from
            one bend to the next.
        bends: K, the number of trained control points.
        steps: Updates.
        optimizer: An update rule without weight decay of its own, such as ``"sgd(momentum=0.9)"`` or ``"adam"``.
        lr: Peak learning rate; by default 0.03 for SGD and 0.001 for the others.
        weight_decay: w. It acts on the point on the curve and not on the bends.
        seed: Of t and of the batches' order.
        of: As for :func:`barrier`.
        num_points: Points of the grid that certifies the curve; 16 more are spent around its worst one.
        num_batches: Training batches that it is evaluated on, for a task; training uses all.
        on_progress: Called with updates done and in all.

    Returns:
        :class:`Curve`. Cost: ``steps`` gradients, and ``num_points + 16`` evaluations. Memory: the K + 2 points, the
        momentum of K, and a training step's.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        TaskError: As :func:`barrier`.
        MeasurementError: The loss has no gradient.

    References:
        Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs,
        2018, arXiv 1802.10026; the defaults of weight decay, shape of the learning rate, evaluation grid are those of
        its public code. Its learning rate, 0.015, is for networks larger than what is trained in minutes.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: expected 'bezier' or 'chain', got {kind!r}")
    check_count("bends", bends, 1)
    check_count("steps", steps, 1)
    check_count("num_points", num_points, 2)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected a whole number of 0 or more, got {seed!r}")
    spec = _rule(optimizer)
    peak = DEFAULT_LR.get(spec.name, OTHER_LR) if lr is None else lr
    for name, value, above in (("lr", peak, True), ("weight_decay", weight_decay, False)):
        good = isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or (value == 0 and not above))
        if not good:
            raise ValueError(
                f"{name}: expected a finite number {'above 0' if above else 'of 0 or more'}, got {value!r}"
            )
    surface = Surface(target, num_batches=num_batches)
    surface.require(of)
    path = _straight(surface, a, b, kind, bends)
    started = time.perf_counter()
    settings = {
        "kind": kind, "bends": bends, "steps": steps, "optimizer": str(spec), "lr": peak,
        "weight_decay": weight_decay, "seed": seed,
    }  # fmt: skip
    path, losses, ts = _train(surface, path, spec, peak, weight_decay, steps, seed, on_progress)
    spent = Cost(gradients=len(losses), updates=len(losses), seconds=time.perf_counter() - started)
    found = _certificate(surface, path, num_points, of)
    status = "done" if np.isfinite(losses).all() else "diverged"
    return Curve(path, found, status, losses, ts, settings, spent + found.cost)


def _rule(optimizer: str | OptimizerSpec) -> OptimizerSpec:
    spec = OptimizerSpec.parse(optimizer)
    if spec.weight_decay:
        raise ValueError(
            f"optimizer: {spec} decays the bends themselves; here the L2 term is of the point on the curve: give "
            f"weight_decay={spec.weight_decay:g} to connect, and a rule without it ('adam' in place of 'adamw')"
        )
    return spec


def _straight(surface: Surface, a: Point, b: Point, kind: Kind, bends: int) -> Path:
    """The curve before training: control points equally spaced on the straight line."""
    first, last = surface.read(a, b)
    # Bends of half precision would not move by the small steps of training.
    kept = torch.promote_types(surface.dtype, torch.float32)
    first, last = first.to(kept), last.to(kept)
    between = [combined((first, last), (1 - j / (bends + 1), j / (bends + 1))) for j in range(1, bends + 1)]
    return Path((first, *between, last), kind, surface.dtype)


def lr_factor(progress: float) -> float:
    """The learning rate's shape: flat for half of the steps, linear to a hundredth until 0.9 of them, and flat."""
    return min(1.0, max(0.01, 1 - 0.99 * (progress - 0.5) / 0.4))


def _train(
    surface: Surface,
    path: Path,
    spec: OptimizerSpec,
    lr: float,
    weight_decay: float,
    steps: int,
    seed: int,
    on_progress: OnProgress | None,
) -> tuple[Path, np.ndarray, np.ndarray]:
    controls = torch.stack(path.points)
    # Views, by parameter, which fits into the cache where a vector does not; points are made of them.
    bends = [piece.requires_grad_() for piece in controls[1:-1].split(surface.layout.sizes, dim=1)]
    for bend in bends:
        bend.grad = torch.empty_like(bend)
    rule = spec.build(bends, lr)
    ts = np.random.default_rng(seed).random(steps)
    table = weights(path.kind, ts, len(controls))
    on_device = torch.from_numpy(table).to(controls)
    losses = np.full(steps, np.nan)
    stream, walker = surface.stream(seed), _Walker(surface, controls.dtype)

    def walk() -> int:
        """Steps made, the last of which may have found no finite loss."""
        for step in range(steps):
            walker.go(controls.detach(), on_device[step])
            scale = float(table[step, 1]) if len(controls) == 3 else 1.0
            losses[step] = walker.pull(bends, on_device[step, 1:-1], scale, weight_decay, next(stream))
            if not math.isfinite(losses[step]):
                return step + 1
            rule.param_groups[0]["lr"] = lr * lr_factor(step / steps)
            rule.step()
            if on_progress is not None:
                on_progress(step + 1, steps)
        return steps

    buffers = {name: t.clone() for name, t in surface.rest.items()}  # BatchNorm moves its statistics, for nothing
    with surface.training(seed):
        made = surface.functional().holding(walker.leaves, buffers, walk)
    return replace(path, points=tuple(p.detach().clone() for p in controls)), losses[:made], ts[:made]


class _Walker:
    """The network, going from one point of the curve to the next.

    Attributes:
        leaves: The network's parameters, for it to hold: pieces of one vector that is written anew at each step.
    """

    def __init__(self, surface: Surface, dtype: torch.dtype) -> None:
        self.surface = surface
        like = surface.model.get_parameter(surface.layout.names[0])
        self._point = torch.empty(surface.layout.size, dtype=dtype, device=like.device)
        self._theta = self._point if dtype == like.dtype else self._point.to(like.dtype)
        pieces = surface.layout.unflatten(self._theta)
        self.leaves = {name: piece.detach().requires_grad_() for name, piece in pieces.items()}

    def go(self, controls: Tensor, shares: Tensor) -> None:
        """Stand at ``shares @ controls``."""
        torch.mv(controls.T, shares, out=self._point)
        if self._theta is not self._point:
            self._theta.copy_(self._point)

    def pull(self, bends: list[Tensor], shares: Tensor, scale: float, weight_decay: float, batch: Any) -> float:
        """Loss of one batch here; its gradient, and the L2 term's, is passed on to the bends by their shares.

        A single bend's share comes as ``scale``, of the loss before it is differentiated: a pass less over vectors.
        """
        with torch.enable_grad():
            loss = self.surface.loss(batch)
            grads = self._derivatives(loss, scale, batch)
        thetas = self._point.split(self.surface.layout.sizes)
        for bend, theta, grad in zip(bends, thetas, grads, strict=True):
            assert bend.grad is not None
            flat = torch.zeros_like(theta) if grad is None else grad.reshape(-1)
            if len(bend) == 1:
                torch.add(flat, theta, alpha=scale * weight_decay, out=bend.grad[0])
            else:
                torch.outer(shares, torch.add(flat, theta, alpha=weight_decay), out=bend.grad)
        return float(loss.detach())

    def _derivatives(self, loss: Tensor, scale: float, batch: Any) -> Sequence[Tensor | None]:
        leaves = list(self.leaves.values())
        found: Sequence[Tensor | None] = [None]
        if loss.requires_grad:
            try:
                found = torch.autograd.grad(loss, leaves, torch.full_like(loss, scale), allow_unused=True)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                found = self._reentrant(leaves, scale, batch)
        if all(grad is None for grad in found):
            derivative(loss, leaves[0])  # which says so
        return found

    def _reentrant(self, leaves: list[Tensor], scale: float, batch: Any) -> list[Tensor | None]:
        """Reentrant checkpointing knows nothing but ``backward()``; the failed attempt has used up the graph."""
        (scale * self.surface.loss(batch)).backward()
        found = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        return found


def _certificate(surface: Surface, path: Path, num_points: int, of: str) -> Barrier:
    """The barrier on an even grid, and again with more points on both sides of its worst one."""
    grid = np.linspace(0, 1, num_points)
    coarse = along(surface, path, grid)
    before = Barrier.read(coarse, of)
    k = int(np.flatnonzero(grid == before.t)[0])
    lower, upper = grid[max(k - 1, 0)], grid[min(k + 1, num_points - 1)]
    extra = np.concatenate(
        [np.linspace(lower, grid[k], REFINED + 2)[1:-1], np.linspace(grid[k], upper, REFINED + 2)[1:-1]]
    )
    extra = np.setdiff1d(extra, grid)
    fine = along(surface, path, extra)
    t = np.concatenate([grid, extra])
    order = np.argsort(t)
    merged = Profile(
        t[order],
        path.travelled(t[order]),
        {c: np.concatenate([v, fine.values[c]])[order] for c, v in coarse.values.items()},
        {c: np.concatenate([v, fine.batches[c]])[order] for c, v in coarse.batches.items()},
        coarse.examples,
        coarse.cost + fine.cost,
    )
    after = Barrier.read(merged, of)
    return replace(after, resolution=after.height - before.height if math.isfinite(after.height) else None)
