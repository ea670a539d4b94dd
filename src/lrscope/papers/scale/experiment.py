"""A claim in the paper's own setting: long trainings that go on where they stopped, and a judgement of them all."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from lrscope.papers import claims
from lrscope.papers.claim import Holds, Numbers, Outcome
from lrscope.records import Run
from lrscope.schedules import Schedule
from lrscope.tasks import BatchStream, Task
from lrscope.training import Probe, TrainState, train
from lrscope.training.loop import build_optimizer


@dataclass(frozen=True)
class Training:
    """One of the runs of an experiment.

    Attributes:
        name: Names its files.
        task, optimizer, schedule, steps, seed, probes: As :func:`lrscope.train` takes them.
    """

    name: str
    task: Task
    optimizer: str | dict[str, Any]
    schedule: Schedule
    steps: int
    seed: int = 0
    probes: Sequence[Probe] = ()


@dataclass(frozen=True)
class Price:
    """What an experiment costs, from a few measured steps.

    Attributes:
        hours: On the device that was measured, all runs one after another.
        flops: Floating-point operations of all runs; of convolutions and matrix products, which are nearly all.
        runs, steps: How many runs, and steps of all of them.
    """

    hours: float
    flops: float
    runs: int
    steps: int


class Experiment(ABC):
    """A claim at the paper's scale. Fields are the sizes of the paper; smaller ones try the same code.

    Attributes:
        id: The claim.
        data: What ``--data`` has to be.
        assumed: What the paper does not tell, or could not be read, and is ours.
    """

    id: str
    data: str
    assumed: str

    @abstractmethod
    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:
        """The runs, in the order in which they are made.

        Raises:
            TaskError: The data is missing or broken.
        """

    @abstractmethod
    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        """The statistic and the criterion, from the finished runs by name."""

    def run(
        self,
        data: Path,
        out: Path,
        *,
        seeds: Sequence[int] = (0,),
        device: str = "cpu",
        on_step: Callable[[Training, TrainState], None] | None = None,
    ) -> Outcome:
        """Train what is missing and judge.

        Args:
            data: Where the data lies.
            out: Directory of the runs and their checkpoints. Stopped at any point, the same call goes on there.
            seeds: One set of runs for each.
            device: Of the models.
            on_step: After every update; a ``KeyboardInterrupt`` raised here is a clean stop.
        """
        began = time.process_time()
        runs = {}
        for one in self.trainings(data, seeds, device):
            told = None if on_step is None else _told(on_step, one)
            task = replace(one.task, device=device)
            options: dict[str, Any] = {"probes": one.probes, "seed": one.seed, "name": one.name}
            runs[one.name] = train(
                task, one.optimizer, one.schedule, one.steps, out=out, resume=True, on_step=told, **options
            )
        numbers, holds = self.judge(runs)

        def measured(scale: str, seeds: Sequence[int], device: str) -> tuple[Numbers, Holds]:  # noqa: ARG001
            return numbers, holds

        claim = replace(claims(self.id)[self.id], measure=measured, shows=tuple(numbers), unlike="")
        outcome = claim(scale="paper", seeds=list(seeds), device=device)
        return replace(outcome, seconds=time.process_time() - began)

    def price(self, data: Path, *, seeds: Sequence[int] = (0,), device: str = "cpu", timed: int = 3) -> Price:
        """Measure some steps of each kind of run and multiply.

        Cost: ``timed + 1`` steps of each kind.
        """
        seconds: dict[Any, tuple[float, float]] = {}
        hours = flops = steps = 0.0
        trainings = self.trainings(data, seeds, device)
        for one in trainings:
            kind = (one.task.name, str(one.optimizer))
            if kind not in seconds:
                seconds[kind] = _step(replace(one.task, device=device), one.optimizer, timed)
            hours += seconds[kind][0] * one.steps / 3600
            flops += seconds[kind][1] * one.steps
            steps += one.steps
        return Price(hours, flops, len(trainings), int(steps))


def _told(on_step: Callable[[Training, TrainState], None], one: Training) -> Callable[[TrainState], None]:
    return lambda state: on_step(one, state)


def _step(task: Task, optimizer: Any, timed: int) -> tuple[float, float]:
    """Seconds and floating-point operations of one update; the fastest of ``timed``, after one to warm up."""
    model, stream = task.model(0), BatchStream(task.train, 0)
    opt = build_optimizer(optimizer, model)

    def once() -> float:
        began = time.perf_counter()
        opt.zero_grad()
        loss = task.loss_fn(model, task.to_device(next(stream)))
        loss.backward()
        for group in opt.param_groups:
            group["lr"] = 0.0
        opt.step()
        loss.item()  # waits for the device
        return time.perf_counter() - began

    model.train()
    with FlopCounterMode(display=False) as counter:
        once()
    return min(once() for _ in range(timed)), float(counter.get_total_flops())


EXPERIMENTS: dict[str, Experiment] = {}
"""By claim; importing :mod:`lrscope.papers.scale` fills it."""


def at_paper_scale(experiment: type[Experiment]) -> type[Experiment]:
    """Register an experiment with its paper's sizes."""
    EXPERIMENTS[experiment.id] = experiment()
    return experiment


__all__ = ["EXPERIMENTS", "Experiment", "Price", "Training", "at_paper_scale"]
