"""Kalra & Barkeshli 2024, Why Warmup the Learning Rate?, arXiv 2406.09405: its claims about Adam and GI-Adam.

The paper trains wide residual networks on CIFAR-10; here are small networks on scikit-learn's digits, whole grids of
which train as one batched program in seconds. Every function returns what it measured and judges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.curvature import preconditioner, sharpness
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Objective
from lrscope.optimizers import FunctionalOptimizer, GIAdam, OptimizerSpec
from lrscope.schedules import Cosine, Linear, Schedule
from lrscope.tasks import Batches, BatchStream, Task
from lrscope.tasks.digits import split
from lrscope.tasks.losses import accuracy, cross_entropy
from lrscope.training.evaluate import weighted_means
from lrscope.training.grouping import Feed
from lrscope.training.program import Program, examine

NUM_TRAIN = 1437
PEAKS = tuple(1e-3 * 2**x for x in range(2, 12))
"""Peak learning rates 0.004 to 2.048, in factors of 2."""


class ResidualMLP(nn.Module):
    """Blocks of Linear, LayerNorm, ReLU, Linear, LayerNorm beside a skip, then ReLU: like the paper, small."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width), nn.LayerNorm(width)
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)
        _standard(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x.flatten(1)))
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x)


class PlainMLP(nn.Module):
    """``depth`` linear layers with ReLU between them, and no normalisation."""

    def __init__(self, width: int = 64, depth: int = 10) -> None:
        super().__init__()
        sizes = [64] + [width] * (depth - 1)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 10)
        _standard(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.head(x)


def _standard(model: nn.Module, head: nn.Linear) -> None:
    """Standard parameterisation of the paper: truncated normal, variance 2 / fan_in (the head: 1 / fan_in)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            std = ((1 if module is head else 2) / module.in_features) ** 0.5 / 0.87962566103423978
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(module.bias)


def task(net: type[nn.Module] = ResidualMLP, **sizes: int) -> Task:
    """Digits, each image scaled to mean 0 and variance 1; batches of 64 of 1,437 images, judged by the other 360."""
    (x, y), (more_x, more_y) = split()
    x, y = torch.cat([x, more_x]).flatten(1), torch.cat([y, more_y])
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    seen, held = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return Task(
        build=partial(_build, net, **sizes),
        loss_fn=cross_entropy,
        train=Batches(x[seen], y[seen], batch_size=64, shuffle=True, drop_last=True),
        evaluate=Batches(x[held], y[held], batch_size=len(held)),
        metrics={"accuracy": accuracy},
        name=f"digits-{net.__name__}",
        steps=400,
    )


def _build(net: type[nn.Module], seed: int, **sizes: int) -> nn.Module:  # noqa: ARG001 - the generator is seeded
    return net(**sizes)


def schedule(peak: float, warmup: int, steps: int) -> Schedule:
    """Linear warmup whose k-th update, k = 1 to ``warmup``, has ``peak * k / warmup``; then cosine to a tenth.

    A warmup of 1 is none.
    """
    decay = Cosine(1.0, 0.1, steps - warmup)
    shape = Linear(1 / warmup, 1.0, warmup - 1).then(decay) if warmup > 1 else decay
    return peak * shape


@dataclass(frozen=True)
class Grid:
    """How training ended for each peak learning rate and seed.

    Attributes:
        optimizer, warmup: What trained, and its warmup in steps.
        peaks: Peak learning rates, ``(n,)``, rising.
        accuracy: On held-out images after the last update, ``(n, seeds)``.
        finite: Whether every loss and every parameter at the end was a finite number, ``(n, seeds)``.
        largest_loss: Over the whole run, ``(n, seeds)``.
    """

    optimizer: str
    warmup: int
    peaks: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    finite: NDArray[np.bool_]
    largest_loss: NDArray[np.float64]

    def last_good(self, level: float = 0.9) -> float:
        """Largest peak whose mean accuracy over seeds is above ``level``; 0 if none is."""
        good = self.peaks[self.accuracy.mean(1) > level]
        return float(good[-1]) if len(good) else 0.0

    def at(self, peak: float) -> float:
        """Mean accuracy over seeds at one of the peaks."""
        (found,) = np.flatnonzero(np.isclose(self.peaks, peak, rtol=1e-6))
        return float(self.accuracy[found].mean())


def grid(
    task: Task,
    optimizer: OptimizerSpec | str,
    *,
    warmup: int = 1,
    peaks: Sequence[float] = PEAKS,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 400,
) -> Grid:
    """Train every peak and seed to the end, whatever the loss does on the way; each seed is one batched program.

    :func:`lrscope.replicas` would stop a run once it counts as diverged; whether Adam ever diverges is the question
    here. A seed decides initialisation, data order and RI-Adam's draw. Cost: ``len(peaks) * len(seeds) * steps``
    gradients.
    """
    spec = OptimizerSpec.parse(optimizer)
    rates = np.stack([schedule(peak, warmup, steps).values(steps) for peak in peaks], 1)
    ends = []
    for seed in seeds:
        its_own = replace(spec, seed=seed) if spec.name == "riadam" else spec
        ends.append(_ends(task, its_own, torch.from_numpy(rates), seed))
    accuracies, finite, largest = (np.stack(column, 1) for column in zip(*ends, strict=True))
    return Grid(spec.name, warmup, np.asarray(peaks, dtype=float), accuracies, finite, largest)


def _ends(task: Task, spec: OptimizerSpec, rates: Tensor, seed: int) -> tuple[NDArray[Any], ...]:
    """Accuracy, finiteness and largest loss of one run per column of ``rates``, ``(steps, n)``."""
    seeds = [seed] * rates.shape[1]
    feed = Feed.of(task, seeds)
    program = Program(task, seeds, examine(task, seed, next(BatchStream(task.train, seed))))
    rule = FunctionalOptimizer(spec)
    state = rule.init(program.theta)
    rates = rates.to(program.theta)[:, :, None]
    losses = torch.empty(rates.shape[:2])
    with isolated_rng(seed), mode_of(program.model, training=True):
        for step in range(len(rates)):
            losses[step], grads = program.gradients(*feed.next(seeds))
            rule.update(program.theta, grads, rates[step], state)
    with torch.no_grad(), isolated_rng(0), mode_of(program.model, training=False):
        means, _ = weighted_means(task, program.measure)
    finite = losses.isfinite().all(0) & program.theta.isfinite().all(1)
    return means["accuracy"].numpy(), finite.numpy(), losses.amax(0).numpy()


def failure_boundary(
    *, seeds: Sequence[int] = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> dict[tuple[str, int], Grid]:
    """Up to which learning rate Adam, GI-Adam and RAdam train a residual network, with and without a warmup.

    The claim: GI-Adam moves the boundary up as a warmup does (paper, figures 4 and 23 to 25), and Adam past it fails
    without ever diverging (figure 26). Keys are the optimizer's name and the warmup in steps.
    """
    net = task(ResidualMLP)
    settings = [("adam", 1), ("adam", 32), ("adam", 100), ("giadam", 1), ("giadam", 100), ("radam", 1)]
    return {(name, w): grid(net, name, warmup=w, seeds=seeds, peaks=peaks, steps=steps) for name, w in settings}


def random_second_moment(
    *, seeds: Sequence[int] = (0, 1, 2), peaks: Sequence[float] = PEAKS, steps: int = 400
) -> dict[str, Grid]:
    """Whether a random v_0 of the right size helps as the gradient's own does, on a plain network of depth 10.

    The claim: RI-Adam improves on Adam like GI-Adam, so the size of v_0 matters and not its pattern (paper, figure
    31).
    """
    net = task(PlainMLP)
    names = ("adam", "giadam", "riadam", "radam")
    return {name: grid(net, name, seeds=seeds, peaks=peaks, steps=steps) for name in names}


def warmup_without_normalisation(
    depth: int = 10,
    *,
    warmups: Sequence[int] = (1, 32, 100, 250),
    seeds: Sequence[int] = (0, 1, 2),
    peaks: Sequence[float] = PEAKS,
    steps: int = 500,
) -> dict[int, Grid]:
    """Whether a longer warmup raises the largest learning rate that Adam trains a plain network with.

    The paper finds so for networks with normalisation. Keys are warmups in steps.
    """
    net = task(PlainMLP, depth=depth)
    return {w: grid(net, "adam", warmup=w, seeds=seeds, peaks=peaks, steps=steps) for w in warmups}


def sharpness_at_the_start(*, seeds: Sequence[int] = (0, 1, 2), eps: float = 1e-8) -> NDArray[np.float64]:
    """Preconditioned sharpness before the first update, of Adam and of GI-Adam: shape ``(seeds, 2)``.

    Full batch, so g_0 is g_1; a plain network of depth 4 in float64, half the squared error averaged over classes.
    The claim: a ratio of ``sqrt(1 - beta2)``, but for eps, which rules where gradients are that small.
    """
    net = task(PlainMLP, depth=4)
    x, y = (part[:500] for part in cast(Batches, net.train).data)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * F.mse_loss(model(batch[0]), F.one_hot(batch[1], 10).to(batch[0]))

    found = []
    for seed in seeds:
        model = net.model(seed).double()
        objective = Objective(model, loss_fn, [(x.double(), y)])
        for kind in (torch.optim.Adam, GIAdam):
            P = preconditioner(kind(model.parameters(), eps=eps), objective)
            found.append(sharpness(objective, preconditioner=P, tol=1e-5, max_matvecs=5000).value)
    return np.reshape(found, (len(seeds), 2))
