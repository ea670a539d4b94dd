"""Checks of kalra2024: the sharpness at the start, where it goes by itself, and what a warmup then gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import hessian

from lrscope.curvature import preconditioner, sharpness
from lrscope.papers.claim import Curves, Holds, Numbers, claim, spread
from lrscope.papers.descent import constant, descend, sharpness_of
from lrscope.papers.kalra2024.networks import Start, full_batch
from lrscope.papers.kalra2024.text import small_text

Seeds = Sequence[int]
CHANCE = 0.5 * 0.1 * 0.9
"""The squared error of one constant answer, the best that a dead network can give."""


@claim(
    "kalra2024/sharpness-solver",
    "The measured sharpness is the largest eigenvalue of the whole Hessian, also of P^-1 H",
    where="how sharpness is measured",
    sure="source",
    shows=["relative_error"],
)
def solver(seeds: Seeds = (0, 1, 2), tol: float = 1e-4, moved: int = 20) -> tuple[Numbers, Holds]:
    """A network of 64-6-10 (460 parameters) in float64, at the start and after 20 updates of Adam."""
    errors: dict[str, list[float]] = {"H": [], "P^-1 H": []}
    for seed in seeds:
        objective = full_batch(width=6, depth=2, dtype=torch.float64).objective(seed)
        optimizer = torch.optim.Adam(objective.model.parameters(), lr=3e-3)
        for updates in (0, moved):
            for _ in range(updates):
                optimizer.zero_grad()
                objective.loss_fn(objective.model, objective.batches[0]).backward()
                optimizer.step()
            H = hessian(objective)(objective.point())
            assert isinstance(H, Tensor)
            P = preconditioner(optimizer, objective)
            root = P.rsqrt()
            for name, matrix, scale in (("H", H, None), ("P^-1 H", root[:, None] * H * root, P)):
                true = float(torch.linalg.eigvalsh(matrix)[-1])
                found = sharpness(objective, preconditioner=scale, tol=tol, max_matvecs=5000).value
                errors[name].append(abs(found / true - 1))
    return {"relative_error": errors}, {f"{k}: relative error below 1e-4": max(v) < 1e-4 for k, v in errors.items()}


@claim(
    "kalra2024/natural-sharpening",
    "Standard starts flatten by themselves, muP and a last layer of zeros sharpen",
    where="Fig. 1, natural evolution of sharpness",
    sure="source",
    shows=["sp", "mup", "zero"],
    headline=True,
)
def by_itself(seeds: Seeds = (0, 1, 2), steps: int = 400) -> tuple[Numbers, Holds, Curves]:
    """FCN of depth 4 and width 64, 500 images, squared error; gradient descent at lr = 0.5 / sharpness of the start.

    Sharpness after 400 steps over that at the start.
    """
    ratio: dict[Start, list[float]] = {}
    read = sorted({*(n for n in (20, 60, 150) if n < steps), steps})
    curves: dict[str, Any] = {"step": [0, *read]}
    for start in ("sp", "mup", "zero"):
        task = full_batch(start)
        first = [sharpness_of(task, seed) for seed in seeds]
        thetas = descend(task, seeds, constant([0.5 / s for s in first], steps), at=read).thetas
        curves[start] = [
            [1.0, *(sharpness_of(task, seed, theta) / s for theta in thetas[:, i])]
            for i, (seed, s) in enumerate(zip(seeds, first, strict=True))
        ]
        ratio[start] = [line[-1] for line in curves[start]]
    return (
        {name: spread(values) for name, values in ratio.items()},
        {
            "standard: below 0.6": max(ratio["sp"]) < 0.6,
            "muP: above 2": min(ratio["mup"]) > 2,
            "last layer of zeros: between 1.1 and 2": 1.1 < min(ratio["zero"]) <= max(ratio["zero"]) < 2,
        },
        curves,
    )


@claim(
    "kalra2024/warmup-gain",
    "A warmup raises the largest trainable learning rate, far more for networks that start sharp",
    where="Fig. 3",
    sure="source",
    shows=["gain_by_seed"],
    headline=True,
    unlike=(
        "counting every finite loss also counts muP networks that have died: of those that train, muP "
        "gains twofold and standard networks 16-fold, as the paper says"
    ),
)
def gain(
    seeds: Seeds = (0, 1, 2), warmups: Sequence[int] = (1, 16, 64, 256), octaves: int = 11, steps: int = 400
) -> tuple[Numbers, Holds]:
    """The networks of natural-sharpening, gradient descent for 400 steps at peak c / sharpness of the start, c in
    powers of 2 up to 1,024.

    The largest c whose loss is still finite; of it the gain of the longest warmup over none. A network that has died
    has a finite loss, too: the largest c that trains (to half the loss of guessing) is given beside it.
    """
    largest: dict[str, dict[str, list[float]]] = {}
    gains: dict[str, list[float]] = {}
    cs = [2.0**x for x in range(octaves)]
    for start in ("sp", "mup"):
        task = full_batch(start)
        for kind in ("finite", "trained"):
            largest[f"{start}, {kind}"] = {f"warmup {w}": [] for w in warmups}
        for seed in seeds:
            sharp = sharpness_of(task, seed)
            cells = [(w, c) for w in warmups for c in cs]
            shape = torch.arange(1, steps + 1)[:, None] / torch.tensor([w for w, _ in cells])
            run = descend(task, [seed] * len(cells), torch.tensor([c / sharp for _, c in cells]) * shape.clamp(max=1))
            finite = run.losses.isfinite().all(0) & run.thetas[-1].isfinite().all(1)
            for kind, good in (("finite", finite), ("trained", finite & (run.losses[-1] < CHANCE / 2))):
                for w in warmups:
                    fine = [c for (v, c), x in zip(cells, good.tolist(), strict=True) if v == w and x]
                    largest[f"{start}, {kind}"][f"warmup {w}"].append(max(fine, default=0.0))
        none, longest = (largest[f"{start}, finite"][f"warmup {w}"] for w in (min(warmups), max(warmups)))
        gains[start] = [b / a for a, b in zip(none, longest, strict=True)]
    return {"largest_c_by_seed": largest, "gain_by_seed": gains}, {
        "standard: at least 4 times in every seed": min(gains["sp"]) >= 4,
        "muP: at most 4 times": max(gains["mup"]) <= 4,
        "muP: less than standard in every seed": all(m < s for m, s in zip(gains["mup"], gains["sp"], strict=True)),
    }


@claim(
    "kalra2024/final-norm",
    "A final normalisation makes a language model start flat, and then sharpen",
    where="Figs. 17 and 18",
    sure="source",
    shows=["without_over_with"],
    unlike=(
        "the model without the norm starts 12 to 28 times as sharp and falls, and with it all rise by "
        "step 10; at step 5, fixed as 'first' before the run, one start of three is still at 0.98"
    ),
)
def final_norm(seeds: Seeds = (0, 1, 2), read: Sequence[int] = (5, 10, 20, 40, 60)) -> tuple[Numbers, Holds]:
    """A pre-norm character model (2 blocks, width 64, context 64) on 16 windows of text, with and without LayerNorm
    before the head; gradient descent at lr = 0.5 / sharpness of the start for 60 steps. "First" means by step 5.
    """
    first: dict[str, list[float]] = {}
    curves: dict[str, list[list[float]]] = {}
    for name, norm in (("with", True), ("without", False)):
        task = small_text(norm)
        first[name] = [sharpness_of(task, seed) for seed in seeds]
        descent = descend(task, seeds, constant([0.5 / s for s in first[name]], max(read)), at=read)
        curves[name] = [
            [sharpness_of(task, seed, theta) / s for theta in descent.thetas[:, i]]
            for i, (seed, s) in enumerate(zip(seeds, first[name], strict=True))
        ]
    ratio = [a / b for a, b in zip(first["without"], first["with"], strict=True)]
    numbers = {"sharpness_at_start": first, "without_over_with": spread(ratio), "read_at": list(read)}
    return numbers | {"sharpness_over_start": curves}, {
        "without it at least 10 times as sharp": min(ratio) >= 10,
        "with it the sharpness rises first": all(row[0] > 1 for row in curves["with"]),
        "without it it falls first": all(row[0] < 1 for row in curves["without"]),
    }
