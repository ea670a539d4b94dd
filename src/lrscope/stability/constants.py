"""Critical learning rates of the first steps of training, in units of the inverse sharpness at the start."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lrscope.curvature import EigenResult, sharpness
from lrscope.errors import MeasurementError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Objective
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task

DIVERGED = 1e5
"""A loss above this many times the first one has diverged; catapults of wide networks climb by factors of 1000."""
NAMES = ("c_loss", "c_sharp", "c_barrier", "c_max")


@dataclass(frozen=True)
class Scan:
    """One initialisation, trained for the same few steps at each learning rate ``c / sharpness``.

    Attributes:
        seed: Of the initialisation and of the order of the batches.
        sharpness: At the start.
        c: Rates that did not diverge, rising, ``(n,)``.
        loss: Largest loss after any of the steps over the first, ``(n,)``.
        top: Largest sharpness after any of the steps over the first, ``(n,)``.
        line: Largest loss on the straight line from the first to the last parameters over the first, ``(n,)``.
        diverged_at: The rate that ended the scan; ``None`` if the largest one asked for trained.
        margin: By how much, relatively, the sharpness has to exceed the first one.
    """

    seed: int
    sharpness: float
    c: Sequence[float]
    loss: Sequence[float]
    top: Sequence[float]
    line: Sequence[float]
    diverged_at: float | None
    margin: float = 0.0

    def first(self, name: str) -> float | None:
        """The smallest rate of which ``c_loss``, ``c_sharp`` or ``c_barrier`` speaks; ``None`` if there is none."""
        values = {"c_loss": self.loss, "c_sharp": self.top, "c_barrier": self.line}[name]
        beyond = 1 + (self.margin if name == "c_sharp" else 1e-6)
        return next((c for c, v in zip(self.c, values, strict=True) if v > beyond), None)

    def value(self, name: str) -> float:
        """Any of the four; ``c_max`` stands in for what did not happen below it."""
        found = None if name == "c_max" else self.first(name)
        return self.c[-1] if found is None else found


@dataclass(frozen=True)
class Constant:
    """One of the four over the seeds.

    Attributes:
        value: Mean over the seeds.
        low, high: The range over the seeds, widened by the step of the grid to the side where the truth may lie.
        samples: One number for each seed.
        censored: Seeds in which it was not seen: ``c_max`` stands in, or for ``c_max`` the largest rate tried.
    """

    value: float
    low: float
    high: float
    samples: tuple[float, ...]
    censored: int

    def __str__(self) -> str:
        seen = f", not seen in {self.censored} of {len(self.samples)} seeds" if self.censored else ""
        return f"{self.value:.3g} (between {self.low:.3g} and {self.high:.3g}{seen})"


@dataclass(frozen=True)
class CriticalConstants:
    """Where loss, sharpness and barrier first rise, and where training diverges; rates are ``c / sharpness``.

    Attributes:
        scans: One for each seed.
        steps: Updates of each training.
        factor: Between neighbouring rates.
        cost: Work, in evaluations of the measured batches.
    """

    scans: tuple[Scan, ...]
    steps: int
    factor: float
    cost: Cost = field(default_factory=Cost)

    def constant(self, name: str) -> Constant:
        """``"c_loss"``, ``"c_sharp"``, ``"c_barrier"`` or ``"c_max"``, with its range over the seeds."""
        if name not in NAMES:
            raise ValueError(f"name: expected one of {', '.join(NAMES)}, got {name!r}")
        samples = tuple(scan.value(name) for scan in self.scans)
        if name == "c_max":
            censored = sum(scan.diverged_at is None for scan in self.scans)
            low, high = min(samples), max(samples) * self.factor
        else:
            censored = sum(scan.first(name) is None for scan in self.scans)
            low, high = min(samples) / self.factor, max(samples)
        return Constant(statistics.mean(samples), low, high, samples, censored)

    @property
    def c_loss(self) -> Constant:
        """From where on the loss exceeds its start at one of the steps."""
        return self.constant("c_loss")

    @property
    def c_sharp(self) -> Constant:
        """From where on the sharpness exceeds its start at one of the steps."""
        return self.constant("c_sharp")

    @property
    def c_barrier(self) -> Constant:
        """From where on the straight line from start to end passes over a loss above that of the start."""
        return self.constant("c_barrier")

    @property
    def c_max(self) -> Constant:
        """Up to where training does not diverge."""
        return self.constant("c_max")

    def __str__(self) -> str:
        return (
            f"in {self.steps} steps from {len(self.scans)} starts, learning rate times sharpness: "
            f"the loss jumps from {self.c_loss} on, the sharpness from {self.c_sharp}, "
            f"a barrier stands from {self.c_barrier} on, and training survives up to {self.c_max}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Largest loss and sharpness of the steps against c, a pair of lines for each seed; returns the axes."""
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6, 3.5), layout="constrained").add_subplot()
        for i, scan in enumerate(self.scans):
            ax.plot(scan.c, scan.loss, color="C0", lw=1.4, label=None if i else "largest loss / first")
            label = None if i else "largest sharpness / first"
            ax.plot(scan.c, scan.top, color="C1", lw=1.4, ls=(0, (5, 2)), label=label)
        for name in NAMES:
            found = self.constant(name)
            ax.axvspan(found.low, found.high, color="0.5", alpha=0.12, lw=0)
            ax.annotate(name, (found.value, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
        ax.axhline(1, color="0.4", lw=0.8)
        ax.set(xscale="log", yscale="log", xlabel="learning rate x sharpness at the start", ylabel="over the start")
        ax.legend(frameon=False)
        return ax


def critical_constants(
    task: Task,
    optimizer: OptimizerSpec | str = "sgd(momentum=0)",
    *,
    steps: int = 10,
    smallest: float = 1.0,
    largest: float = 128.0,
    factor: float = 2**0.1,
    seeds: Sequence[int] = (0, 1, 2),
    num_batches: int = 1,
    margin: float = 0.0,
    on_progress: Callable[[int, float], None] | None = None,
) -> CriticalConstants:
    r"""Train a few steps at learning rates :math:`c / \lambda_0` and find where what happens changes.

    For each seed c rises from ``smallest`` in steps of ``factor`` until training diverges (a loss that is not finite
    or above 1e5 times the first). After every step loss and sharpness are measured on the same batches. Then
    :math:`c_{loss}` is the smallest c whose loss exceeds its start at any step, :math:`c_{sharp}` the same of the
    sharpness, :math:`c_{barrier}` the smallest whose straight line from the first to the last parameters has a point
    with a loss above the first, and :math:`c_{max}` the largest that did not diverge.

    Args:
        task: What is trained; a learning rate is constant.
        optimizer: SGD, with or without momentum. The sharpness is that of the loss.
        steps: Updates of each training.
        smallest, largest, factor: The grid of c.
        seeds: Initialisations; they also order the batches.
        num_batches: Batches that are measured, the first of the task; a task whose epoch is one batch of all examples
            trains and measures the full loss.
        margin: By how much, relatively, the sharpness has to exceed its start; 0.05 for networks whose last layer
            starts at zero, which sharpen a little at every rate.
        on_progress: Called with the seed and the next c.

    Returns:
        :class:`CriticalConstants`. Cost for each c: ``steps`` gradients, about five products and a forward pass for
        each of them, and 20 forward passes; some 40 c per seed with the default grid.

    Raises:
        TypeError: Not a Task.
        ValueError: A number out of range.
        MeasurementError: Another optimizer, a start that is not convex in any direction, or one that diverges at
            ``smallest``.

    References:
        Kalra & Barkeshli, "Phase diagram of early training dynamics in deep neural networks", 2023, arXiv 2302.12250,
        procedure as in the authors' notebooks.
    """
    experiment = _Experiment(task, steps, smallest, largest, factor, num_batches, margin)
    if not len(seeds):
        raise ValueError("seeds: empty, so there is nothing to train; give at least one")
    spec = OptimizerSpec.parse(optimizer)
    if spec.name != "sgd":
        raise MeasurementError(
            f"optimizer: the critical constants are those of SGD, got {spec}; critical_lr() measures the one-step "
            "limit of any optimizer"
        )
    began, cost, scans = time.perf_counter(), Cost(), []
    for seed in seeds:
        scan, spent = experiment.scan(spec, seed, on_progress or (lambda *_: None))
        scans.append(scan)
        cost += spent
    return CriticalConstants(tuple(scans), steps, factor, replace(cost, seconds=time.perf_counter() - began))


@dataclass(frozen=True)
class _Experiment:
    task: Task
    steps: int
    smallest: float
    largest: float
    factor: float
    num_batches: int
    margin: float

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            came = type(self.task).__name__
            raise TypeError(f"task: expected a lrscope Task, got {came}; wrap it in lrs.Task(build=...)")
        for name, value in (("steps", self.steps), ("num_batches", self.num_batches)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a positive integer, got {value!r}")
        if not 0 < self.smallest < self.largest < math.inf:
            raise ValueError(
                f"smallest, largest: expected 0 < smallest < largest, got {self.smallest!r}, {self.largest!r}"
            )
        if not 1 < self.factor < math.inf:
            raise ValueError(f"factor: expected a number above 1, such as 2**0.1, got {self.factor!r}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin: expected a share of 0 or more, such as 0.05, got {self.margin!r}")

    def scan(self, spec: OptimizerSpec, seed: int, on_progress: Callable[[int, float], None]) -> tuple[Scan, Cost]:
        objective = self.task.objective(seed, num_batches=self.num_batches)
        start, first = copy.deepcopy(objective.model.state_dict()), objective.loss()
        top = sharpness(objective, tol=1e-4)
        if not (math.isfinite(first) and top.value > 0):
            raise MeasurementError(
                f"task: at the start of seed {seed} the loss is {first:.3g} and the sharpness {top.value:.3g}; both "
                "have to be finite and the sharpness positive"
            )
        rows: list[tuple[float, float, float, float]] = []
        c, updates = self.smallest, 0
        while c <= self.largest * (1 + 1e-9):
            on_progress(seed, c)
            objective.model.load_state_dict(start)
            found, made = self._train(objective, spec, c, seed, first, top)
            updates += made
            if found is None:
                break
            rows.append((c, *found))
            c *= self.factor
        if not rows:
            raise MeasurementError(f"smallest: seed {seed} diverged at c = {c:g} already; give a smaller one")
        cs, loss, highest, line = (list(column) for column in zip(*rows, strict=True))
        diverged_at = c if c <= self.largest * (1 + 1e-9) else None
        spent = objective.spent
        cost = Cost(spent.forwards, spent.gradients + updates, spent.products, updates)
        return Scan(seed, top.value, cs, loss, highest, line, diverged_at, self.margin), cost

    def _train(
        self, objective: Objective, spec: OptimizerSpec, c: float, seed: int, first: float, top: EigenResult
    ) -> tuple[tuple[float, float, float] | None, int]:
        """Largest loss, sharpness and loss on the line, each over the start; ``None`` if it diverged. And updates."""
        model, theta = objective.model, objective.point()
        optimizer = spec.build([p for p in model.parameters() if p.requires_grad], lr=c / top.value)
        stream, vector = BatchStream(self.task.train, seed), top.vectors[:, 0]
        losses, highest = [], []
        for step in range(self.steps):
            with isolated_rng(seed + step), mode_of(model, training=True), torch.enable_grad():
                optimizer.zero_grad()
                self.task.loss_fn(model, self.task.to_device(next(stream))).backward()
                optimizer.step()
            losses.append(objective.loss())
            if not losses[-1] <= DIVERGED * first:
                return None, step + 1
            found = sharpness(objective, start=vector)  # a residual of 1 % is an error of 1e-4
            vector = found.vectors[:, 0]
            highest.append(found.value)
        end = objective.point()
        line = max(objective.loss(theta + k / 20 * (end - theta)) for k in range(1, 20))
        return (max(losses) / first, max(highest) / top.value, max(line, losses[-1]) / first), self.steps
