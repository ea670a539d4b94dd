"""Checks of lewkowycz2020: the transition at 2, the edge at 4, and what neither width nor noise changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import torch
from torch.nn import functional as F

from lrscope.papers.claim import Curves, Holds, Numbers, beyond, claim, spread
from lrscope.papers.lewkowycz2020.networks import DIVERGED, NTKNet, _net, descend, parity, top_eigenvalue
from lrscope.solvable.uv import UV

Seeds = Sequence[int]


@claim(
    "lewkowycz2020/edge-at-4",
    "The two-layer linear network trains up to 4 / curvature exactly, at every width",
    where="Theorem 1",
    sure="source",
    shows=["diverged_below", "survived_above"],
)
def edge(
    widths: Sequence[int] = (100, 1000, 10_000), seeds: int = 10, near: float = 0.01, steps: int = 2000
) -> tuple[Numbers, Holds, Curves]:
    """The toy model of three-phases; c = 4 - 0.01 and 4 + 0.01 for 2,000 steps, widths x seeds."""
    c = torch.tensor([4 - near, 4 + near], dtype=torch.float64)
    below, above = 0, 0
    for width, seed in product(widths, range(seeds)):
        uv = UV(width, seed=seed)
        status = uv.run(c / uv.kernel, steps).status
        below += status[0] == "diverged"
        above += status[1] != "diverged"
    fine = torch.linspace(0.5, 4.5, 81, dtype=torch.float64)
    curves: dict[str, Any] = {"c": fine.tolist()}
    for width in widths:
        uv = UV(width)
        run = uv.run(fine / uv.kernel, steps)
        gone = [status == "diverged" for status in run.status]
        highest = [math.inf if lost else float(peak) for lost, peak in zip(gone, run.peak_ratio, strict=True)]
        curves[f"width {width:,}"] = highest
    numbers = {"runs": 2 * len(widths) * seeds, "diverged_below": below, "survived_above": above}
    return numbers, {"c = 3.99: none diverges": below == 0, "c = 4.01: every run diverges": above == 0}, curves


@claim(
    "lewkowycz2020/width-drops-out",
    "Width enters a catapult through the size of the output at the start alone",
    where="the exact recursion of outputs and curvature",
    sure="inferred",
    shows=["largest_relative_gap"],
)
def width_drops_out(
    widths: Sequence[int] = (100, 10_000, 1_000_000),
    starts: Sequence[float] = (0.001, 0.01, 0.1),
    c: Sequence[float] = (1.0, 2.5, 3.0, 3.5),
    steps: int = 60,
) -> tuple[Numbers, Holds, Curves]:
    """The toy model from f = g sqrt(n) and curvature 2: loss / n and curvature over 60 steps, each width beside the
    narrowest, relative to the largest so far.
    """
    rates = torch.tensor(c, dtype=torch.float64) / 2
    gaps: dict[str, float] = {}
    curves: dict[str, Any] = {}
    for g in starts:
        runs = {n: UV(n, begin=(g * math.sqrt(n), 2.0)).run(rates, steps) for n in widths}
        length = min(run.steps for run in runs.values()) + 1
        roots = {n: (run.loss[:length] / n).sqrt() for n, run in runs.items()}
        narrow = widths[0]
        scale = roots[narrow].cummax(0).values
        gap = 0.0
        for n in widths[1:]:
            apart = ((roots[n] - roots[narrow]) / scale).abs().max()
            bent = (runs[n].curvature[:length] / runs[narrow].curvature[:length] - 1).abs().max()
            gap = max(gap, float(apart), float(bent))
        gaps[f"g {g:g}"] = gap
        curves[f"g {g:g}"] = {f"width {n:,}": (runs[n].loss[:length, -1] / n).tolist() for n in widths}
    holds = {"loss / n and curvature agree to 1e-9 at every width": max(gaps.values()) < 1e-9}
    return {"largest_relative_gap": gaps}, holds, curves


@claim(
    "lewkowycz2020/flatter-above-2",
    "Up to 2 / kernel the final curvature is that of the start; above, the larger the rate the flatter",
    where="Fig. 3 c",
    sure="source",
    shows=["kernel_over_start"],
    unlike=(
        "every part holds but the last, which is open: at c = 4 and at c = 6 alike a twelfth of the curvature "
        "is left, and five seeds cannot tell which of the two is flatter"
    ),
    instead="inconclusive",
)
def kink(
    seeds: Seeds = (0, 1, 2, 3, 4),
    lazy: Sequence[float] = (0.5, 1.0, 1.5),
    catapult: Sequence[float] = (2.5, 3.0, 4.0, 6.0),
    width: int = 512,
    physical: float = 120.0,
) -> tuple[Numbers, Holds]:
    """The images of relu-catapult, three hidden layers of width 512; the kernel after 120 / c steps, that is at one
    physical time lr x steps, over that of the start.
    """
    ratio: dict[str, list[float]] = {}
    for rate, seed in product((*lazy, *catapult), seeds):
        x, y = parity(seed)
        net = _net(seed, 64, width, 3, 1)
        top, steps = top_eigenvalue(net, x), round(physical / rate)
        run = descend(net, x, y, rate / top, steps, read=[steps])
        ratio.setdefault(f"{rate:g}", []).append(run.c.get(steps, math.inf) / rate)
    rows = {c: spread(values) for c, values in ratio.items()}
    falls = [
        beyond(spread(a - b for a, b in zip(ratio[f"{low:g}"], ratio[f"{high:g}"], strict=True)), 0.0)
        for low, high in pairwise((lazy[-1], *catapult))
    ]
    return {"kernel_over_start": rows}, {
        **{f"c = {c:g}: within 10 % of the start": all(abs(r - 1) <= 0.1 for r in ratio[f"{c:g}"]) for c in lazy},
        **{f"c = {c:g}: below 2 / lr": max(ratio[f"{c:g}"]) < 2 / c for c in catapult},
        **{
            f"falls from c = {low:g} to {high:g}, by the interval of the paired difference": fell
            for (low, high), fell in zip(pairwise((lazy[-1], *catapult)), falls, strict=True)
        },
    }


@claim(
    "lewkowycz2020/needs-no-noise",
    "The catapult is that of full batches: the noise of SGD is not its cause, and it is over in 100 steps",
    where="the mechanism; Fig. 3 for SGD",
    sure="source",
    shows=["largest_loss_over_first", "lr_x_kernel_at_100"],
)
def without_noise(
    seeds: Seeds = (0, 1, 2),
    c: Sequence[float] = (1.0, 3.0, 5.0),
    width: int = 512,
    batch: int = 32,
    steps: int = 100,
) -> tuple[Numbers, Holds, Curves]:
    """The images and network of flatter-above-2, batches of all 64 images and of 32 drawn anew at each step; losses
    over all images, the kernel after 100 steps.
    """
    spikes: dict[str, list[float]] = {}
    late: dict[str, list[float]] = {}
    back: dict[str, list[float]] = {}
    curves: dict[str, Any] = {}
    for size, rate in product((64, batch), c):
        name = f"batches of {size}, c {rate:g}"
        for seed in seeds:
            losses, end = _sgd(seed, rate, width, size, steps)
            over = [loss / losses[0] for loss in losses]
            peak = over.index(max(over)) if max(over) < math.inf else len(over)
            spikes.setdefault(name, []).append(max(over))
            late.setdefault(name, []).append(end)
            back.setdefault(name, []).append(next((t for t in range(peak, len(over)) if over[t] < 1), math.inf))
            if seed == seeds[0]:
                curves[name] = over
    first, rest = (
        [n for n in spikes if n.endswith(f"c {c[0]:g}")],
        [n for n in spikes if not n.endswith(f"c {c[0]:g}")],
    )
    holds = {f"{n}: the loss never exceeds its start": max(spikes[n]) <= 1 for n in first}
    for n in rest:
        holds[f"{n}: the loss more than doubles"] = min(spikes[n]) > 2
        holds[f"{n}: it is below its start again within {steps} steps"] = max(back[n]) <= steps
        holds[f"{n}: lr x kernel is below 2 after them"] = max(late[n]) < 2
    numbers = {"largest_loss_over_first": spikes, "back_below_start_at": back, "lr_x_kernel_at_100": late}
    return numbers, holds, curves


def _sgd(seed: int, c: float, width: int, size: int, steps: int) -> tuple[list[float], float]:
    """Losses over all images before each step and after the last, and lr x kernel at the end."""
    x, y = parity(seed)
    net: NTKNet = _net(seed, 64, width, 3, 1)
    lr = c / top_eigenvalue(net, x)
    if size == len(x):
        run = descend(net, x, y, lr, steps, read=[steps])
        return run.losses, run.c.get(steps, math.inf)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    draws = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for step in range(steps + 1):
        with torch.no_grad():
            losses.append(float(0.5 * F.mse_loss(net(x), y)))
        if not losses[-1] <= DIVERGED * losses[0]:
            return losses, math.inf
        if step < steps:
            rows = torch.randperm(len(x), generator=draws)[:size]
            optimizer.zero_grad()
            (0.5 * F.mse_loss(net(x[rows]), y[rows])).backward()
            optimizer.step()
    return losses, lr * top_eigenvalue(net, x)
