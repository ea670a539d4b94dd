"""Checks of kalra2024 on models that are exactly known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lrscope.papers.claim import Curves, Holds, Numbers, claim
from lrscope.solvable.quadratic import Quadratic
from lrscope.solvable.uv import UV


@claim(
    "kalra2024/thresholds",
    "The largest stable rate of gradient descent, momentum and Adam is 2, 3.8 and 38 over curvature",
    where="instability thresholds",
    sure="source",
    shows=["gd", "momentum", "adam"],
)
def thresholds(steps: int = 3000) -> tuple[Numbers, Holds, Curves]:
    """A parabola of curvature 1: the smallest of 100 rates that grows, between ever closer neighbours."""
    rules = {"gd": 2.0, "momentum": 3.8, "adam": 38.0}
    found = {rule: _grows_from(Quadratic([1.0], rule), steps) for rule in rules}  # pyright: ignore[reportArgumentType]
    holds = {f"{rule}: {value} within 1 %": abs(found[rule] / value - 1) < 0.01 for rule, value in rules.items()}
    shape = torch.logspace(-0.6, 0.3, 60, dtype=torch.float64)
    curves = {rule: _growth(Quadratic([1.0], rule), shape * value) for rule, value in rules.items()}  # pyright: ignore[reportArgumentType]
    return found, holds, curves


def _growth(model: Quadratic, rates: torch.Tensor, steps: int = 200) -> dict[str, list[float]]:
    """By what the distance to the minimum is multiplied per step, from the 200th of the loss."""
    loss = model.run(rates, steps).loss
    last = loss.isfinite().sum(0) - 1  # a run that left float64 is nan from there on
    ends = loss.gather(0, last[None])[0]
    return {"lr": rates.tolist(), "factor": ((ends / loss[0]) ** (0.5 / last)).tolist()}


def _grows_from(model: Quadratic, steps: int) -> float:
    low, high = 0.5 * model.max_lr, 2 * model.max_lr
    while high / low > 1 + 1e-3:
        rates = torch.logspace(math.log10(low), math.log10(high), 100, dtype=torch.float64)
        run = model.run(rates, steps)
        grew = ~(run.loss[-1] < run.loss[0])  # a run that left float64 is nan
        first = int(grew.int().argmax())
        if first == 0:  # all of them grow, or none: the threshold is elsewhere
            return math.nan
        low, high = float(rates[first - 1]), float(rates[first])
    return math.sqrt(low * high)


@claim(
    "kalra2024/sign-rule",
    "Networks that start flat sharpen, those that start sharp flatten, by the size of the weights",
    where="arXiv 2311.02076, the UV model",
    sure="inferred",
    shows=["final_over_initial_curvature"],
)
def sign_rule(
    width: int = 64, y: float = 2.0, seeds: Sequence[int] = (0, 1, 2), steps: int = 4000
) -> tuple[Numbers, Holds, Curves]:
    """The uv model at scales 0.2, 1 and 3 of the weights at c = 0.2, and at scale 3 with c = 2.5."""
    ratio, curves = {}, {}
    for scale, c in ((0.2, 0.2), (1.0, 0.2), (3.0, 0.2), (3.0, 2.5)):
        models = [UV(width, y=y, scale=scale, seed=seed) for seed in seeds]
        runs = [model.run(c / model.kernel, steps) for model in models]
        ratio[f"scale {scale:g}, c {c:g}"] = [float(run.final_curvature / run.curvature[0]) for run in runs]
        # From step 1 on and evenly in its logarithm: a catapult is over in ten steps, sharpening takes hundreds.
        at = sorted({round(steps ** (i / 60)) for i in range(61)})
        lines = [[float(run.curvature[min(t, run.steps)] / run.curvature[0]) for t in at] for run in runs]
        curves[f"scale {scale:g}, c {c:g}"] = {"step": at, "curvature": lines}
    small, middle, large, catapult = ratio.values()
    return (
        {"final_over_initial_curvature": ratio},
        {
            "small weights: curvature more than doubles": min(small) > 2,
            "usual weights: about unchanged (within 10 %)": max(abs(r - 1) for r in middle) < 0.1,
            "large weights: falls or stays": max(large) <= 1,
            "large weights at c = 2.5: ends below 0.8": max(catapult) < 0.8,
        },
        curves,
    )
