"""Where does a student take over what its teacher knows? Layers of both, with and without distillation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from lrscope.errors import MeasurementError
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost, Run
from lrscope.schedules import Schedule
from lrscope.studies.layers import Layers, Measure, check_layers, check_measure, matrix, recorded
from lrscope.studies.runs import (
    OnProgress,
    check_rate,
    check_task,
    digest,
    directory,
    length_of,
    loaded,
    trained,
    with_drops,
)
from lrscope.tasks import Task, distill
from lrscope.tasks.distill import Logits

Student = Literal["distilled", "alone"]


@dataclass(frozen=True)
class Distillation:
    """What :func:`distillation` found.

    Attributes:
        student_layers, teacher_layers: Rows and columns of the matrices.
        matrices: ``"distilled"`` and ``"alone"``: similarity to the teacher, ``(seeds, S, T)``.
        chance: What unrelated data of the same sizes give, ``(S, T)``.
        scores: ``"distilled"`` and ``"alone"``: ``eval_loss`` and metrics by seed.
        runs: The records, by kind and seed.
        measure: Of the similarities.
        cost: Trainings and recordings.
    """

    student_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    matrices: Mapping[Student, np.ndarray]
    chance: np.ndarray
    scores: Mapping[Student, Mapping[str, tuple[float, ...]]]
    runs: Mapping[Student, tuple[Run, ...]]
    measure: str
    cost: Cost

    @property
    def difference(self) -> np.ndarray:
        """How much more like the teacher the distilled students are, mean over seeds, ``(S, T)``."""
        return self.matrices["distilled"].mean(0) - self.matrices["alone"].mean(0)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of ``difference``, ``(S, T)``, from pairs of one seed; ``nan`` for a single one."""
        pairs = (
            self.matrices["distilled"] - self.matrices["alone"]
        )  # of equal weights at the start, and equal batches
        if len(pairs) < 2:
            return np.full(self.difference.shape, np.nan)
        return pairs.std(0, ddof=1) / np.sqrt(len(pairs))

    @property
    def by_layer(self) -> dict[str, float]:
        """Absolute difference of each student layer, mean over the teacher's layers."""
        return dict(zip(self.student_layers, np.nanmean(np.abs(self.difference), axis=1).tolist(), strict=True))

    @property
    def noise_by_layer(self) -> dict[str, float]:
        """What :attr:`by_layer` would be by chance between as many seeds: mean standard error, times sqrt(2 / pi).

        The mean of an absolute difference is above 0 for equal students, too; only what is well above this counts.
        """
        if len(self.matrices["alone"]) < 2:
            return dict.fromkeys(self.student_layers, float("nan"))
        noise = np.nanmean(self.stderr, axis=1) * np.sqrt(2 / np.pi)
        return dict(zip(self.student_layers, noise.tolist(), strict=True))

    def gain(self, metric: str = "accuracy") -> float:
        """Mean score of the distilled students less that of the others."""
        if metric not in self.scores["alone"]:
            raise ValueError(f"metric: {metric!r} was not evaluated; choose one of {', '.join(self.scores['alone'])}")
        return statistics.fmean(self.scores["distilled"][metric]) - statistics.fmean(self.scores["alone"][metric])

    def __str__(self) -> str:
        lines = []
        for metric, scores in self.scores["alone"].items():
            if np.isnan(scores).all():  # the task has no evaluation set
                continue
            of = {kind: _mean(self.scores[kind][metric]) for kind in self.scores}
            lines.append(f"{metric}: distilled {of['distilled']}, alone {of['alone']}")
        noise = self.noise_by_layer
        found = ", ".join(
            f"{k} {v:.3f} (noise {'unknown' if np.isnan(noise[k]) else f'{noise[k]:.3f}'})"
            for k, v in self.by_layer.items()
        )
        return "\n".join([*lines, f"difference of {self.measure} to the teacher by layer: {found}"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "student_layers": list(self.student_layers),
            "teacher_layers": list(self.teacher_layers),
            "matrices": {kind: found.tolist() for kind, found in self.matrices.items()},
            "chance": self.chance.tolist(),
            "difference": self.difference.tolist(),
            "stderr": self.stderr.tolist(),
            "by_layer": self.by_layer,
            "noise_by_layer": self.noise_by_layer,
            "scores": {kind: {k: list(v) for k, v in found.items()} for kind, found in self.scores.items()},
            "measure": self.measure,
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None) -> Any:
        """The difference, student layers by teacher layers; returns the axes."""
        from lrscope.reports.figures.studies import difference

        return difference(self.to_dict(), ax)

    def figure(self) -> Any:
        """Similarity to the teacher of both kinds of student, and the difference; returns the Figure."""
        from lrscope.reports.figures.studies import distillation_figure

        return distillation_figure(self.to_dict())


def distillation(
    task: Task,
    teacher: nn.Module,
    optimizer: str | OptimizerSpec = "sgd(momentum=0.9)",
    *,
    lr: float,
    distilled_lr: float,
    steps: int | None = None,
    drops: Sequence[float] = (0.5, 0.75),
    temperature: float = 5.0,
    weight: float = 1.0,
    scale: bool = True,
    logits: Logits | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    measure: Measure = "svcca",
    layers: Layers = None,
    teacher_layers: Layers = None,
    out: Path | str | None = None,
    on_progress: OnProgress | None = None,
) -> Distillation:
    """Train students with the teacher and alone, and compare every layer of theirs with every layer of its.

    Args:
        task: What the students learn; both kinds start from the same weights and see the same batches, by seed.
        teacher: The trained network; see :func:`lrscope.tasks.distill` for it and for ``temperature``, ``weight``,
            ``scale`` and ``logits``.
        optimizer: Update rule of all students.
        lr, distilled_lr: Rates with the task's loss and with the teacher's. The second has no default: gradients of
            the two losses differ in size, and one rate for both compares a tuned run with an untuned one. Tune each.
        steps: Updates of each run; the task's own by default.
        drops: Shares of the run at which the rate falls to a tenth.
        seeds: Of the students; 3 or more, since the differences are small.
        measure, layers, teacher_layers: Similarity and layers; by default of all that have a matrix of weights.
        out: Directory; runs that are finished there are read, stopped ones go on.
        on_progress: Called with what is being done and its share done.

    Raises:
        ValueError, TypeError, TaskError: An argument is out of range, or student and teacher do not fit.
        MeasurementError: A student diverged.

    Cost: two trainings per seed, the distilled one with a forward pass of the teacher per step, and a pass over the
    evaluation set for each network.

    References:
        Gotmare, Keskar, Xiong, Socher, 2018, arXiv 1810.13243, section on distillation.
    """
    check_task(task)
    check_measure(measure)
    length = length_of(task, steps)
    seeds = _distinct(seeds)
    check_rate("lr", lr)
    check_rate("distilled_lr", distilled_lr)
    out = directory(out)
    kinds: dict[Student, tuple[Task, Schedule]] = {
        "alone": (task, with_drops(lr, length, drops)),
        "distilled": (
            distill(task, teacher, temperature, weight, scale=scale, logits=logits),
            with_drops(distilled_lr, length, drops),
        ),
    }
    check_layers(task.model(seeds[0]), layers)
    check_layers(teacher, teacher_layers, "teacher_layers")
    about: dict[Student, dict[str, Any]] = {
        "alone": {},
        "distilled": {
            "teacher": digest(teacher), "temperature": temperature, "weight": weight, "scale": scale,
        },
    }  # fmt: skip
    runs: dict[Student, list[Run]] = {kind: [] for kind in kinds}
    tables: dict[Student, list[np.ndarray]] = {kind: [] for kind in kinds}
    scores: dict[Student, dict[str, tuple[float, ...]]] = {}
    seen_teacher = recorded(task, {"teacher": teacher}, teacher_layers)["teacher"]
    rows, chance, cost = (), np.zeros((0, 0)), seen_teacher.cost
    for kind, (which, schedule) in kinds.items():
        for seed in seeds:
            run, states = trained(
                which, optimizer, schedule, length, {length}, name=f"{kind}-{seed}", seed=seed, out=out,
                on_progress=on_progress, about=about[kind],
            )  # fmt: skip
            if length not in states:
                rate = "lr" if kind == "alone" else "distilled_lr"
                raise MeasurementError(f"{rate}: the student {kind} of seed {seed} {run.status}; give a lower rate")
            seen = recorded(task, {"student": loaded(task, states[length], seed)}, layers)["student"]
            table, chance = matrix(seen, seen_teacher, measure)
            rows = tuple(seen)
            runs[kind].append(run)
            tables[kind].append(table)
            cost += run.cost + seen.cost
        columns = ("eval_loss", *task.metrics)
        scores[kind] = {name: tuple(run.final(name) for run in runs[kind]) for name in columns}
    return Distillation(
        rows,
        tuple(seen_teacher),
        {kind: np.stack(found) for kind, found in tables.items()},
        chance,
        scores,
        {kind: tuple(found) for kind, found in runs.items()},
        measure,
        cost,
    )


def _mean(values: Sequence[float]) -> str:
    """With its standard error over seeds, where there are several."""
    error = "" if len(values) < 2 else f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}"
    return f"{np.mean(values):.4g}{error}"


def _distinct(seeds: Any) -> tuple[int, ...]:
    if not isinstance(seeds, Sequence) or isinstance(seeds, str):
        raise TypeError(f"seeds: expected some whole numbers such as (0, 1, 2), got {seeds!r}")
    if not seeds:
        raise ValueError("seeds: got none; give 3 or more")
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seeds: expected whole numbers of 0 or more, got {seed!r}")
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds: {tuple(seeds)!r} names one twice, and two equal students hide how much seeds differ"
        )
    return tuple(seeds)
