"""Runs that say themselves what happens in them: the ground truth of the detectors.

Three sources. *Drawn* runs put jumps of known size, length and place on a falling loss with batch noise. *Simulated*
runs step the normal form of self-stabilisation, whose instabilities are events of its own state. *Solvable* runs are
exact trainings of the uv model. Every one is a :class:`~lrscope.records.Run`, as a recorder would have written it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lrscope.records import Run
from lrscope.solvable import UV

STEPS = 1000


@dataclass(frozen=True)
class Labelled:
    """A run and the truth about it.

    Attributes:
        family: What kind of run, for tables.
        catapults: First and last step of each.
        edge: First and last step at the edge of stability, or ``None``.
        trend: What the sharpness does before it is met, if the run was made to show it.
    """

    family: str
    run: Run
    catapults: tuple[tuple[int, int], ...] = ()
    edge: tuple[int, int] | None = None
    trend: str | None = None


def record(loss, sharpness=None, lr=None, *, every=1, status="finished", threshold=2.0) -> Run:
    """A run with a loss at every step and readings at every ``every``-th."""
    rows = []
    for t, value in enumerate(loss):
        row = {"step": t, "loss": float(value)}
        if lr is not None:
            row["lr"] = float(lr[t])
        if sharpness is not None and t % every == 0:
            row["sharpness"] = float(sharpness[t])
            if lr is not None:
                row["headroom"] = float(lr[t] * sharpness[t] / threshold)
        rows.append(row)
    return Run("labelled", {}, tuple(rows), status)


def falling(rng: np.random.Generator, steps: int = STEPS) -> np.ndarray:
    """Mean losses of a training without events: an exponential or a power law, down to a floor."""
    t = np.arange(steps)
    floor = rng.uniform(0.0, 0.3)
    if rng.random() < 0.5:
        return floor + (1 - floor) * np.exp(-t / rng.uniform(100, 600))
    return floor + (1 - floor) * (1 + t / rng.uniform(20, 100)) ** -rng.uniform(0.3, 1.0)


def noisy(rng, mean, sigma):
    return mean * np.exp(sigma * rng.standard_normal(len(mean)) - sigma**2 / 2)


def drawn_catapult(rng, sigma, ratio, length, every=None) -> Labelled:
    """A jump by ``ratio`` over about ``length`` steps: exponential growth, a faster fall, and sharpness that falls."""
    mean, t = falling(rng), np.arange(STEPS)
    onset = int(rng.integers(60, STEPS - 150 - length))
    rise = max(2, int(0.6 * length))
    height = np.zeros(STEPS)
    height[onset : onset + rise] = (ratio - 1) * np.exp(np.linspace(-math.log(20 * ratio), 0, rise))
    height[onset + rise : onset + length] = (ratio - 1) * np.exp(np.linspace(0, -math.log(20 * ratio), length - rise))
    before = rng.uniform(20, 100)
    fell = rng.uniform(0.3, 0.8)
    sharpness = before * np.where(t < onset + rise, 1.0, fell) * np.exp(0.01 * rng.standard_normal(STEPS))
    lr = np.full(STEPS, 2 * rng.uniform(1.05, 1.8) / before)
    loss = noisy(rng, mean * (1 + height), sigma)
    run = record(loss, sharpness if every else None, lr if every else None, every=every or 1)
    visible = np.flatnonzero(height > 0.1)
    return Labelled(f"drawn, batch noise {sigma:g}", run, ((int(visible[0]), int(visible[-1])),))


def simulated(rng, *, kind: str, sigma: float = 0.0, every: int = 1, steps: int = STEPS) -> Labelled:
    r"""The normal form of self-stabilisation: displacement x along the sharpest direction, sharpness S.

    x' = (1 - lr S) x, S' = S + lr (a - b x^2) (Damian et al. 2023, arXiv 2209.15594), with the loss of the rest
    beside S x^2 / 2. ``kind``: ``"warmup"``, a linear ramp into a constant sharpness; ``"edge"``, progressive
    sharpening into a constant rate; ``"decay"``, the same, and a rate that falls to zero from 70 % on; ``"below"``,
    which never meets the limit.
    """
    lr0, b = 0.02, 100.0
    S = rng.uniform(60, 80) if kind in ("edge", "decay") else 2 / lr0 * rng.uniform(1.3, 2.2)
    a = {"warmup": 0.0, "below": rng.choice([-1.0, 0.0, 1.0])}.get(kind, rng.uniform(10, 40))
    if kind == "below":
        S = rng.uniform(30, 50)
    x, t = 1e-3, np.arange(steps)
    lr = np.full(steps, lr0)
    if kind == "warmup":
        lr = lr0 * np.minimum(1, (t + 1) / rng.uniform(100, 300))
    if kind == "decay":
        lr = lr0 * np.clip((steps - t) / (0.3 * steps), 0.001, 1)
    rest = 0.1 * (0.2 + falling(rng, steps))
    loss, sharpness, share = np.empty(steps), np.empty(steps), np.empty(steps)
    for i in range(steps):
        own = S * x * x / 2
        loss[i], sharpness[i], share[i] = rest[i] + own, S, own / rest[i]
        x, S = (1 - lr[i] * S) * x, S + lr[i] * (a - b * x * x * S)
        x = math.copysign(max(abs(x), 1e-3), x)  # batches and other directions always excite it a little
    events = tuple((p, q) for p, q in _events(share, 0.3) if sharpness[q] < 0.97 * sharpness[p])
    headroom = lr * sharpness / 2
    met = np.flatnonzero(headroom >= 1)
    edge = None
    if kind in ("edge", "decay") and len(met):
        edge = (int(met[0]), steps - 1 if kind == "edge" else int(np.flatnonzero(headroom >= 0.9)[-1]))
    trend = {"edge": "sharpening", "decay": "sharpening"}.get(kind)
    if kind == "below":
        trend = _trend(sharpness)
    run = record(noisy(rng, loss, sigma), sharpness, lr, every=every)
    return Labelled(f"simulated, {kind}", run, events, edge, trend)


def _trend(sharpness: np.ndarray) -> str:
    ratio = sharpness[-1] / sharpness[0]
    return "sharpening" if ratio > 1.1 else "reduction" if ratio < 1 / 1.1 else "constant"


def _events(share: np.ndarray, level: float) -> tuple[tuple[int, int], ...]:
    """Stretches in which the unstable direction holds more than ``level`` of the rest of the loss, and that end."""
    found, start = [], None
    for t, value in enumerate(share):
        if start is None and value > level:
            start = t
        elif start is not None and value < level / 3:
            found.append((start, t))
            start = None
    return tuple(found)


def solvable(rng, *, phase: str) -> Labelled:
    """The uv model, exactly, on top of a loss that falls otherwise."""
    uv = UV(int(rng.integers(200, 4000)), seed=int(rng.integers(1000)))
    c = {"lazy": (0.5, 1.8), "catapult": (2.3, 3.5), "divergent": (4.2, 4.8)}[phase]
    lr = float(rng.uniform(*c)) / uv.kernel
    trajectory = uv.run(lr, 300)
    loss = trajectory.loss.numpy()
    sharpness = trajectory.curvature.numpy()
    last = int(np.isnan(loss).argmax()) if np.isnan(loss).any() else len(loss)
    loss, sharpness = loss[:last], sharpness[:last]
    level = loss[0]
    lead = 20  # a while of the same loss before, as of a training that has just raised its rate
    more = max(0, 120 - len(loss))
    # From the level on only what is above 1e-3 of it counts: no real loss falls by twenty orders of magnitude.
    loss = np.concatenate([np.full(lead, level), np.maximum(loss, 1e-3 * level), np.full(more, 1e-3 * level)])
    sharpness = np.concatenate([np.full(lead, sharpness[0]), sharpness, np.full(more, sharpness[-1])])
    rates = np.where(np.arange(len(loss)) < lead, 0.1 * lr, lr)
    above = np.flatnonzero(loss > 1.15 * level)
    jumps = ((int(above[0]), int(above[-1])),) if phase == "catapult" and len(above) else ()
    status = "diverged" if phase == "divergent" else "finished"
    return Labelled(f"solvable, {phase}", record(loss, sharpness, rates, status=status), jumps)


def quiet(rng, sigma: float) -> Labelled:
    return Labelled(f"nothing, batch noise {sigma:g}", record(noisy(rng, falling(rng), sigma)))


def flat(rng, sigma: float) -> Labelled:
    return Labelled("flat", record(noisy(rng, np.ones(STEPS), sigma)))


def bad_batches(rng, sigma: float, in_a_row: int = 1, *, readings: bool = True) -> Labelled:
    """Losses of single batches, or of a few in a row, that are 3 to 30 times the others."""
    loss = noisy(rng, falling(rng), sigma)
    for at in rng.integers(20, STEPS - 20, 8):
        loss[at : at + in_a_row] *= rng.uniform(3, 30)
    sharpness = np.full(STEPS, 50.0) * np.exp(0.01 * rng.standard_normal(STEPS))
    run = record(loss, sharpness if readings else None, np.full(STEPS, 0.02), every=5)
    return Labelled(f"bad batches, {in_a_row} in a row{'' if readings else ', no sharpness'}", run)


def heavy_tailed(rng, sigma: float) -> Labelled:
    """Batch noise with the tails of Student's t with three degrees of freedom."""
    return Labelled("heavy-tailed noise", record(falling(rng) * np.exp(sigma * rng.standard_t(3, STEPS))))


def drift(rng, sigma: float, *, back: bool) -> Labelled:
    """A loss that climbs by half to three times over hundreds of steps, and comes back as slowly or not at all."""
    t, middle, width = np.arange(2000), rng.uniform(800, 1200), rng.uniform(350, 500)
    shape = np.exp(-0.5 * ((t - middle) / width) ** 2) if back else 1 / (1 + np.exp(-(t - middle) / (0.5 * width)))
    mean = falling(rng, 2000)[400] * (1 + rng.uniform(0.5, 2.0) * shape)
    return Labelled("slow drift", record(noisy(rng, mean, sigma)))


def divergence(rng, sigma: float) -> Labelled:
    """A loss that climbs exponentially, without end."""
    at, loss = int(rng.integers(200, 800)), noisy(rng, falling(rng), sigma)
    grown = loss[: at + 60].copy()
    grown[at:] *= np.exp(np.arange(60) / rng.uniform(4, 10))
    return Labelled("divergence", record(grown, status="diverged"))


def passing(rng) -> Labelled:
    """Headroom on its way through the limit and beyond, or back below it, and one that stays a little below."""
    t = np.arange(200)
    kind = rng.integers(3)
    if kind == 0:
        headroom = np.linspace(0.2, rng.uniform(3, 6), 200)
    elif kind == 1:
        headroom = np.linspace(rng.uniform(3, 6), 0.2, 200)
    else:
        headroom = np.full(200, rng.uniform(0.3, 0.85))
    headroom = headroom * np.exp(0.01 * rng.standard_normal(200))
    return Labelled("passing the limit", record(falling(rng, 200), 100 * headroom, np.full(200, 0.02) + 0 * t))


def all_runs(copies: int = 10, seed: int = 0) -> Iterator[Labelled]:
    """The whole collection: 54 settings, each ``copies`` times."""
    rng = np.random.default_rng(seed)
    for _ in range(copies):
        for sigma in (0.0, 0.02, 0.1, 0.3):
            for ratio, length in ((1.5, 60), (3.0, 10), (3.0, 30), (10.0, 30), (100.0, 80)):
                yield drawn_catapult(rng, sigma, ratio, length, every=int(rng.choice([0, 1, 10])) or None)
            yield quiet(rng, sigma)
            yield flat(rng, sigma)
        for kind in ("warmup", "edge", "decay", "below"):
            yield simulated(rng, kind=kind)
            yield simulated(rng, kind=kind, sigma=0.03, every=5)
        for phase in ("lazy", "catapult", "divergent"):
            yield solvable(rng, phase=phase)
        for sigma in (0.05, 0.2):
            yield bad_batches(rng, sigma)
            yield bad_batches(rng, sigma, 2)
            yield bad_batches(rng, sigma, 2, readings=False)
            yield heavy_tailed(rng, sigma)
            yield drift(rng, sigma, back=True)
            yield drift(rng, sigma, back=False)
            yield divergence(rng, sigma)
        yield passing(rng)
