"""leclerc2020/large-first-generalises on CIFAR-10, the paper's data as far as it is remembered."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrscope.papers.claim import Holds, Numbers
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.experiment import Experiment, Training, at_paper_scale
from lrscope.papers.scale.models import ResNet
from lrscope.records import Run
from lrscope.schedules import Constant, Piecewise


@at_paper_scale
@dataclass(frozen=True)
class LargeFirst(Experiment):
    """Small steps alone, and after a phase of large ones without momentum; equally many epochs."""

    id = "leclerc2020/large-first-generalises"
    data = "the folder cifar-10-batches-bin"
    assumed = (
        "everything but the data: PreResNet-20 with BatchNorm, batches of 128, no weight decay, mirrored and shifted "
        "images, large lr 1 for half of 150 epochs, small lr 0.01; the paper's tables could not be read"
    )

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 3
    batch_size: int = 128
    steps_per_epoch: int = 390
    epochs: int = 150
    large: float = 1.0
    small: float = 0.01

    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:  # noqa: ARG002
        task = cifar(
            data, lambda: ResNet(self.widths, self.blocks), name="cifar10-preresnet", batch_size=self.batch_size
        )
        steps = self.epochs * self.steps_per_epoch
        first = Piecewise((self.large, self.small), (steps // 2,))
        arms = {"small only": Constant(self.small), "large first": first}
        return [
            Training(f"{arm}, seed {seed}", task, "sgd(momentum=0)", schedule, steps, seed)
            for seed in seeds
            for arm, schedule in arms.items()
        ]

    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        gains, losses = {}, {}
        for name, run in runs.items():
            arm, _, seed = name.partition(", ")
            losses[name] = statistics.fmean(run["loss"].value[-self.steps_per_epoch :])
            if arm == "large first":
                gains[seed] = 100 * (run.final("accuracy") - runs[f"small only, {seed}"].final("accuracy"))
        pairs = [(losses[f"large first, {seed}"], losses[f"small only, {seed}"]) for seed in gains]
        return {"gain": gains, "last_training_loss": losses}, {
            "mean gain at least 0.3 points": statistics.fmean(gains.values()) >= 0.3,
            "at a training loss that is not lower": None if any(a < b for a, b in pairs) else True,
        }
