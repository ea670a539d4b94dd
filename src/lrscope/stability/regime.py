"""Large-step or small-step: in which of its two regimes a learning rate trains, by four tests."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from lrscope.curvature import reference_lr
from lrscope.errors import MeasurementError
from lrscope.objective import Batch, Objective, require_objective
from lrscope.records import Cost, Run
from lrscope.stability.trial import ALPHAS, Probed, Trial

Test = Literal["large-step", "small-step", "between"]
Verdict = Literal["large-step", "small-step", "transition", "undecided", "diverged"]
TESTS = ("epochs", "plateau", "step line", "cosine")


@dataclass(frozen=True)
class Regime:
    """What the four tests measured; ``None`` and ``nan`` for those that were not made.

    Attributes:
        lr: Learning rate that was tested, held constant.
        losses: Full training loss before the first epoch and after each, ``(E + 1,)``; for a record, means of the
            batch losses of each epoch.
        plateau: Mean loss of the last third of the epochs over the loss that as many epochs at a tenth of the rate
            reach from the same start.
        probed: What the steps after the epochs did to the full loss and its gradient.
        from_record: Losses are means over epochs, which mix the weights of different times.
        cost: Work on copies, in evaluations of one training batch.
    """

    lr: float
    losses: Sequence[float]
    plateau: float | None = None
    probed: Probed | None = None
    from_record: bool = False
    cost: Cost = field(default_factory=Cost)

    @property
    def num_epochs(self) -> int:
        return len(self.losses) - 1

    @property
    def rises(self) -> float:
        """Share of the epochs after which the loss was higher than before, by 1e-4 of itself or more."""
        before, after = np.array(self.losses[:-1]), np.array(self.losses[1:])
        return float(np.mean(~(after <= before * (1 + 1e-4)))) if len(after) else math.nan

    @property
    def rises_error(self) -> float:
        """Standard error of :attr:`rises`, never below that of one epoch in as many."""
        n = max(self.num_epochs, 1)
        p = (self.rises * n + 1) / (n + 2)
        return math.sqrt(p * (1 - p) / n)

    @property
    def tests(self) -> Mapping[str, Test | None]:
        """Each of the four on its own."""
        found: dict[str, Test | None] = dict.fromkeys(TESTS)
        if self.num_epochs:
            found["epochs"] = _side(self.rises >= 0.2, self.rises <= 0.05)
        if self.plateau is not None:
            found["plateau"] = "large-step" if self.plateau > 1.5 else "small-step"
        if self.probed is not None:
            p = self.probed
            found["step line"] = _side(
                p.minimum <= 0.5 and abs(p.rises - 0.5) <= 0.15, p.minimum >= 1 and p.rises < 0.5
            )
            found["cosine"] = _side(
                p.full_cosine < 0.7 and p.batch_cosine < 0.4, p.full_cosine > 0.9 and p.batch_cosine > 0.95
            )
        return found

    @property
    def verdict(self) -> Verdict:
        """``"large-step"`` or ``"small-step"`` only where the epochs say so and the step line or the cosine agrees;
        ``"transition"`` where the epochs lie between; ``"undecided"`` where tests disagree or were not made.
        """
        if not all(math.isfinite(x) for x in self.losses):
            return "diverged"
        tests = self.tests
        first = tests["epochs"]
        if first == "between":
            return "transition"
        return first if first is not None and first in (tests["step line"], tests["cosine"]) else "undecided"

    def __str__(self) -> str:
        if self.verdict == "diverged":
            return f"at learning rate {self.lr:.3g} training diverged within {self.num_epochs} epochs: no regime"
        what = "mean loss of an epoch" if self.from_record else "training loss"
        said = [f"at learning rate {self.lr:.3g} the {what} rose in {self.rises:.0%} of {self.num_epochs} epochs"]
        if self.plateau is not None:
            said.append(f"stood at {self.plateau:.2g} times what a tenth of the rate reaches")
        if self.probed is not None:
            p = self.probed
            said.append(
                f"was lowest at {p.minimum:.2g} of a step and higher after {p.rises:.0%} of them, which turned the "
                f"full gradient to a cosine of {p.full_cosine:.2f} and that of its own batch to {p.batch_cosine:.2f}"
            )
        text = ", ".join(said[:-1]) + (" and " if len(said) > 1 else "") + said[-1]
        meaning = {
            "large-step": "large-step: momentum only scales the learning rate here; a smaller rate lowers the loss",
            "small-step": "small-step: the loss falls as in convex optimisation, and momentum speeds it up",
            "transition": "between the regimes",
        }.get(self.verdict)
        if meaning is None:
            leaning = self.tests["epochs"]
            meaning = (
                f"which looks like the {leaning} regime, but no other test decides it" if leaning else "too short"
            )
            if self.probed is not None:
                meaning = "the tests disagree: " + ", ".join(f"{k} {v}" for k, v in self.tests.items() if v)
        return f"{text}: {meaning}"


def measure_regime(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    train: Iterable[Batch],
    *,
    epochs: int = 10,
    probe_steps: int = 60,
    seed: int = 0,
) -> Regime:
    """In which regime the optimizer trains the model at its present learning rate.

    Copies of model and optimizer are trained; the live ones, their random states and the loader are as before.

    1. Epochs: ``epochs`` of them at the present rate. Large-step if the full training loss rises after 20 % of
       them or more, small-step if after 5 % or fewer.
    2. Plateau: large-step if the mean loss of the last third is above 1.5 times what as many epochs at a tenth of
       the rate reach from the same start.
    3. Step line: then ``probe_steps`` more; the full loss along each, from none to twice the step. Large-step if its
       lowest point lies at half the step or before (median) and about half of the steps raise it, small-step if it
       lies at the whole step or beyond.
    4. Cosine, of gradients before and after a step. Large-step below 0.7 for the full loss and 0.4 for the step's own
       batch, small-step above 0.9 and 0.95.

    Near the border they need not agree, so all four are reported, and :attr:`Regime.verdict` follows the first only
    where the third or the fourth agrees. A rate at which the model collapses to chance can pass for large-step:
    look at the loss.

    Args:
        objective: The full training loss, or that of a large fixed part: what is judged.
        optimizer: Live, over the objective's model; its rate is held.
        train: Batches of an epoch, which can be iterated again and again.
        epochs: Of each of the two trainings; 10 resolve shares of 10 %.
        probe_steps: Steps of tests 3 and 4; 0 leaves both out, and the verdict open.
        seed: Decides the order of the batches and the model's own draws.

    Returns:
        :class:`Regime`. Cost: ``2 * epochs`` epochs of training, as many full losses, and for each probe step eight
        full losses, one full gradient and two batch gradients.

    Raises:
        TypeError: Not an Objective or a torch optimizer.
        ValueError: A count out of range.
        MeasurementError: The model or the optimizer cannot be copied and stepped, or the model is spread over
            several processes.

    References:
        Leclerc & Madry, "The two regimes of deep network training", 2020, arXiv 2002.10376, for the regimes. The
        paper gives no thresholds that could be read; the four tests and their numbers are ours.
    """
    require_objective(objective)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    for name, value, least in (("epochs", epochs, 1), ("probe_steps", probe_steps, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: expected an integer of {least} or more, got {value!r}")
    began = time.perf_counter()
    trial = Trial(objective, optimizer, train, seed=seed)
    slow = Trial(objective, optimizer, train, seed=seed, factor=0.1)
    losses = trial.epochs(epochs)
    found = Regime(reference_lr(optimizer), losses)
    if found.verdict != "diverged":
        third = losses[1:][-max(1, epochs // 3) :]
        reached = slow.epochs(epochs)[-1]
        plateau = float(np.mean(third)) / reached if reached != 0 else math.nan
        probed = trial.probe(probe_steps) if probe_steps else None
        found = replace(found, plateau=plateau if math.isfinite(plateau) else None, probed=probed)
    return replace(found, cost=replace(trial.cost + slow.cost, seconds=time.perf_counter() - began))


def run_regime(run: Run, steps_per_epoch: int) -> Regime:
    """What the losses of a record tell of the regime of its longest stretch at one learning rate.

    The epoch test, on means of the batch losses of each epoch; and the plateau test where the rate was afterwards
    lowered to an eighth or less. The other two need the model, and without them there is no verdict.

    Args:
        run: With columns ``loss`` and ``lr``.
        steps_per_epoch: Updates of one pass over the training set.

    Raises:
        ValueError: ``steps_per_epoch`` is not a positive integer.
        MeasurementError: Losses or rates were not recorded, or no stretch holds two epochs.
    """
    if isinstance(steps_per_epoch, bool) or not isinstance(steps_per_epoch, int) or steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch: expected a positive integer, got {steps_per_epoch!r}")
    rows = [r for r in run.rows if r.get("loss") is not None and r.get("lr") is not None]
    stretches: list[list[Mapping[str, float]]] = []
    for row in rows:
        if stretches and math.isclose(row["lr"], stretches[-1][0]["lr"], rel_tol=0.01):
            stretches[-1].append(row)
        else:
            stretches.append([row])
    means = [_epoch_means(stretch, steps_per_epoch) for stretch in stretches]
    at = max(range(len(means)), key=lambda i: len(means[i]), default=0)
    if not means or len(means[at]) < 2:
        raise MeasurementError(
            f"run {run.name!r}: the regime needs two epochs ({2 * steps_per_epoch:,} updates) with losses at one "
            "learning rate, and there are none; measure_regime() trains copies at a constant one"
        )
    losses, plateau = means[at], None
    after = [i for i in range(at + 1, len(stretches)) if stretches[i][0]["lr"] <= stretches[at][0]["lr"] / 8]
    if after and means[after[0]]:
        reached = means[after[0]][: len(losses)][-1]
        plateau = float(np.mean(losses[-max(1, len(losses) // 3) :])) / reached if reached > 0 else None
    return Regime(float(stretches[at][0]["lr"]), losses, plateau, from_record=True)


def _epoch_means(rows: Sequence[Mapping[str, float]], steps_per_epoch: int) -> list[float]:
    """Mean losses of the whole epochs, counted from the first row."""
    first, last = rows[0]["step"], rows[-1]["step"]
    epochs: dict[int, list[float]] = {}
    for row in rows:
        epochs.setdefault(int(row["step"] - first) // steps_per_epoch, []).append(float(row["loss"]))
    whole = int(last - first + 1) // steps_per_epoch
    return [float(np.mean(epochs[e])) for e in range(whole) if e in epochs]


def _side(large: bool, small: bool) -> Test:
    return "large-step" if large else "small-step" if small else "between"


__all__ = ["ALPHAS", "Probed", "Regime", "measure_regime", "run_regime"]
