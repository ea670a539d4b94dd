"""Checks of li2019 on models that are exactly known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lrscope.papers.claim import Curves, Holds, Numbers, claim
from lrscope.solvable.last_layer import LastLayer, run_together
from lrscope.solvable.scale_invariant import NormEquilibrium, ScaleInvariant


def random_gradients(
    seeds: Sequence[int], momenta: Sequence[float] = (0.0, 0.5, 0.9), dim: int = 2000, steps: int = 6000
) -> tuple[Numbers, Holds]:
    """Part of equilibrium-angle: random tangential gradients, lr 0.1, decay 0.05, from half the equilibrium norm."""
    lr, angle, norm, exact = 0.1, {}, {}, {}
    for momentum in momenta:
        model = NormEquilibrium(0.05, momentum)
        walks = [model.simulate(lr, steps, dim=dim, norm=model.norm(lr) / 2, seed=seed) for seed in seeds]
        leading_angle = math.sqrt(2 * lr * model.weight_decay / (1 + momentum))
        leading_norm4 = lr * model.gradient / (2 * model.weight_decay * (1 - momentum))
        half = steps // 2
        angle[momentum] = [float(w.angle[half:].mean()) / leading_angle for w in walks]
        norm[momentum] = [float(w.norm[half:].pow(4).mean()) / leading_norm4 for w in walks]
        exact[momentum] = [float(w.angle[half:].mean()) / model.angle(lr) for w in walks]
    numbers = {"angle_over_predicted": angle, "norm4_over_predicted": norm, "angle_over_exact": exact}
    return numbers, {
        "random gradients: angle within 1 %": _within(angle, 0.01),
        "random gradients: fourth power of the norm within 1 %": _within(norm, 0.01),
    }


@claim(
    "li2019/last-layer",
    "Normalisation alone and weight decay alone converge; both together do not",
    where="abstract, the toy problem",
    sure="source",
    shows=["mean_error_of_last_tenth"],
)
def last_layer(steps: int = 40_000, seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """With m = 20, B = 100, lr 0.1, weight decay 0.05; measured floors beside the predicted ones."""
    rows, flat, ejected, curves = [], [], [], {}
    predicted = {}
    for seed in seeds:
        both = LastLayer(weight_decay=0.05, seed=seed)
        models = [
            replace(both, normalised=False),
            replace(both, weight_decay=0.0),
            both,
            replace(both, weight_decay=0.005),
        ]
        error = run_together(models, steps).error
        rows.append(error[-steps // 10 :].mean(0).tolist())
        if seed == seeds[0]:
            block = max(1, steps // 200)
            means = error[: len(error) // block * block].reshape(-1, block, len(models)).mean(1)
            curves = {"step": [block * (i + 0.5) for i in range(len(means))], "error": means.T.tolist()}
        late = error[steps // 10 :]
        halves = late.reshape(len(late), -1)[: len(late) // 9 * 9].reshape(9, -1, len(models)).mean(1)
        flat.append(float(halves[:, 2].max() / halves[:, 2].min()))
        window = round(3 / (both.lr * both.weight_decay))
        highest = late[:, 2].unfold(0, window, 1).amax(1)
        ejected.append(float(highest.min()) / (math.sqrt(both.lr * both.weight_decay / 2) / math.pi))
        predicted = {"wd": models[0].error_floor, "both": both.error_floor, "both, wd 0.005": models[3].error_floor}
    numbers = {
        "columns": ["wd only", "norm only", "both", "both, wd 0.005"],
        "mean_error_of_last_tenth": rows,
        "predicted_floors": predicted,
        "largest_over_smallest_tenth": flat,
        "smallest_window_peak_over_bound": ejected,
    }
    return (
        numbers,
        {
            "both: error at least 3 times that of each alone": all(r[2] >= 3 * max(r[0], r[1]) for r in rows),
            "both: flat between 10 % and 100 % of the run (tenths within 10 %)": max(flat) < 1.1,
            "both: every window of 3 / (lr wd) steps has an error of sqrt(lr wd / 2) / pi": min(ejected) >= 1,
        },
        curves,
    )


@claim(
    "li2019/never-settles",
    "Full-batch training of a scale-invariant loss with weight decay never settles",
    where="arXiv 2010.02916, full-batch descent",
    sure="source",
    shows=["largest_late_loss"],
)
def never_settles(steps: int = 20_000) -> tuple[Numbers, Holds, Curves]:
    """x^2 / (x^2 + y^2) from (1, 0.5), lr = wd = 0.05."""
    spikes, curves = {}, {}
    for decay in (0.05, 0.0):
        run = ScaleInvariant((1.0, 0.5), decay).run(0.05, steps)
        block = max(1, steps // 200)  # the largest of each, as a spike lasts a few steps
        curves[f"weight decay {decay:g}"] = [float(part.max()) for part in run.loss.split(block)]
        curves["block"] = block
        late = run.loss[run.steps // 2 :]
        above = late > 1e-3
        spikes[decay] = (float(late.max()), int((above[1:] != above[:-1]).sum()))
    numbers = {
        "largest_late_loss": {str(k): v[0] for k, v in spikes.items()},
        "late_crossings_of_0.001": {str(k): v[1] for k, v in spikes.items()},
    }
    return (
        numbers,
        {
            "weight decay: the loss comes back above 0.1 in the second half": spikes[0.05][0] > 0.1,
            "weight decay: at least 10 crossings of 0.001 in the second half": spikes[0.05][1] >= 10,
            "no weight decay: none": spikes[0.0][1] == 0 and spikes[0.0][0] < 1e-3,
        },
        curves,
    )


@claim(
    "li2019/intrinsic-lr",
    "Only lr x weight decay matters: (lr, wd, weights) and (4 lr, wd / 4, 2 weights) train alike",
    where="arXiv 2010.02916, Lemma 2.4",
    sure="source",
    shows=["largest_gap"],
)
def intrinsic_lr(steps: int = 2000, seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """Gradient descent by autograd on x^2 / (x^2 + y^2); SGD on the normalised last layer, and how it turns.

    Losses below 1e-290 count as 0: among subnormal numbers even a power of two rounds.
    """
    plain = _descend((1.0, 0.5), 0.05, 0.05, steps)
    scaled = _descend((2.0, 1.0), 0.2, 0.0125, steps)
    gap = float((plain - scaled).abs().max())
    angles = []
    for seed in seeds:
        one = LastLayer(lr=0.1, weight_decay=0.04, seed=seed)
        other = replace(one, lr=0.4, weight_decay=0.01, scale=2.0)
        together = run_together([one, other], steps)
        gap = max(gap, float((together.error[:, 0] - together.error[:, 1]).abs().max()))
        angles.append(float(together.angle[steps // 2 :, 1].mean()))
    predicted = math.sqrt(2 * 0.4 * 0.01)
    return (
        {"largest_gap": gap, "angle_per_step": angles, "predicted_angle": predicted},
        {
            "identical bit for bit": gap == 0.0,
            "angle per step within 5 % of sqrt(2 lr wd)": all(abs(a / predicted - 1) < 0.05 for a in angles),
        },
        {"lr 0.05, wd 0.05": plain[:400].tolist(), "lr 0.2, wd 0.0125": scaled[:400].tolist()},
    )


@claim(
    "li2019/relative-clipping",
    "Relative clipping keeps the norm steady under rare, huge gradients",
    where="arXiv 2202.00980, relative clipping",
    sure="source",
    shows=["largest_over_median_norm"],
)
def clipping(steps: int = 20_000, dim: int = 200, seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """Random tangential gradients, 0.5 % of them 50 times as long; lr 0.1, weight decay 0.01."""
    model, lr = NormEquilibrium(0.01), 0.1
    ratio, share, curves = {}, {}, {}
    for clip in (None, 4.0, 1.0):
        walks = [model.simulate(lr, steps, dim=dim, spikes=0.005, clip=clip, seed=seed) for seed in seeds]
        late = [w.norm[steps // 2 :] for w in walks]
        ratio[str(clip)] = [float(n.max() / n.median()) for n in late]
        block = max(1, len(late[0]) // 200)  # the largest of each, as a jump decays over hundreds of steps
        curves[str(clip)] = [float(part.max() / late[0].median()) for part in late[0].split(block)]
        curves["block"] = block
        share[str(clip)] = [w.clipped for w in walks]
    return (
        {"largest_over_median_norm": ratio, "share_clipped": share},
        {
            "unclipped: the norm jumps by more than 10 %": min(ratio["None"]) > 1.1,
            "C = 4: it stays within 2 %": max(ratio["4.0"]) < 1.02,
            "C = 4: only the huge ones are clipped (below 1 %)": max(share["4.0"]) < 0.01,
            "C = 1: more than 90 % are clipped, so that is not a setting to use": min(share["1.0"]) > 0.9,
        },
        curves,
    )


@claim(
    "li2019/clipping-is-relative",
    "Relative clipping respects the rescaling: with it, too, only lr x weight decay matters",
    where="arXiv 2202.00980, relative clipping, and Lemma 2.4",
    sure="inferred",
    shows=["largest_gap", "share_clipped"],
)
def relative(steps: int = 5000, dim: int = 200, seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """The walk of relative-clipping at C = 4, and the same from weights twice as large at 4 lr and decay / 4: norms
    over that of the start, and angles per step.
    """
    lr, gaps, shares, curves = 0.1, [], [], {}
    one, other = NormEquilibrium(0.01), NormEquilibrium(0.0025)
    for seed in seeds:
        options = {"dim": dim, "spikes": 0.005, "clip": 4.0, "seed": seed}
        walks = [one.simulate(lr, steps, norm=1.0, **options), other.simulate(4 * lr, steps, norm=2.0, **options)]
        norms = [walk.norm / walk.norm[0] for walk in walks]
        gaps.append(max(float((a - b).abs().max()) for a, b in (norms, [walk.angle for walk in walks])))
        shares.append([walk.clipped for walk in walks])
        if seed == seeds[0]:
            curves = {
                "lr 0.1, wd 0.01": norms[0].tolist(),
                "lr 0.4, wd 0.0025, from twice the norm": norms[1].tolist(),
            }
    return (
        {"largest_gap": gaps, "share_clipped": shares},
        {
            "identical bit for bit": max(gaps) == 0.0,
            "some steps are clipped": min(min(pair) for pair in shares) > 0,
        },
        curves,
    )


def _descend(begin: tuple[float, float], lr: float, decay: float, steps: int) -> Tensor:
    """Losses of gradient descent by autograd, ``(T+1,)``."""
    theta, losses = torch.tensor(begin, dtype=torch.float64, requires_grad=True), []
    optimizer = torch.optim.SGD([theta], lr=lr, weight_decay=decay)
    for _ in range(steps + 1):
        optimizer.zero_grad()
        loss = theta[0] ** 2 / (theta[0] ** 2 + theta[1] ** 2)
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
    values = torch.stack(losses)
    return values.masked_fill(values < 1e-290, 0.0)


def _within(ratios: dict[float, list[float]], share: float) -> bool:
    return all(abs(r - 1) < share for each in ratios.values() for r in each)
