"""What warmup protects: how far each layer moves in the first steps, with warmup, without, and held still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lrscope.errors import MeasurementError
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost, Run
from lrscope.schedules import Constant, Schedule, nonzero_warmup
from lrscope.studies.layers import Layers, Measure, calibrated, check_layers, check_measure, recorded, same_layers
from lrscope.studies.runs import (
    OnProgress,
    check_rate,
    check_task,
    directory,
    length_of,
    loaded,
    movement,
    trained,
    with_drops,
)
from lrscope.tasks import Task
from lrscope.training.freezing import Freezing

WITH, WITHOUT, FROZEN, SMALL = "warmup", "no warmup", "no warmup, deep layers frozen", "small batch, no warmup"


@dataclass(frozen=True)
class Warmup:
    """What :func:`warmup` found.

    Attributes:
        layers: In the order they run.
        similarity: By run and layer: what the layer answers at step 0 against after ``warmup_steps``, and what
            unrelated data give. Empty for a run that diverged before.
        movement: By run and layer: distance the weights went between the two, in units of their norm at step 0.
            Another quantity than similarity: a layer that does not move answers otherwise if its input changes.
        scores: By run: ``eval_loss`` and metrics at the end; ``nan`` for a run that diverged.
        runs: The records.
        deep: Patterns of the layers that were held.
        warmup_steps: Updates of the warmup.
        measure: Of the similarities.
        cost: Trainings and recordings.
    """

    layers: tuple[str, ...]
    similarity: Mapping[str, Mapping[str, tuple[float, float]]]
    movement: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, Mapping[str, float]]
    runs: Mapping[str, Run]
    deep: tuple[str, ...]
    warmup_steps: int
    measure: str
    cost: Cost

    def __str__(self) -> str:
        lines = []
        for name, run in self.runs.items():
            scores = ", ".join(f"{k} {v:.4g}" for k, v in self.scores[name].items())
            last = self.similarity[name].get(self.layers[-1])
            alike = "" if last is None else f"; {self.measure} of {self.layers[-1]} with its start {last[0]:.2f}"
            lines.append(f"{name}: {run.status}, {scores}{alike}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layers": list(self.layers),
            "similarity": {n: {k: list(v) for k, v in found.items()} for n, found in self.similarity.items()},
            "movement": {n: dict(found) for n, found in self.movement.items()},
            "scores": {n: dict(found) for n, found in self.scores.items()},
            "runs": {name: run.to_dict() for name, run in self.runs.items()},
            "deep": list(self.deep),
            "warmup_steps": self.warmup_steps,
            "measure": self.measure,
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None) -> Any:
        """Similarity of each layer before and after the warmup, a line per run; returns the axes."""
        from lrscope.reports.figures.studies import by_layer

        return by_layer(self.to_dict(), "similarity", ax)

    def figure(self) -> Any:
        """Loss, learning rate, similarity and movement by layer; returns the Figure."""
        from lrscope.reports.figures.studies import warmup_figure

        return warmup_figure(self.to_dict())


def warmup(
    task: Task,
    optimizer: str | OptimizerSpec = "sgd(momentum=0)",
    *,
    lr: float,
    warmup_steps: int,
    steps: int | None = None,
    drops: Sequence[float] = (0.5, 0.75),
    deep: str | Sequence[str] | None = None,
    small: tuple[Task, float] | None = None,
    measure: Measure = "svcca",
    layers: Layers = None,
    seed: int = 0,
    out: Path | str | None = None,
    on_progress: OnProgress | None = None,
) -> Warmup:
    """Train with warmup, without, and without but with the deep layers held still for as long.

    The learning rate matters: the runs differ only in a window of rates where training without warmup fails and
    with it does not. Scan for it first; :func:`lrscope.critical_lr` at the start is its lower end.

    Args:
        task: What is trained; the statement is about large batches.
        optimizer: Update rule of all runs.
        lr: Rate after the warmup, and from the first step on without.
        warmup_steps: Updates of the linear warmup, and those for which the deep layers are held.
        steps: Updates of each run; the task's own by default.
        drops: Shares of the run at which the rate falls to a tenth.
        deep: Patterns of the layers near the output that are held; by default the second half of those with weights.
        small: Another task, the same with small batches, and its rate; it is trained without warmup over as many
            examples, and looked at after as many as a warmup sees.
        measure, layers: Similarity of the layers; by default of all that have a matrix of weights.
        seed: Of all runs.
        out: Directory; runs that are finished there are read, stopped ones go on.
        on_progress: Called with what is being done and its share done.

    Raises:
        ValueError: An argument is out of range, or a pattern matches nothing.

    Cost: three trainings (four with ``small``), and a pass over the evaluation set for each run.

    References:
        Gotmare, Keskar, Xiong, Socher, 2018, arXiv 1810.13243, section on warmup; Goyal et al., 2017, arXiv
        1706.02677, for the linear scaling of the rate with the batch.
    """
    check_task(task)
    check_measure(measure)
    length = length_of(task, steps)
    check_rate("lr", lr)
    if not isinstance(warmup_steps, int) or isinstance(warmup_steps, bool) or not 0 < warmup_steps < length:
        raise ValueError(f"warmup_steps: expected a whole number between 1 and {length - 1}, got {warmup_steps!r}")
    check_layers(task.model(seed), layers)
    if small is not None:
        if not isinstance(small, tuple) or len(small) != 2 or not isinstance(small[0], Task):
            raise TypeError(f"small: expected a pair of a lrscope Task and its learning rate, got {small!r:.80}")
        check_rate("small", small[1])
    if isinstance(deep, str):
        deep = (deep,)
    deep = tuple(deep if deep is not None else second_half(task.model(seed)))
    held = dict.fromkeys(deep, warmup_steps)
    Freezing(held, task.model(seed))  # refuses patterns that match nothing
    spec = OptimizerSpec.parse(optimizer)
    out = directory(out)
    flat = with_drops(lr, length, drops)
    asked: dict[str, tuple[Task, Schedule, int, int, Mapping[str, int] | None]] = {
        WITH: (task, nonzero_warmup(warmup_steps).then(Constant(1.0)) * flat, length, warmup_steps, None),
        WITHOUT: (task, flat, length, warmup_steps, None),
        FROZEN: (task, flat, length, warmup_steps, held),
    }
    if small is not None:
        other, rate = small
        ratio = task.count(task.batches(1)[0]) / other.count(other.batches(1)[0])
        longer = round(length * ratio)
        asked[SMALL] = (other, with_drops(rate, longer, drops), longer, round(warmup_steps * ratio), None)
    runs: dict[str, Run] = {}
    similarity: dict[str, dict[str, tuple[float, float]]] = {}
    moved: dict[str, dict[str, float]] = {}
    names: tuple[str, ...] = ()
    cost = Cost()
    for name, (which, schedule, num, after, frozen) in asked.items():
        file = name.replace(",", "").replace(" ", "-")
        run, states = trained(
            which,
            spec,
            schedule,
            num,
            {0, after},
            name=file,
            seed=seed,
            out=out,
            on_progress=on_progress,
            frozen=frozen,
        )
        runs[name], similarity[name], moved[name] = run, {}, {}
        cost += run.cost
        if after not in states:  # it diverged before
            continue
        models = {"start": loaded(which, states[0], seed), "end": loaded(which, states[after], seed)}
        seen = recorded(task, {key: calibrated(task, model) for key, model in models.items()}, layers)
        similarity[name] = same_layers(seen["start"], seen["end"], measure)
        names = names or tuple(similarity[name])
        moved[name] = {layer: movement(states[0], states[after], layer.partition("#")[0]) for layer in names}
        cost += seen["start"].cost + seen["end"].cost
    if not names:
        raise MeasurementError(f"lr: every run diverged within the first {warmup_steps} steps; give a lower one")
    columns = ("eval_loss", *task.metrics)
    scores = {name: {c: run.final(c) for c in columns} for name, run in runs.items()}  # nan where it diverged
    return Warmup(names, similarity, moved, scores, runs, deep, warmup_steps, measure, cost)


def second_half(model: nn.Module) -> list[str]:
    """Of the modules with a matrix of weights the half nearer to the output, in the order they were made."""
    holders = [n for n, m in model.named_modules() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    if len(holders) < 2:
        raise ValueError(f"deep: the model has {len(holders)} layer(s) with weights, so no deep half; name patterns")
    return [f"{name}.*" for name in holders[(len(holders) + 1) // 2 :]]
