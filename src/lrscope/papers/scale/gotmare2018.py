"""gotmare2018/warmup-rescues as in Fig. 4: VGG-11 on CIFAR-10 in batches of 5,000, with and without warmup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrscope.papers.claim import Holds, Numbers
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.experiment import Experiment, Training, at_paper_scale
from lrscope.papers.scale.models import VGG
from lrscope.records import Run
from lrscope.schedules import Linear, Piecewise, Schedule

OPTIMIZER = "sgd(momentum=0.9, weight_decay=5e-4)"


@at_paper_scale
@dataclass(frozen=True)
class Warmup(Experiment):
    """A large batch with and without warmup, and a small batch; as many epochs each."""

    id = "gotmare2018/warmup-rescues"
    data = "the folder cifar-10-batches-bin"
    assumed = (
        "BatchNorm in the convolutions, weight decay 5e-4, drops to a tenth at epochs 60, 120, 150 of 200, mirrored "
        "and shifted images; batches, rates and the warmup of 200 steps are the paper's"
    )

    width: int = 64
    large_batch: int = 5000
    small_batch: int = 100
    num_images: int = 50_000
    epochs: int = 200
    drops: tuple[int, ...] = (60, 120, 150)
    large_lr: float = 2.5
    small_lr: float = 0.05
    warmup: int = 200

    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:  # noqa: ARG002
        arms = {
            "small batch": (self.small_batch, self.small_lr, 1),
            "large batch": (self.large_batch, self.large_lr, 1),
            "large batch, warmup": (self.large_batch, self.large_lr, self.warmup),
        }
        found = []
        for seed in seeds:
            for arm, (batch_size, lr, warmup) in arms.items():
                task = cifar(
                    data, lambda: VGG(11, width=self.width), name=f"cifar10-vgg-{batch_size}", batch_size=batch_size
                )
                per_epoch = self.num_images // batch_size
                schedule = self._schedule(lr, warmup, per_epoch)
                found.append(
                    Training(f"{arm}, seed {seed}", task, OPTIMIZER, schedule, self.epochs * per_epoch, seed)
                )
        return found

    def _schedule(self, lr: float, warmup: int, per_epoch: int) -> Schedule:
        """Warmup whose k-th update has lr x k / warmup, and the drops at their epochs whatever it is."""
        levels = tuple(0.1**i for i in range(len(self.drops) + 1))
        drops = Piecewise(levels, tuple(epoch * per_epoch for epoch in self.drops))
        if warmup == 1:
            return lr * drops
        ramp = Linear(1 / warmup, 1.0, warmup - 1).then(Piecewise((1.0,), ()))
        return lr * (drops * ramp)

    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        accuracy: dict[str, dict[str, float]] = {}
        for name, run in runs.items():
            arm, _, seed = name.rpartition(", ")
            accuracy.setdefault(arm, {})[seed] = 100 * (run.final("accuracy") if run.status == "finished" else 0.1)
        gain = {
            seed: value - accuracy["large batch"][seed] for seed, value in accuracy["large batch, warmup"].items()
        }
        return {"gain": gain, "accuracy": accuracy}, {
            "the large batch is better with warmup, in each seed": all(points > 0 for points in gain.values())
        }
