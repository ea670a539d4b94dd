"""kalra2024/gi-adam-boundary as in the authors' tables: WRN-16-4 with LayerNorm on CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrscope.papers.claim import Holds, Numbers
from lrscope.papers.scale.data import cifar
from lrscope.papers.scale.experiment import Experiment, Training, at_paper_scale
from lrscope.papers.scale.models import ResNet
from lrscope.records import Run
from lrscope.schedules import Cosine, Linear, Schedule

FAILS = 0.15
"""Final accuracy below 1.5 times chance is a training failure, the paper's rule."""


@at_paper_scale
@dataclass(frozen=True)
class Boundary(Experiment):
    """Adam without and with a warmup, and GI-Adam without, up to which peak they train."""

    id = "kalra2024/gi-adam-boundary"
    data = "the folder cifar-10-batches-bin"
    assumed = "one seed as in the tables; images are padded with zeros after standardisation"

    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int = 2
    batch_size: int = 128
    steps: int = 100_000
    warmup: int = 1024
    peaks: tuple[float, ...] = tuple(1e-5 * 2**x for x in range(9, 15))  # 0.00512 to 0.16384

    def trainings(self, data: Path, seeds: Sequence[int], device: str) -> list[Training]:  # noqa: ARG002
        task = cifar(
            data,
            lambda: ResNet(self.widths, self.blocks, norm="layer"),
            name="cifar10-wrn",
            batch_size=self.batch_size,
            mixup=True,
        )
        kinds = {"adam": ("adam", 1), "adam, warmup": ("adam", self.warmup), "gi-adam": ("giadam", 1)}
        return [
            Training(f"{kind}, {peak:.5g}, seed {seed}", task, name, self._schedule(peak, warmup), self.steps, seed)
            for seed in seeds
            for kind, (name, warmup) in kinds.items()
            for peak in self.peaks
        ]

    def _schedule(self, peak: float, warmup: int) -> Schedule:
        """Warmup whose k-th update has peak x k / warmup; cosine to a tenth."""
        decay = Cosine(1.0, 0.1, self.steps - warmup)
        return peak * (Linear(1 / warmup, 1.0, warmup - 1).then(decay) if warmup > 1 else decay)

    def judge(self, runs: Mapping[str, Run]) -> tuple[Numbers, Holds]:
        last: dict[str, dict[str, float]] = {}
        accuracy: dict[str, float] = {}
        for name, run in runs.items():
            kind, peak, seed = name.rsplit(", ", 2)
            accuracy[name] = run.final("accuracy")
            good = accuracy[name] >= FAILS  # nan, of a run that diverged, is not
            row = last.setdefault(kind, {})
            row[seed] = max(row.get(seed, 0.0), float(peak) if good else 0.0)
        numbers = {"last_good_peak": last, "accuracy": accuracy}
        return numbers, {
            f"last good peak of {kind} at least twice Adam's without": all(
                last[kind][seed] >= 2 * last["adam"][seed] > 0 for seed in last["adam"]
            )
            for kind in ("adam, warmup", "gi-adam")
        }
