"""Checks of kalra2024: up to which learning rate Adam, GI-Adam, RI-Adam and RAdam train, and how they fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from lrscope.papers.claim import Curves, Holds, Numbers, claim
from lrscope.papers.kalra2024.grids import PEAKS, Grid, grid
from lrscope.papers.kalra2024.networks import FCN, ResidualMLP, images, minibatches
from lrscope.tasks import Batches

Seeds = Sequence[int]


@cache
def residual(optimizer: str, warmup: int, seeds: tuple[int, ...], peaks: tuple[float, ...], steps: int) -> Grid:
    """A residual network with LayerNorm, where several checks look."""
    return grid(minibatches(ResidualMLP), optimizer, warmup=warmup, seeds=seeds, peaks=peaks, steps=steps)


@cache
def plain(optimizer: str, warmup: int, seeds: tuple[int, ...], peaks: tuple[float, ...], steps: int) -> Grid:
    """Ten layers without normalisation."""
    return grid(minibatches(FCN), optimizer, warmup=warmup, seeds=seeds, peaks=peaks, steps=steps)


def _table(grids: dict[str, Grid]) -> Numbers:
    return {
        "peaks": next(iter(grids.values())).peaks.tolist(),
        "last_good_peak": {name: g.last_good() for name, g in grids.items()},
        "last_good_peak_by_seed": {name: g.last_good_by_seed() for name, g in grids.items()},
        "accuracy_by_peak_and_seed": {name: g.accuracy.tolist() for name, g in grids.items()},
    }


@claim(
    "kalra2024/gi-adam-boundary",
    "GI-Adam moves the learning rate up to which training works as far up as a warmup does",
    where="Figs. 23 to 25 and the authors' tables",
    sure="source",
    shows=["last_good_peak"],
)
def failure_boundary(
    seeds: Seeds = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> tuple[Numbers, Holds]:
    """A residual network with LayerNorm (4 blocks, width 64), cross-entropy, batches of 64, 400 steps with a cosine
    to a tenth, ten peaks; test accuracy at the end. A peak is good where the mean over seeds is above 90 %.
    """
    settings = {"Adam": ("adam", 1), "Adam, warmup 32": ("adam", 32), "Adam, warmup 100": ("adam", 100)}
    settings |= {"GI-Adam": ("giadam", 1), "GI-Adam, warmup 100": ("giadam", 100), "RAdam": ("radam", 1)}
    found = {k: residual(o, w, tuple(seeds), tuple(peaks), steps) for k, (o, w) in settings.items()}
    good = {name: g.last_good() for name, g in found.items()}
    return _table(found), {
        "at 0.256 Adam without warmup is below 60 %": found["Adam"].at(0.256) < 0.6,
        "at 0.256 Adam with 32 steps of warmup is above 95 %": found["Adam, warmup 32"].at(0.256) > 0.95,
        "at 0.256 GI-Adam without warmup is above 90 %": found["GI-Adam"].at(0.256) > 0.9,
        "last good peak of GI-Adam at least twice Adam's": good["GI-Adam"] >= 2 * good["Adam"],
        "that of Adam with 100 steps of warmup at least four times": good["Adam, warmup 100"] >= 4 * good["Adam"],
    }


@claim(
    "kalra2024/adam-fails-quietly",
    "Adam past the failure boundary fails without ever diverging",
    where="Fig. 26",
    sure="source",
    shows=["largest_loss"],
)
def never_diverges(
    seeds: Seeds = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> tuple[Numbers, Holds, Curves]:
    """The runs of gi-adam-boundary, peaks up to 2.048: every loss and every parameter at the end."""
    names = {"Adam": "adam", "GI-Adam": "giadam", "RAdam": "radam"}
    found = {k: residual(o, 1, tuple(seeds), tuple(peaks), steps) for k, o in names.items()}
    numbers = {
        "largest_peak": max(peaks),
        "largest_loss": {k: float(g.largest_loss.max()) for k, g in found.items()},
        "accuracy_at_largest_peak": {k: g.accuracy[-1].tolist() for k, g in found.items()},
    }
    holds = {f"{name}: no number that is not finite": bool(g.finite.all()) for name, g in found.items()}
    losses = {name: g.largest_loss.tolist() for name, g in found.items()}
    return numbers, holds, {"peaks": list(peaks), "largest_loss_by_peak_and_seed": losses}


@claim(
    "kalra2024/random-second-moment",
    "A random second moment of the right size helps as the gradient's own does",
    where="Fig. 31",
    sure="source",
    shows=["last_good_peak"],
)
def random_second_moment(
    seeds: Seeds = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> tuple[Numbers, Holds]:
    """A plain network of ten layers without normalisation, the loop of gi-adam-boundary."""
    names = {"Adam": "adam", "GI-Adam": "giadam", "RI-Adam": "riadam", "RAdam": "radam"}
    found = {k: plain(o, 1, tuple(seeds), tuple(peaks), steps) for k, o in names.items()}
    ours, theirs = found["RI-Adam"].last_good(), found["GI-Adam"].last_good()
    return _table(found), {
        "last good peak of RI-Adam within a factor of 2 of GI-Adam's": 0 < theirs <= 2 * ours <= 4 * theirs
    }


@claim(
    "kalra2024/adam-warmup-range",
    "A longer warmup raises the largest learning rate that Adam trains with",
    where="heat maps of Adam",
    sure="source",
    shows=["last_good_peak"],
    unlike=(
        "without normalisation the plain network fails late, at the peak itself, which a warmup only "
        "puts off; with normalisation a warmup does what the paper says (kalra2024/gi-adam-boundary)"
    ),
)
def without_normalisation(
    seeds: Seeds = (0, 1, 2), peaks: Sequence[float] = PEAKS, warmups: Sequence[int] = (1, 32, 100, 250)
) -> tuple[Numbers, Holds]:
    """The plain network of random-second-moment, 500 steps. The paper finds so for networks with
    normalisation, and so do we (gi-adam-boundary).
    """
    found = {f"warmup {w}": plain("adam", w, tuple(seeds), tuple(peaks), 500) for w in warmups}
    good = [g.last_good() for g in found.values()]
    return _table(found), {f"last good peak at warmup {max(warmups)} above that without": good[-1] > good[0]}


@claim(
    "kalra2024/radam-range",
    "Without warmup RAdam tolerates smaller learning rates than GI-Adam",
    where="the authors' tables of WRN-16-4 on CIFAR-10",
    sure="source",
    shows=["last_good_peak"],
    unlike=(
        "RAdam's first five updates are not divided by the second moment, so how far it gets depends on "
        "the size of the gradients, which here are small"
    ),
)
def radam_below_giadam(
    seeds: Seeds = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> tuple[Numbers, Holds]:
    """The residual network of gi-adam-boundary. In the authors' tables (WRN-16-4, CIFAR-10) RAdam fails from half
    GI-Adam's on.
    """
    found = {k: residual(o, 1, tuple(seeds), tuple(peaks), steps) for k, o in (("GI", "giadam"), ("R", "radam"))}
    return _table(found), {
        "last good peak of RAdam below GI-Adam's": found["R"].last_good() < found["GI"].last_good()
    }


@claim(
    "kalra2024/peak-not-warmup",
    "Below the failure boundary the peak learning rate decides the quality, and the length of the warmup does not",
    where="the first of the paper's findings; heat maps",
    sure="source",
    shows=["variance_over_peaks_over_that_over_warmups"],
)
def peak_not_warmup(
    seeds: Seeds = (0, 1, 2),
    peaks: Sequence[float] = (0.0005, 0.002, 0.008, 0.032),
    warmups: Sequence[int] = (1, 32, 100),
    num_train: int = 100,
    steps: int = 400,
) -> tuple[Numbers, Holds]:
    """The residual network of gi-adam-boundary with Adam on 100 images, which leave room between good and bad, judged
    by 1,697 others; peaks at least a factor of 2 below the boundary. Variances of test accuracy between peaks and
    between warmups, each of means over the other and over seeds.
    """
    x, y = images()
    task = replace(
        minibatches(ResidualMLP),
        train=Batches(x[:num_train], y[:num_train], batch_size=50, shuffle=True, drop_last=True),
        evaluate=Batches(x[num_train:], y[num_train:], batch_size=len(y) - num_train),
    )
    found = {w: grid(task, "adam", warmup=w, peaks=peaks, seeds=tuple(seeds), steps=steps) for w in warmups}
    cells = 100 * np.stack([g.accuracy for g in found.values()])  # (warmups, peaks, seeds)
    over_peaks, over_warmups = (float(cells.mean((axis, 2)).var(ddof=1)) for axis in (0, 1))
    ratio = over_peaks / over_warmups
    numbers = {
        "peaks": list(peaks),
        "accuracy_by_peak_and_seed": {f"warmup {w}": g.accuracy.tolist() for w, g in found.items()},
        "variance_over_peaks": over_peaks,
        "variance_over_warmups": over_warmups,
        "variance_over_peaks_over_that_over_warmups": ratio,
    }
    return numbers, {"variance over peaks more than 5 times that over warmups": ratio > 5}
