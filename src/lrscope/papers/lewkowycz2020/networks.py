"""Checks of lewkowycz2020 on networks: the catapult of ReLU networks, and what their learning rates generalise to.

Networks without biases in NTK parameterisation, half the squared error averaged over samples and outputs, full
batches of scikit-learn's digits. c is the learning rate times the largest eigenvalue of the kernel at the start.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.isolation import isolated_rng
from lrscope.papers.claim import Curves, Holds, Numbers, claim

Seeds = Sequence[int]
Activation = Callable[[Tensor], Tensor]
DIVERGED = 1e6
"""A loss this many times the first has diverged; a catapult rises with the width, by hundreds here."""
ACTIVATIONS: dict[str, tuple[Activation, float]] = {
    "linear": (lambda x: x, 1.0),
    "tanh": (torch.tanh, 1.0),
    "relu": (F.relu, 2.0),
}
"""The function, and the variance of the weights in front of it."""


class NTKNet(nn.Module):
    """``depth`` hidden layers of standard normal weights; each sum is divided by the root of its number of terms."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int, activation: str = "relu") -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth + [outputs]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(b, a)) for a, b in pairwise(sizes))
        self.activation, self.variance = ACTIVATIONS[activation]

    def layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What enters each layer, divided as above, and what leaves it."""
        entering, leaving = [], []
        for i, w in enumerate(self.weights):
            last = i == len(self.weights) - 1
            entering.append(x * math.sqrt((1.0 if last else self.variance) / w.shape[1]))
            leaving.append(F.linear(entering[-1], w))
            x = leaving[-1] if last else self.activation(leaving[-1])
        return entering, leaving

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[1][-1]


def top_eigenvalue(net: NTKNet, x: Tensor) -> float:
    """Largest eigenvalue of the kernel, divided by samples times outputs, exactly.

    The kernel J J^T is built layer by layer: a sum of products of what enters them and what their outputs do to f.
    """
    with torch.enable_grad():
        entering, leaving = net.layers(x)
        outputs = leaving[-1].shape[1]
        back = [torch.autograd.grad(leaving[-1][:, k].sum(), leaving, retain_graph=True) for k in range(outputs)]
    m, kernel = len(x), torch.zeros(len(x) * outputs, len(x) * outputs, dtype=torch.float64)
    for i, h in enumerate(entering):
        deltas = torch.cat([b[i] for b in back]).double()
        same = (h.detach().double() @ h.detach().double().T).repeat(outputs, outputs)
        kernel += same * (deltas @ deltas.T)
    return float(torch.linalg.eigvalsh(kernel)[-1]) / (m * outputs)


class Descended(NamedTuple):
    """Losses before each update and after the last, and lr times the eigenvalue at the steps asked for."""

    losses: list[float]
    c: dict[int, float]

    @property
    def diverged(self) -> bool:
        return not max(self.losses) <= DIVERGED * self.losses[0]


def descend(net: NTKNet, x: Tensor, y: Tensor, lr: float, steps: int, read: Sequence[int] = ()) -> Descended:
    """Gradient descent, until it diverges."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    losses, c = [], {}
    for step in range(steps + 1):
        if step in read:
            c[step] = lr * top_eigenvalue(net, x)
        loss = 0.5 * F.mse_loss(net(x), y)
        losses.append(float(loss.detach()))
        if step == steps or not losses[-1] <= DIVERGED * losses[0]:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Descended(losses, c)


def _digits(seed: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, centred by pixel over the ``num`` first and divided by their one standard deviation; labels; order."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(found.data, dtype=torch.float32)[order]
    x = x - x[:num].mean(0)
    return x / x[:num].std(), torch.tensor(found.target)[order], order


def parity(seed: int, num: int = 64) -> tuple[Tensor, Tensor]:
    """Images with labels 1 (even) and -1 (odd)."""
    x, y, _ = _digits(seed, num)
    return x[:num], (1.0 - 2.0 * (y[:num, None] % 2)).float()


def _net(seed: int, *sizes: Any, **options: Any) -> NTKNet:
    with isolated_rng(seed):
        return NTKNet(*sizes, **options)


@claim(
    "lewkowycz2020/relu-catapult",
    "ReLU networks catapult above 2 / kernel: the loss rises, then the kernel is below 2 / lr",
    where="Fig. 3 a-c",
    sure="source",
    shows=["largest_loss_over_first", "largest_lr_x_kernel_from_step_30"],
)
def relu_catapult(
    seeds: Seeds = (0, 1, 2),
    width: int = 1024,
    c: Sequence[float] = (1.9, 2.5, 3.0, 4.0, 6.0, 8.0),
    steps: int = 60,
) -> tuple[Numbers, Holds, Curves]:
    """Three hidden layers of width 1,024, 64 images labelled by parity, gradient descent for 60 steps."""
    spikes: dict[str, list[float]] = {}
    late: dict[str, list[float]] = {}
    curves: dict[str, list[float]] = {}
    read = range(steps // 2, steps + 1, 6)
    for rate in c:
        runs = []
        for seed in seeds:
            x, y = parity(seed)
            net = _net(seed, 64, width, 3, 1)
            runs.append(descend(net, x, y, rate / top_eigenvalue(net, x), steps, read))
        spikes[f"{rate:g}"] = [max(run.losses) / run.losses[0] for run in runs]
        late[f"{rate:g}"] = [max(run.c.values(), default=math.inf) for run in runs]
        curves[f"{rate:g}"] = runs[0].losses
    lazy, *rest = (f"{rate:g}" for rate in c)
    return (
        {"largest_loss_over_first": spikes, "largest_lr_x_kernel_from_step_30": late},
        {
            "c = 1.9: the loss never exceeds its start": max(spikes[lazy]) <= 1,
            "c = 1.9: the kernel stays within 10 %": max(abs(v / 1.9 - 1) for v in late[lazy]) < 0.1,
            "c from 2.5 to 8: the loss more than doubles": min(min(spikes[k]) for k in rest) > 2,
            "c from 2.5 to 8: lr x kernel below 2 from step 30 on": max(max(late[k]) for k in rest) < 2,
        },
        {"loss": curves},
    )


GRID = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0)


@claim(
    "lewkowycz2020/largest-rate",
    "Linear networks diverge from about 4 / kernel on, ReLU networks far later, near 12",
    where="Fig. 3 and the text on 12 / kernel",
    sure="source",
    shows=["median"],
)
def where_it_diverges(
    seeds: Seeds = (0, 1, 2), widths: Sequence[int] = (256, 512), grid: Sequence[float] = GRID, steps: int = 60
) -> tuple[Numbers, Holds]:
    """The images of relu-catapult, the smallest c of the grid that diverges in 60 steps; linear and tanh
    networks with two hidden layers, ReLU with two and three. Medians over seeds, for each width.
    """
    nets = {"linear": ("linear", 2), "tanh": ("tanh", 2), "relu 2": ("relu", 2), "relu 3": ("relu", 3)}
    first: dict[str, dict[str, list[float]]] = {}
    for name, (activation, depth) in nets.items():
        for width in widths:
            found = first.setdefault(name, {})[f"width {width}"] = []
            for seed in seeds:
                x, y = parity(seed)
                top = top_eigenvalue(_net(seed, 64, width, depth, 1, activation=activation), x)
                runs = (
                    descend(_net(seed, 64, width, depth, 1, activation=activation), x, y, c / top, steps)
                    for c in grid
                )
                found.append(next((c for c, run in zip(grid, runs, strict=False) if run.diverged), math.inf))
    median = {name: {w: statistics.median(v) for w, v in rows.items()} for name, rows in first.items()}
    relu = {w: min(median["relu 2"][w], median["relu 3"][w]) for w in median["linear"]}
    return {"smallest_diverging_c_by_seed": first, "median": median}, {
        **{f"{n}: in [4, 6]": all(4 <= v <= 6 for v in median[n].values()) for n in ("linear", "tanh")},
        **{f"{n}: in [8, 20]": all(8 <= v <= 20 for v in median[n].values()) for n in ("relu 2", "relu 3")},
        "relu: more than 1.5 times the linear one": all(relu[w] > 1.5 * v for w, v in median["linear"].items()),
    }


@claim(
    "lewkowycz2020/best-rate",
    "The best learning rate lies above 2 / kernel, also for a fixed learning rate x steps",
    where="Figs. 4 and 5",
    sure="source",
    shows=["mean", "best_c"],
)
def best_rate(
    seeds: Seeds = (0, 1, 2),
    lazy: Sequence[float] = (0.5, 1.0, 1.5, 1.9),
    catapult: Sequence[float] = (2.5, 4.0, 6.0, 8.0, 10.0, 12.0),
    steps: int = 60,
) -> tuple[Numbers, Holds]:
    """Ten outputs, three hidden layers of width 128, 128 images; accuracy on 797 others after 60 steps, and after
    60 x 12 / c. Runs that diverge are counted and left out.
    """
    accuracy: dict[str, dict[str, list[float]]] = {"steps": {}, "lr x steps": {}}
    diverged: list[str] = []
    for c in (*lazy, *catapult):
        for seed in seeds:
            x, labels, _ = _digits(seed, 128)
            y = F.one_hot(labels, 10).float()
            for fixed, number in (("steps", steps), ("lr x steps", round(steps * 12 / c))):
                net = _net(seed, 64, 128, 3, 10)
                run = descend(net, x[:128], y[:128], c / top_eigenvalue(net, x[:128]), number)
                if run.diverged:
                    diverged.append(f"c {c:g}, seed {seed}, {fixed}")
                    continue
                with torch.no_grad():
                    right = net(x[1000:]).argmax(1) == labels[1000:]
                accuracy[fixed].setdefault(f"{c:g}", []).append(100 * float(right.double().mean()))
    mean = {fixed: {c: statistics.fmean(v) for c, v in rows.items()} for fixed, rows in accuracy.items()}
    best = {fixed: max(rows, key=lambda c, rows=rows: rows[c]) for fixed, rows in mean.items()}
    by_time = mean["lr x steps"]
    flat = max(by_time[f"{c:g}"] for c in lazy if f"{c:g}" in by_time)
    high = max(by_time[f"{c:g}"] for c in catapult if f"{c:g}" in by_time)
    return {"accuracy": accuracy, "mean": mean, "best_c": best, "diverged": diverged}, {
        "fixed steps: the best c is above 2": float(best["steps"]) > 2,
        "fixed lr x steps: best accuracy above 2 at least that below": high >= flat,
    }
