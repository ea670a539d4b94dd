"""Checks of li2019 by statistics of training: what an exponential schedule reaches, and what equilibrium forgets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

from lrscope.papers.claim import Curves, Holds, Numbers, claim, spread
from lrscope.papers.li2019.networks import Rates, Seen, levels, network, train
from lrscope.papers.li2019.solvable import random_gradients
from lrscope.schedules import Constant, Piecewise, texp, texp_minus

Seeds = Sequence[int]
LR, DECAY, MOMENTUM, WIDTH = 0.1, 0.01, 0.9, 32
STEPS, SWITCHES, FACTORS = 1000, (500, 750), (1.0, 0.1, 0.01)


def _train(seed: int, lr: Rates, decay: float | Rates = 0.0, head: float = 1.0) -> Seen:
    table = np.broadcast_to(decay, len(lr))
    return train(network(seed, width=WIDTH, head=head), seed, lr, table, MOMENTUM)


@cache
def run(kind: str, seed: int, head: float = 1.0) -> Seen:
    """1,000 steps: ``"step decay"`` with weight decay, or a schedule without it (see :func:`_rates`)."""
    return _train(seed, _rates(kind), DECAY if kind == "step decay" else 0.0, head)


def _rates(kind: str) -> np.ndarray:
    phases, options = Piecewise(FACTORS, SWITCHES), {"base_lr": LR, "weight_decay": DECAY, "momentum": MOMENTUM}
    if kind == "step decay":
        return LR * phases.values(STEPS)
    if kind == "TEXP":
        return LR * texp(phases, **options, steps=STEPS).values(STEPS)
    if kind == "TEXP--":
        return LR * texp_minus(phases, **options, steps=STEPS).values(STEPS)
    growth = LR * texp(Constant(1.0), **options, steps=STEPS).values(STEPS)
    return {"growth": growth, "growth, drops": growth * phases.values(STEPS)}[kind]


def _blocks(lines: Iterable[Rates], size: int = 10) -> list[list[float]]:
    """Means over ten steps each, one line per run."""
    return [np.reshape(line[: len(line) // size * size], (-1, size)).mean(1).tolist() for line in lines]


def _mean(values: Sequence[float], start: int, stop: int) -> float:
    return statistics.fmean(values[start:stop])


def _ratio(values: Iterable[float]) -> float:
    """Largest over smallest."""
    each = list(values)
    return max(each) / min(each)


@claim(
    "li2019/texp",
    "TEXP without any correction ends where the step decay with weight decay does",
    where="the tapered schedule",
    sure="source",
    shows=["relative_difference", "points"],
)
def tapered(seeds: Seeds = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """Width 32, momentum 0.9, weight decay 0.01, lr 0.1 / 0.01 / 0.001 from steps 500 and 750 of 1,000; loss over the
    training set and accuracy on 360 other images, in each seed.
    """
    ours, theirs = ([run(kind, seed) for seed in seeds] for kind in ("TEXP", "step decay"))
    loss = [a.train_loss / b.train_loss - 1 for a, b in zip(ours, theirs, strict=True)]
    points = [a.accuracy - b.accuracy for a, b in zip(ours, theirs, strict=True)]
    numbers = {
        "train_loss": {"TEXP": [s.train_loss for s in ours], "step decay": [s.train_loss for s in theirs]},
        "accuracy": {"TEXP": [s.accuracy for s in ours], "step decay": [s.accuracy for s in theirs]},
    }
    return (
        numbers | {"relative_difference": spread(loss), "points": spread(points)},
        {
            "training loss within 2 %": max(map(abs, loss)) <= 0.02,
            "accuracy within 1 point": max(map(abs, points)) <= 1,
        },
        {
            "lr": _rates("TEXP").tolist(),
            "step decay": _blocks(s.loss for s in theirs),
            "TEXP": _blocks(s.loss for s in ours),
        },
    )


@claim(
    "li2019/instant-drop",
    "An instant drop of an exponential rate helps for a while only",
    where="instant drop at a constant growth rate",
    sure="recalled",
    shows=["loss_over_undropped_at_once", "loss_over_undropped_200_steps_later"],
    unlike=(
        "the return holds; how much an instant drop gains depends on the size of the fixed head, which "
        "the paper's text as known to us does not give: torch's own gives 1 to 2 %, heads 1.7 and 2.4 "
        "times as large 3 to 13 %"
    ),
)
def drop_is_temporary(
    seeds: Seeds = (0, 1, 2), window: int = 20, later: int = 200, heads: Sequence[float] = (1.0, 1.7, 2.4)
) -> tuple[Numbers, Holds, Curves]:
    """The setting of texp with constant growth, a tenth from step 500 and again from 750, beside the same without
    drops: mean batch loss over the 20 steps after a drop, and over the 20 that begin 200 steps after it. It has
    returned when within 3 %. Judged with torch's own head; with larger ones the same is measured beside it.
    """
    soon: dict[str, list[list[float]]] = {}
    late: dict[str, list[list[float]]] = {}
    for head in heads:
        pairs = [(run("growth, drops", seed, head).loss, run("growth", seed, head).loss) for seed in seeds]
        for store, after in ((soon, 0), (late, later)):
            spans = [(switch + after, switch + after + window) for switch in SWITCHES]
            store[f"head x {head:g}"] = [[_mean(a, *span) / _mean(b, *span) for a, b in pairs] for span in spans]
    at_once, back = (store[f"head x {heads[0]:g}"] for store in (soon, late))
    return (
        {"loss_over_undropped_at_once": soon, "loss_over_undropped_200_steps_later": late},
        {
            "at once at least 5 % lower, after each drop and in each seed": max(map(max, at_once)) <= 0.95,
            "200 steps later within 3 %": all(abs(r - 1) <= 0.03 for row in back for r in row),
        },
        {
            f"head x {head:g}": _blocks(
                np.divide(run("growth, drops", seed, head).loss, run("growth", seed, head).loss) for seed in seeds
            )
            for head in heads
        },
    )


@claim(
    "li2019/texp-without-drops",
    "Without the drops (TEXP--) the effective learning rate falls slowly",
    where="TEXP--",
    sure="recalled",
    shows=["ratio"],
)
def slow_without_drops(seeds: Seeds = (0, 1, 2), window: int = 10) -> tuple[Numbers, Holds, Curves]:
    """The setting of texp: angle per step of a hidden layer 200 steps after the first switch, and at the end."""
    at = SWITCHES[0] + 200
    spans = {"200 steps after": (at - window, at + window), "at the end": (STEPS - 2 * window, STEPS)}
    angle = {
        name: {kind: [_mean(run(kind, s).angle, *span) for s in seeds] for kind in ("TEXP--", "TEXP")}
        for name, span in spans.items()
    }
    ratio = [a / b for a, b in zip(*angle["200 steps after"].values(), strict=True)]
    return (
        {"angle_per_step": angle, "ratio": spread(ratio)},
        {"200 steps after the switch it turns at least twice as far per step as TEXP": min(ratio) >= 2},
        {kind: _blocks(run(kind, seed).angle for seed in seeds) for kind in ("TEXP--", "TEXP")},
    )


@claim(
    "li2019/equilibrium-angle",
    "At equilibrium normalised weights turn by sqrt(2 lr wd / (1 + momentum)) per step",
    where="arXiv 2010.02916, equilibrium",
    sure="recalled",
    shows=["network_angle_over_predicted"],
)
def equilibrium(seeds: Seeds = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """A walk with random gradients in 2,000 dimensions (second half of 6,000 steps, momentum 0, 0.5 and 0.9), and
    the network of texp from step 250 to 500.
    """
    numbers, holds = random_gradients(seeds)
    predicted = math.sqrt(2 * LR * DECAY / (1 + MOMENTUM))
    angles = [_mean(run("step decay", seed).angle, SWITCHES[0] // 2, SWITCHES[0]) / predicted for seed in seeds]
    return (
        {**numbers, "network_angle_over_predicted": spread(angles)},
        {
            **holds,
            "network: angle within 15 %": all(abs(a - 1) <= 0.15 for a in angles),
        },
        {"angle_per_step": _blocks(run("step decay", seed).angle for seed in seeds)},
    )


HISTORIES = ((0.1, 0.01), (0.4, 0.001), (0.02, 0.05), (0.05, 0.05), (0.02, 0.005))
"""Five pairs of learning rate and weight decay, products from 1e-4 to 2.5e-3."""


@claim(
    "li2019/equilibrium-forgets",
    "Equilibrium forgets: whatever came before, the same rate and decay lead to the same place",
    where="arXiv 2010.02916, five schedules",
    sure="source",
    shows=["by_seed"],
    unlike=(
        "rates and losses forget their history in every seed; accuracies of one seed lie 1.67 points "
        "apart instead of 1.5, six of 360 images, where one accuracy has a standard error of 0.7 points"
    ),
)
def forgets(
    seeds: Seeds = (0, 1, 2), histories: Sequence[tuple[float, float]] = HISTORIES
) -> tuple[Numbers, Holds, Curves]:
    """Width 32, momentum 0.9; five pairs of lr and decay for 300 steps, then (0.1, 0.01) for 400, then lr 0.001
    for 200. Effective rate lr / norm^2 of a hidden layer and batch loss over the last 100 steps before the end phase.
    """
    rows: list[dict[str, list[float]]] = []
    curves: dict[str, Any] = {}
    for seed in seeds:
        row: dict[str, list[float]] = {"before": [], "effective_lr": [], "loss": [], "accuracy": []}
        for lr, decay in histories:
            seen = _train(seed, levels((300, lr), (400, LR), (200, 0.001)), levels((300, decay), (600, DECAY)))
            row["before"].append(lr / seen.norm[299] ** 2)
            row["effective_lr"].append(statistics.median(LR / norm**2 for norm in seen.norm[600:700]))
            row["loss"].append(_mean(seen.loss, 600, 700))
            row["accuracy"].append(seen.accuracy)
            if seed == seeds[0]:
                rates = levels((300, lr), (400, LR), (200, 0.001)) / np.square(seen.norm)
                (effective,), (loss,) = _blocks([rates.tolist()]), _blocks([seen.loss])
                curves[f"lr {lr:g}, wd {decay:g}"] = {"effective_lr": effective, "loss": loss}
        rows.append(row)
    return (
        {"histories": histories, "by_seed": rows},
        {
            "effective rates within 20 % of each other": all(_ratio(row["effective_lr"]) <= 1.2 for row in rows),
            "batch losses within 5 %": all(_ratio(row["loss"]) <= 1.05 for row in rows),
            "accuracies within 1.5 points": all(max(row["accuracy"]) - min(row["accuracy"]) <= 1.5 for row in rows),
        },
        curves,
    )


@claim(
    "li2019/small-but-long",
    "A ten times smaller learning rate generalises as well when it trains longer",
    where="arXiv 2010.02916, small initial rate",
    sure="source",
    shows=["baseline", "long"],
    unlike=(
        "the long run is as good; the run of the baseline's length is worse by 0.5 points and not by "
        "one: digits are nearly learnt by then"
    ),
)
def small_but_long(seeds: Seeds = (0, 1, 2)) -> tuple[Numbers, Holds]:
    """The step decay of texp (1,000 steps from lr 0.1) beside lr 0.01 for 3,500 steps, then 0.001 for 250; and beside
    lr 0.01 and 0.001 for 250 steps each, and for 750 and 250, as long as the baseline. Clearly worse: by a point.
    """
    arms = {"long": (3500, 250), "short, 500 steps": (250, 250), "short, 1,000 steps": (750, 250)}
    accuracy = {"baseline": [run("step decay", seed).accuracy for seed in seeds]}
    for name, (first, second) in arms.items():
        accuracy[name] = [_train(seed, levels((first, 0.01), (second, 0.001)), DECAY).accuracy for seed in seeds]
    mean = {name: statistics.fmean(values) for name, values in accuracy.items()}
    return {name: spread(values) for name, values in accuracy.items()}, {
        "long: at most 0.5 points below the baseline": mean["long"] >= mean["baseline"] - 0.5,
        **{f"{name}: clearly worse": mean[name] <= mean["baseline"] - 1 for name in list(arms)[1:]},
    }
