"""li2019/texp as in the paper: PreResNet-32 on CIFAR-10, where the rate grows by 12 orders of magnitude."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrscope.papers.claim import Holds, Numbers
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.experiment import Experiment, Training, at_paper_scale
from lrscope.papers.scale.models import ResNet
from lrscope.records import Run
from lrscope.schedules import Piecewise, texp

LR, DECAY, MOMENTUM = 0.1, 5e-4, 0.9


@at_paper_scale
@dataclass(frozen=True)
class Tapered(Experiment):
    """Step decay with weight decay, and TEXP without it and without any correction."""

    id = "li2019/texp"
    data = "the folder cifar-10-batches-bin"
    assumed = "batches of 128, weight decay 5e-4 (implied by the printed growth per epoch); images mirrored, shifted"

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 5
    batch_size: int = 128
    steps_per_epoch: int = 390  # whole batches of 50,000 images
    epochs: int = 300
    drops: tuple[int, ...] = (80, 120)

    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:  # noqa: ARG002
        task = cifar(
            data,
            lambda: ResNet(self.widths, self.blocks, fixed=True),
            name="cifar10-preresnet",
            batch_size=self.batch_size,
        )
        steps = self.epochs * self.steps_per_epoch
        switches = tuple(epoch * self.steps_per_epoch for epoch in self.drops)
        phases = Piecewise(tuple(0.1**i for i in range(len(switches) + 1)), switches)
        tapered = texp(phases, base_lr=LR, weight_decay=DECAY, momentum=MOMENTUM, steps=steps)
        with_decay = f"sgd(momentum={MOMENTUM}, weight_decay={DECAY})"
        return [
            run
            for seed in seeds
            for run in (
                Training(f"step decay, seed {seed}", task, with_decay, LR * phases, steps, seed),
                Training(f"TEXP, seed {seed}", task, f"sgd(momentum={MOMENTUM})", LR * tapered, steps, seed),
            )
        ]

    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        accuracy = {name: 100 * run.final("accuracy") for name, run in runs.items()}
        apart = {
            name.rpartition(", ")[2]: accuracy[name] - accuracy[name.replace("TEXP", "step decay")]
            for name in accuracy
            if name.startswith("TEXP")
        }
        return {"points": apart, "accuracy": accuracy}, {
            "test accuracies within 0.5 points": all(abs(points) <= 0.5 for points in apart.values())
        }
