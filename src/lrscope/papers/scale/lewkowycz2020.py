"""lewkowycz2020/best-rate as in Fig. 5 c: WRN-28-10 on CIFAR-10 for a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrscope.curvature import GaussNewton, sharpness
from lrscope.papers.claim import Holds, Numbers
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.experiment import Experiment, Training, at_paper_scale
from lrscope.papers.scale.models import ResNet
from lrscope.records import Run
from lrscope.schedules import Constant
from lrscope.tasks import Task


@at_paper_scale
@dataclass(frozen=True)
class BestRate(Experiment):
    """Constant rates c / kernel from the lazy into the divergent phase, the same number of steps each."""

    id = "lewkowycz2020/best-rate"
    data = "the folder cifar-10-batches-bin"
    assumed = (
        "weight decay 5e-4; the kernel's largest eigenvalue is that of the Gauss-Newton matrix of the loss on one "
        "training batch; rates in steps of about the square root of 2"
    )

    widths: tuple[int, ...] = (160, 320, 640)
    blocks: int = 4
    batch_size: int = 1024
    steps: int = 12_000
    c: tuple[float, ...] = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)

    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:
        task = cifar(
            data,
            lambda: ResNet(self.widths, self.blocks),
            name="cifar10-wrn",
            batch_size=self.batch_size,
            squared=True,
        )
        found = []
        for seed in seeds:
            kernel = _kernel(replace(task, device=device), seed)
            for c in self.c:
                rate = Constant(c / kernel)
                found.append(
                    Training(
                        f"c {c:g}, seed {seed}", task, "sgd(momentum=0, weight_decay=5e-4)", rate, self.steps, seed
                    )
                )
        return found

    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        accuracy: dict[str, dict[float, float]] = {}
        for name, run in runs.items():
            c, _, seed = name.removeprefix("c ").partition(", ")
            value = run.final("accuracy")  # nan of a run that diverged
            accuracy.setdefault(seed, {})[float(c)] = 0.0 if math.isnan(value) else 100 * value
        best = {seed: max(row, key=lambda c, row=row: row[c]) for seed, row in accuracy.items()}
        return {"best_c": best, "accuracy": accuracy}, {
            "the best c lies above 2 and below 12, in each seed": all(2 < c < 12 for c in best.values())
        }


def _kernel(task: Task, seed: int) -> float:
    """Largest eigenvalue of the Gauss-Newton matrix at the start, on one batch."""
    return sharpness(GaussNewton(task.objective(seed))).value
