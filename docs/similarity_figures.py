"""The pictures of the page on similarity: `python docs/similarity_figures.py` writes docs/images/similarity_*.svg."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import lrscope as lrs
from lrscope.reports.figures.style import colour
from lrscope.similarity import cca, cka, compare, procrustes, record, svcca

IMAGES = Path(__file__).parent / "images"
D = 40
DEPTHS = {"svcca": {}, "cka": {"debiased": True}}


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(figure: Figure) -> None:
    """Two independent Gaussians: everything above 0 is chance."""
    ratios = np.array([1.2, 1.5, 2, 3, 5, 7, 10, 20, 40, 100])
    pairs = [(gaussian(1, int(D * r), D), gaussian(2, int(D * r), D)) for r in ratios]
    results = [cca(x, y, null=60) for x, y in pairs]
    ax = figure.subplots()
    low, high = ([r.null.mean + s * 2 * r.null.std for r in results if r.null] for s in (-1, 1))
    ax.fill_between(ratios, low, high, color=colour("interval"), label="permutation null of CCA, ± 2 sd")
    ax.plot(ratios, [float(r) for r in results], color=colour("planned"), marker="o", label="CCA")
    ax.plot(ratios, [r.chance for r in results], color=colour("ink"), linestyle=":", label="result.chance of CCA")
    shape = [float(procrustes(x, y)) for x, y in pairs]
    ax.plot(ratios, shape, color=colour("other"), marker="D", linestyle="-.", label="Procrustes")
    ax.plot(ratios, [float(cka(x, y)) for x, y in pairs], color=colour("default"), marker="s", label="CKA")
    debiased = [float(cka(x, y, debiased=True)) for x, y in pairs]
    ax.plot(ratios, debiased, color=colour("cosine"), marker="^", linestyle="--", label="CKA, debiased")
    ax.axvline(10, color=colour("rule"), linewidth=1)
    ax.text(10.3, 0.97, "rule: 10 per unit", color=colour("muted"), va="top")
    ax.set_xscale("log")
    ax.set_xticks([1.2, 2, 5, 10, 20, 50, 100], ["1.2", "2", "5", "10", "20", "50", "100"])
    ax.minorticks_off()
    ax.set_ylim(-0.05, 1)
    ax.set_xlabel("examples per unit, N / D")
    ax.set_ylabel("similarity of unrelated data")
    ax.legend(frameon=False, fontsize=8)


def quiet_units(figure: Figure) -> None:
    """The same five directions in both, and ever more units of their own with a ten-thousandth of the variance."""
    counts = [0, 2, 5, 10, 20, 40]
    signal = gaussian(3, 4000, 5)
    pairs = [tuple(torch.cat([signal, 0.01 * gaussian(s + 10 * c, 4000, c)], dim=1) for s in (4, 5)) for c in counts]
    ax = figure.subplots()
    for label, name, mark, measure in (
        ("CCA", "planned", "o", cca),
        ("SVCCA, 99 %", "cosine", "^", svcca),
        ("CKA", "default", "s", cka),
    ):
        line = "--" if name == "cosine" else "-"
        ax.plot(
            counts, [float(measure(*p)) for p in pairs], color=colour(name), marker=mark, linestyle=line, label=label
        )
    ax.set_ylim(0, 1.05)
    ax.set_xlabel("units of their own, each with 1/10,000 of the variance")
    ax.set_ylabel("similarity")
    ax.legend(frameon=False, fontsize=8, loc="lower left")


def layers(figure: Figure) -> None:
    task = lrs.tasks.digits(model="cnn", steps=150)
    models = {}
    for seed in (0, 1):
        keep = partial(models.__setitem__, f"seed {seed}")
        lrs.train(
            task, "adamw", lrs.schedules.Linear(1e-2, 0.0, 150), 150, seed=seed, on_step=lambda s, k=keep: k(s.model)
        )
    found = record(models, task)
    for ax, (measure, options) in zip(figure.subplots(1, 2), DEPTHS.items(), strict=True):
        a, b = found.values()
        compare(a, b, measure, spatial="average", names=tuple(found), **options).plot(ax)  # type: ignore[arg-type]


FIGURES = {"samples": (samples, (6.2, 3.9)), "quiet_units": (quiet_units, (5.4, 3.0)), "layers": (layers, (9.6, 4.2))}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", lrs.LrscopeWarning)
    mpl.rcParams |= {"svg.hashsalt": "similarity", "axes.spines.top": False, "axes.spines.right": False}
    for name, (draw, size) in FIGURES.items():
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        path = IMAGES / f"similarity_{name}.svg"
        figure.savefig(path, metadata={"Date": None})
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
