"""Checks of lewkowycz2020 on two-layer linear networks; c is the learning rate times the curvature at the start."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lrscope.linalg import lanczos
from lrscope.papers.claim import Curves, Holds, Numbers, claim
from lrscope.solvable.trajectory import RISE, Trajectory
from lrscope.solvable.two_layer import TwoLayer, half_mse
from lrscope.solvable.uv import UV

LAZY, CATAPULT, DIVERGENT = (0.5, 1.0, 1.5, 1.9), (2.5, 3.0, 3.5, 3.9), (4.1, 4.5)


@claim(
    "lewkowycz2020/three-phases",
    "Three phases of the two-layer linear network, split at 2 / curvature and 4 / curvature",
    where="Theorem 1",
    sure="source",
    shows=["runs", "slow_width_seed_c_steps"],
    headline=True,
    unlike=(
        "all three phases come out in all 300 runs; two of the 120 catapults end so flat that they "
        "crawl, and converge after 8,675 and 3,208 steps instead of 2,000"
    ),
)
def phases(
    widths: Sequence[int] = (100, 1000, 10_000), seeds: int = 10, steps: int = 2000
) -> tuple[Numbers, Holds, Curves]:
    """The toy model, widths x seeds x learning rates; the recursion against a torch network over 60 steps.

    Catapults that have not settled after ``steps`` are followed for 500 times as long.
    """
    c = torch.tensor([*LAZY, *CATAPULT, *DIVERGENT], dtype=torch.float64)
    lazy, mid, high = (slice(0, 4), slice(4, 8), slice(8, 10))
    gap, falls, flat, rises, stable, settles, diverges = 0.0, True, True, True, True, True, True
    slow: list[tuple[int, int, float, int]] = []
    for width, seed in itertools.product(widths, range(seeds)):
        uv = UV(width, seed=seed)
        run = uv.run(c / uv.kernel, steps)
        gap = max(gap, network_gap(uv, (c / uv.kernel).tolist(), run, 60))
        final = run.lr[0] * run.final_curvature
        falls &= bool((run.loss[1:, lazy] <= run.loss[:-1, lazy] * (1 + RISE) + 1e-30).all())
        flat &= bool((final[lazy] <= c[lazy] * (1 + 1e-12)).all())
        rises &= bool((run.peak_ratio[mid] > 1).all())
        stable &= bool((final[mid] < 2).all())
        diverges &= set(run.status[high]) == {"diverged"}
        for rate, status in zip(c.tolist(), run.status, strict=True):
            if rate < 4 and status != "converged":
                longer = uv.run(rate / uv.kernel, 500 * steps)
                settles &= longer.status == "converged"
                slow.append((width, seed, rate, longer.steps))
    numbers = {"network_gap": gap, "runs": len(widths) * seeds * len(c), "slow_width_seed_c_steps": slow}
    shown = UV(widths[len(widths) // 2])
    curves = _lines(c, shown.run(c / shown.kernel, 60), (1.0, 1.9, 2.5, 3.5, 4.1))
    return (
        numbers,
        {
            "recursion equals a torch network to 1e-10": gap < 1e-10,
            "c < 2: loss never rises": falls,
            "c < 2: lr x final curvature at most c": flat,
            "2.5 <= c <= 3.9: loss rises above its start": rises,
            "2.5 <= c <= 3.9: lr x final curvature below 2": stable,
            f"c <= 3.9: every run converges within {steps:,} steps": not slow,
            "c <= 3.9: every run converges in the end": settles,
            "c >= 4.1: diverges": diverges,
        },
        curves,
    )


def _lines(c: torch.Tensor, run: Trajectory, shown: Sequence[float]) -> dict[str, dict[str, list[float]]]:
    """Loss, and learning rate times curvature, of some of the runs: what Fig. 2 of the paper draws."""
    columns = [c.tolist().index(rate) for rate in shown]
    return {
        f"c {rate:g}": {"loss": run.loss[:, k].tolist(), "c": (run.lr[0, k] * run.curvature[:, k]).tolist()}
        for rate, k in zip(shown, columns, strict=True)
    }


@claim(
    "lewkowycz2020/catapult-time",
    "A catapult peaks after a time that grows with ln width, at a loss that grows with width",
    where="Theorem 1 and its mechanism",
    sure="source",
    shows=["slopes", "expected_slopes"],
)
def growth(exponents: Iterable[int] = range(2, 11)) -> tuple[Numbers, Holds, Curves]:
    """The recursion from f = 1, curvature 2, at widths 10^2 ... 10^10."""
    widths = [10**k for k in exponents]
    x = torch.tensor(widths, dtype=torch.float64).log()
    slopes, expected, spread = [], [], []
    curves: dict[str, Any] = {"width": widths}
    for c in (2.5, 3.0, 3.5):
        runs = [UV(n, begin=(1.0, 2.0)).run(c / 2) for n in widths]
        peak = torch.tensor([float(run.peak_step) for run in runs], dtype=torch.float64)
        per_width = [float(run.loss.max()) / n for run, n in zip(runs, widths, strict=True)]
        slopes.append(float(((x - x.mean()) * peak).sum() / ((x - x.mean()) ** 2).sum()))
        curves[f"c {c:g}"] = {"peak_step": peak.tolist(), "peak_per_width": per_width}
        expected.append(1 / (2 * math.log(c - 1)))
        spread.append(max(per_width) / min(per_width))
    numbers = {"slopes": slopes, "expected_slopes": expected, "spread_of_peak_per_width": spread}
    return (
        numbers,
        {
            "slope of the peak's step in ln width within 10 % of 1 / (2 ln(c - 1))": all(
                abs(a / b - 1) < 0.1 for a, b in zip(slopes, expected, strict=True)
            ),
            "largest loss / width constant within a factor of 2": max(spread) < 2,
        },
        curves,
    )


@claim(
    "lewkowycz2020/full-model-phases",
    "The three phases hold with several inputs and samples",
    where="the full model",
    sure="source",
    shows=["smallest_diverging_c"],
)
def full_model(
    widths: Sequence[int] = (300, 2000), seeds: int = 6, steps: int = 3000
) -> tuple[Numbers, Holds, Curves]:
    """With d = 5, m = 12 and labels of a linear teacher; between c = 3.9 and 4.6 either outcome is right."""
    low, mid, high = (0.5, 1.0, 1.5, 1.9), (2.5, 3.0, 3.5), (5.0,)
    free = (3.9, 4.0, 4.1, 4.2, 4.4, 4.6)
    c = torch.tensor([*low, *mid, *high, *free], dtype=torch.float64)
    gap, lazy, spikes, stable, diverged, first = 0.0, True, True, True, True, []
    for width in widths:
        for seed in range(seeds):
            model = teacher(width, seed)
            run = model.run(c / model.kernel, steps)
            if width == min(widths) and seed < 2:
                gap = max(gap, network_gap(model, (c / model.kernel).tolist(), run, 60))
            final = run.lr[0] * run.final_curvature
            lazy &= bool((run.loss[1:, :4] <= run.loss[:-1, :4] * (1 + RISE) + 1e-30).all())
            spikes &= bool((run.peak_ratio[4:7] > 1).all())
            stable &= bool((final[4:7] < 2).all()) and "diverged" not in run.status[4:7]
            diverged &= run.status[7] == "diverged"
            gone = [
                cc for cc, s in zip([*free, *high], [*run.status[8:], run.status[7]], strict=True) if s == "diverged"
            ]
            first.append(min(gone, default=math.inf))
    shown = teacher(widths[0], 0)
    curves = _lines(c, shown.run(c / shown.kernel, 60), (1.0, 1.9, 2.5, 3.5, 5.0))
    return (
        {"network_gap": gap, "smallest_diverging_c": sorted(first)},
        {
            "recursion equals a torch network to 1e-10": gap < 1e-10,
            "c <= 1.9: loss never rises": lazy,
            "2.5 <= c <= 3.5: loss rises above its start": spikes,
            "2.5 <= c <= 3.5: lr x final curvature below 2": stable,
            "c >= 5: diverges": diverged,
        },
        curves,
    )


@claim(
    "lewkowycz2020/kernel-is-hessian",
    "At the start the kernel's largest eigenvalue is the Hessian's, the more so the wider",
    where="appendix on kernel and Hessian",
    sure="source",
    shows=["hessian_over_kernel"],
    unlike=(
        "from width 80 on; at width 20 the residual's part makes the Hessian 3 to 11 % larger than the "
        "kernel, and it falls with the width"
    ),
)
def kernel_is_hessian(widths: Sequence[int] = (20, 80, 320), seeds: int = 3) -> tuple[Numbers, Holds]:
    """The networks of full-model-phases; the Hessian's largest eigenvalue by Lanczos, over the kernel's."""
    off = {width: [_hessian_over_kernel(teacher(width, seed)) for seed in range(seeds)] for width in widths}
    return {"hessian_over_kernel": {f"width {n}": values for n, values in off.items()}}, {
        f"width {n}: agree within 2 %": max(abs(v - 1) for v in values) < 0.02 for n, values in off.items()
    }


def _hessian_over_kernel(model: TwoLayer) -> float:
    objective = model.objective()
    theta = objective.point()
    start = torch.randn(theta.shape, dtype=theta.dtype, generator=torch.Generator().manual_seed(0))
    top = lanczos(lambda v: objective.hvp(theta, v), start, tol=1e-6)
    return float(top.values[0]) / model.kernel


@claim(
    "lewkowycz2020/linear-again",
    "After the catapult training is linear again, around the flatter place",
    where="Fig. 6",
    sure="source",
    shows=["kernel_change_after"],
    unlike=(
        "from width 1,000 on; at width 100 a catapult near c = 2.5 is over before the kernel has moved "
        "by 30 %, and the kernel goes on moving afterwards"
    ),
)
def linear_again(
    widths: Sequence[int] = (100, 1000, 10_000), c: Sequence[float] = (2.5, 3.0, 3.5), seeds: int = 6
) -> tuple[Numbers, Holds]:
    """Kernel before and after the loss is back below its start; the model linearised at the start beside it.

    Cells in which the loss never rose (narrow networks near c = 2.5) have no catapult to judge and are counted.
    """
    cells = {
        (n, rate): [_relinearised(teacher(n, seed), rate) for seed in range(seeds)] for n in widths for rate in c
    }
    told = {cell: [row for row in rows if row is not None] for cell, rows in cells.items()}
    column = {cell: [list(values) for values in zip(*rows, strict=True)] for cell, rows in told.items()}
    medians = [[statistics.median(column[n, rate][0]) for n in widths] for rate in c]
    numbers = {
        "no_catapult": {f"width {n}, c {rate:g}": seeds - len(told[n, rate]) for n, rate in cells},
        "kernel_change_after": {f"width {n}, c {rate:g}": column[n, rate][0] for n, rate in cells},
        "kernel_change_before": {f"width {n}, c {rate:g}": column[n, rate][1] for n, rate in cells},
        "median_change_after_by_c_and_width": medians,
        "smallest_linearised_over_start": min(min(cell[2]) for cell in column.values()),
    }
    holds = {}
    for n in widths:
        after, before = ([x for rate in c for x in column[n, rate][k]] for k in (0, 1))
        holds[f"width {n}: kernel changes by less than 10 % after the catapult"] = max(after) < 0.1
        holds[f"width {n}: kernel changes by more than 30 % before"] = min(before) > 0.3
    return numbers, holds | {
        "median change after the catapult falls with width": all(
            a > b for row in medians for a, b in itertools.pairwise(row)
        ),
        "the model linearised at the start diverges (residual beyond 1e9 of its start in 100 steps)": (
            numbers["smallest_linearised_over_start"] > 1e9
        ),
    }


def teacher(width: int, seed: int) -> TwoLayer:
    """12 samples in 5 dimensions with labels of a linear teacher."""
    generator = torch.Generator().manual_seed(1000 + seed)
    X = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    return TwoLayer(X, X @ torch.randn(5, dtype=torch.float64, generator=generator), width, seed=seed)


def _relinearised(model: TwoLayer, c: float) -> tuple[float, float, float] | None:
    """Kernel change after and before the loss is back below its start; residual of the model linearised at the start.

    ``None`` if the loss never rose.
    """
    lr = torch.tensor([c / model.kernel], dtype=torch.float64)
    state = model._start()
    start, residual = model.kernel_matrix(state)[0], state[0][0]
    first = loss = residual.pow(2).mean()
    rose, back = False, None
    for _ in range(20_000):
        if loss <= 1e-16 * first:
            break
        state = model._step(state, lr)
        loss = state[0].pow(2).mean()
        rose |= bool(loss > first)
        if back is None and rose and loss < first:
            back = model.kernel_matrix(state)[0]
    if back is None:
        return None
    after = float((model.kernel_matrix(state)[0] - back).norm() / back.norm())
    linear = torch.linalg.matrix_power(torch.eye(len(start), dtype=start.dtype) - lr * start, 100) @ residual
    return after, float((back - start).norm() / start.norm()), float(linear.norm() / residual.norm())


def network_gap(model: UV | TwoLayer, rates: Sequence[float], run: Trajectory, steps: int) -> float:
    """Largest relative gap between a run and a torch network trained by autograd, in kernel and in root of the loss.

    Residuals are compared on the scale of the largest so far, as a network's rounding is of that size.
    """
    worst = 0.0
    if isinstance(model, UV):
        X, y = torch.tensor([[model.x]], dtype=torch.float64), torch.tensor([model.y], dtype=torch.float64)
    else:
        X, y = model.X, model.y
    for k, lr in enumerate(rates):
        net, scale = model.net(), 0.0
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        for t in range(min(steps, run.steps) + 1):
            root = float(run.loss[t, k]) ** 0.5
            if not math.isfinite(root) or root > 1e6 * float(run.loss[0, k]) ** 0.5 * model.width**0.5:
                break
            optimizer.zero_grad()
            loss = half_mse(net, (X, y))
            loss.backward()
            with torch.no_grad():
                hidden = net.u @ X.T
                Theta = (float(net.v @ net.v) * (X @ X.T) + hidden.T @ hidden) / (net.root**2 * len(y))
                top = float(torch.linalg.eigvalsh(Theta)[-1])
            scale = max(scale, root)
            worst = max(
                worst, abs(float(loss.detach()) ** 0.5 - root) / scale, abs(top / float(run.curvature[t, k]) - 1)
            )
            optimizer.step()
    return worst
