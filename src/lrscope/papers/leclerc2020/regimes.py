"""Checks of leclerc2020: what large and small steps do, momentum in either, and why large ones come first."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.objective import Objective
from lrscope.papers.claim import Curves, Holds, Numbers, claim
from lrscope.papers.leclerc2020.networks import Kind, accuracy, digits, network, rises, train
from lrscope.stability.trial import Trial
from lrscope.tasks import Batches

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def _curve(kind: Kind, lr: float, momentum: float, epochs: int, seed: int) -> list[float]:
    """1,000 images, 20 % label noise, batches of 32."""
    model, data = network(kind, seed), digits(1000, seed, 0.2)
    return train(model, data, epochs, lr, momentum=momentum, batch_size=32, seed=seed)


@claim(
    "leclerc2020/large-steps-bounce",
    "Large steps: the loss of an epoch often rises, and ends above what smaller steps reach",
    where="introduction, contribution 1",
    sure="source",
    shows=["MLP-BN rises", "MLP-BN final"],
    headline=True,
)
def regimes(seeds: Sequence[int] = (0, 1, 2), epochs: int = 30) -> tuple[Numbers, Holds, Curves]:
    """Seven constant rates without momentum; both networks, judged on the one with BatchNorm."""
    numbers: dict[str, Any] = {"lr": list(RATES), "seeds": list(seeds)}
    kinds: tuple[Kind, ...] = ("MLP-BN", "MLP")
    lines: dict[str, Any] = {}
    for kind in kinds:
        curves = [[_curve(kind, lr, 0.0, epochs, seed) for seed in seeds] for lr in RATES]
        lines[kind] = {f"{lr:g}": row for lr, row in zip(RATES, curves, strict=True)}
        numbers[f"{kind} rises"] = [[rises(c) for c in row] for row in curves]
        numbers[f"{kind} final"] = [statistics.mean(c[-1] for c in row) for row in curves]
    share = [statistics.mean(row) for row in numbers["MLP-BN rises"]]
    final = numbers["MLP-BN final"]
    return (
        numbers,
        {
            "the loss never rises for lr up to 0.03": max(max(row) for row in numbers["MLP-BN rises"][:3]) == 0,
            "it rises in 20 % of the epochs or more for lr from 0.3 on": min(share[4:]) >= 0.2,
            "it ends at lr 3 at twice the lowest of the sweep or more": final[-1] >= 2 * min(final),
        },
        lines,
    )


@claim(
    "leclerc2020/momentum-is-a-rate",
    "Large steps: momentum is a change of the learning rate by 1 / (1 - momentum), no more",
    where="introduction, contribution 2",
    sure="source",
    shows=["D at 1", "D uncorrected, momentum 0.9 at lr 1"],
)
def momentum_is_a_rate(seeds: Sequence[int] = (0, 1, 2), epochs: int = 20) -> tuple[Numbers, Holds, Curves]:
    """Distance D of mean loss curves, relative, over epochs 3 to the last, at lr = lr_eff (1 - momentum)."""

    def mean(lr: float, momentum: float, which: Sequence[int] = seeds) -> np.ndarray:
        whole = np.mean([_curve("MLP-BN", lr, momentum, epochs, seed) for seed in which], 0)
        if which is seeds:
            lines[f"lr {lr:.3g}, momentum {momentum:g}"] = whole.tolist()
        return whole[3:]

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(np.abs(a - b) / b))

    found: dict[str, Any] = {"seeds": list(seeds)}
    lines: dict[str, list[float]] = {}
    for effective in (1.0, 3.0):
        plain = mean(effective, 0.0)
        found[f"D at {effective:g}"] = {
            str(m): distance(mean(effective * (1 - m), m), plain) for m in (0.5, 0.9, 0.95)
        }
    plain = mean(1.0, 0.0)
    found["D uncorrected, momentum 0.9 at lr 1"] = distance(mean(1.0, 0.9), plain)
    others = [seed + 100 for seed in seeds]
    found["D between seeds"] = distance(mean(1.0, 0.0, others), plain)
    return (
        found,
        {
            "D(0.9) at most 0.25": found["D at 1"]["0.9"] <= 0.25,
            "uncorrected D at least 1": found["D uncorrected, momentum 0.9 at lr 1"] >= 1,
        },
        lines,
    )


@claim(
    "leclerc2020/momentum-helps-small-steps",
    "Small steps, as in convex optimisation: momentum makes training faster",
    where="introduction, contribution 2",
    sure="inferred",
    shows=["best loss, any", "best loss, falling"],
    unlike=(
        "eleven cells of twelve gain 3.5- to 49-fold; in the twelfth the run that would gain rises once "
        "in 80 steps and does not count as falling"
    ),
)
def momentum_helps(seeds: Sequence[int] = (0, 1, 2), steps: int = 80) -> tuple[Numbers, Holds]:
    """From 10 epochs at lr 1, full-batch steps at seven rates; lowest loss of all runs and of falling ones."""
    momenta = (0.0, 0.5, 0.9)
    best: dict[str, list[list[float]]] = {"any": [], "falling": []}
    for seed in seeds:
        model, data = network("MLP-BN", seed), digits(1000, seed, 0.2)
        train(model, data, 10, 1.0, batch_size=32, seed=seed)
        rows: dict[str, list[float]] = {"any": [], "falling": []}
        for momentum in momenta:
            ends: dict[str, list[float]] = {"any": [], "falling": []}
            for lr in RATES:
                losses = train(
                    copy.deepcopy(model), data, steps, lr, momentum=momentum, batch_size=len(data.y), seed=seed
                )
                ends["any"].append(losses[-1])
                if rises(losses) == 0:
                    ends["falling"].append(losses[-1])
            for variant, values in ends.items():
                rows[variant].append(float(np.nanmin(values)) if values else float("inf"))
        for variant, values in rows.items():
            best[variant].append(values)
    numbers = {"momentum": list(momenta), "seeds": list(seeds)} | {f"best loss, {k}": v for k, v in best.items()}
    return numbers, {
        f"each step up in momentum lowers it threefold or more ({variant} runs, seed {seed})": all(
            a >= 3 * b for a, b in pairwise(row)
        )
        for variant, table in best.items()
        for seed, row in zip(seeds, table, strict=True)
    }


Phase = tuple[int, float, float]
"""Epochs, learning rate, momentum."""
ARMS: dict[str, tuple[Phase, ...]] = {
    "small only, 600 epochs": ((600, 0.05, 0.0),),
    "small only, 150 epochs": ((150, 0.05, 0.0),),
    "0.5 x20, then 0.05 x130": ((20, 0.5, 0.0), (130, 0.05, 0.0)),
    "0.5 x100, then 0.005 with momentum x50": ((100, 0.5, 0.0), (50, 0.005, 0.9)),
    "0.05 with momentum x100, then 0.005 with momentum x50": ((100, 0.05, 0.9), (50, 0.005, 0.9)),
}


@cache
def arm(name: str, seed: int) -> tuple[float, float]:
    """Test accuracy in percent and final training loss of one of :data:`ARMS`: 500 images, MLP, batches of 25."""
    model, data = network("MLP", seed), digits(500, seed)
    losses: list[float] = []
    for i, (epochs, lr, momentum) in enumerate(ARMS[name]):
        losses = train(model, data, epochs, lr, momentum=momentum, batch_size=25, seed=1000 * i + seed)
    return accuracy(model, data), losses[-1]


@claim(
    "leclerc2020/large-first-generalises",
    "A phase of large steps first makes the network generalise better, at equal training loss",
    where="abstract",
    sure="source",
    shows=["gain of 0.5 x20, then 0.05 x130", "gain of 0.5 x100, then 0.005 with momentum x50"],
    unlike=(
        "the gain is there in all six seeds and both arms, but one arm ends at a lower training loss "
        "than small steps alone, so equal training loss rests on the other"
    ),
)
def large_first(seeds: Sequence[int] = range(6)) -> tuple[Numbers, Holds]:
    """Two-phase training against small steps only, paired by split, initialisation and order."""
    names = list(ARMS)[:4]
    ends = {name: [arm(name, seed) for seed in seeds] for name in names}
    numbers: dict[str, Any] = {
        "seeds": list(seeds),
        "accuracy": {name: [a for a, _ in rows] for name, rows in ends.items()},
        "train_loss": {name: statistics.mean(loss for _, loss in rows) for name, rows in ends.items()},
    }
    holds: dict[str, bool] = {}
    for name in names[2:]:
        pairs = zip(numbers["accuracy"][name], numbers["accuracy"][names[0]], strict=True)
        gains = [ours - theirs for ours, theirs in pairs]
        numbers[f"gain of {name}"] = gains
        holds[f"{name}: mean gain of 0.3 points or more"] = statistics.mean(gains) >= 0.3
        holds[f"{name}: a gain in five of six seeds"] = sum(g > 0 for g in gains) * 6 >= 5 * len(gains)
        matched = numbers["train_loss"][name] >= numbers["train_loss"][names[0]]
        holds[f"{name}: its training loss is not below that of small steps only"] = matched
    return numbers, holds


@claim(
    "leclerc2020/no-momentum-first",
    "The phase of large steps needs no momentum",
    where="introduction, contributions 1 and 2",
    sure="inferred",
    shows=["accuracy"],
)
def no_momentum_first(seeds: Sequence[int] = range(6)) -> tuple[Numbers, Holds]:
    """Phase 1 at lr 0.5 without momentum against lr 0.05 with momentum 0.9, the same phase 2."""
    names = list(ARMS)[3:]
    plain, heavy = ([arm(name, seed)[0] for seed in seeds] for name in names)
    return {"seeds": list(seeds), "accuracy": dict(zip(names, (plain, heavy), strict=True))}, {
        "not worse by more than 0.3 points": statistics.mean(plain) >= statistics.mean(heavy) - 0.3
    }


@claim(
    "leclerc2020/gradient-turns",
    "The larger the step, the more it turns the gradient",
    where="our diagnostics of the two regimes",
    sure="inferred",
    shows=["MLP-BN", "MLP"],
)
def diagnostics(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds]:
    """500 images, 20 % label noise, batches of 25: 15 epochs at the large rate, 5 at the probed one, 60 steps."""
    settings: dict[Kind, tuple[float, tuple[float, ...]]] = {
        "MLP-BN": (1.0, (0.01, 0.1, 0.3, 1.0)),
        "MLP": (0.5, (0.02, 0.2, 0.5, 1.0)),
    }
    numbers: dict[str, Any] = {"seeds": list(seeds)}
    holds: dict[str, bool] = {}
    for kind, (large, rates) in settings.items():
        rows = [[_probed(kind, large, lr, seed) for seed in seeds] for lr in rates]
        names = ("rises", "minimum", "full_cosine", "batch_cosine")
        table = {n: [statistics.mean(getattr(p, n) for p in row) for row in rows] for n in names}
        numbers[kind] = {"lr": list(rates), **table}
        for n, words in (("full_cosine", "the full loss"), ("batch_cosine", "its own batch")):
            falls = all(a > b for a, b in pairwise(table[n]))
            holds[f"{kind}: the cosine of gradients of {words} falls with the rate"] = falls
        holds[f"{kind}: that of its own batch is 0.95 or more at the smallest rate"] = (
            table["batch_cosine"][0] >= 0.95
        )
        holds[f"{kind}: and 0.4 or less at the largest"] = table["batch_cosine"][-1] <= 0.4
    return numbers, holds


def _probed(kind: Kind, large: float, lr: float, seed: int) -> Any:
    model, data = network(kind, seed), digits(500, seed, 0.2)
    train(model, data, 15, large, batch_size=25, seed=seed)
    train(model, data, 5, lr, batch_size=25, seed=1000 + seed)
    batches = Batches(data.x, data.y, batch_size=25, shuffle=True)
    objective = Objective(model, _cross_entropy, [(data.x, data.y)])
    return Trial(objective, torch.optim.SGD(model.parameters(), lr=lr), batches, seed=seed).probe(60)


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])
