"""What a cell measures besides its loss, at the start and at the end of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lrscope.curvature import sharpness
from lrscope.objective import Objective
from lrscope.tasks import Task

MEASURES = ("sharpness",)


def check(measure: Any) -> tuple[str, ...]:
    """Names of what is measured.

    Raises:
        ValueError: One that is not known.
    """
    names = tuple(measure.split(",")) if isinstance(measure, str) else tuple(measure)
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"measure: {name!r} is not known; choose from {', '.join(MEASURES)}")
    return names


def measures(names: Sequence[str], task: Task, seeds: Sequence[int]) -> dict[str, Any]:
    """Hooks of :func:`~lrscope.training.run_cells` for runs of these seeds.

    ``sharpness`` is the largest Hessian eigenvalue of the loss of the seed's first training batch, to a residual of
    1 %; about 20 gradients for each reading. Runs of one seed start alike, so they share the first one.
    """
    if "sharpness" not in names:
        return {}
    batches = {seed: task.batches(1, seed=seed) for seed in dict.fromkeys(seeds)}
    known: dict[int, float] = {}

    def read(index: int, model: nn.Module) -> float:
        found = sharpness(Objective(model, task.loss_fn, batches[seeds[index]], count=task.count))
        return float(found.values[0]) if found.converged else float("nan")

    def at_start(index: int, model: nn.Module) -> Mapping[str, float]:
        if seeds[index] not in known:
            known[seeds[index]] = read(index, model)
        return {"sharpness_start": known[seeds[index]]}

    def at_end(index: int, model: nn.Module) -> Mapping[str, float]:
        return {"sharpness_end": read(index, model)}

    return {"at_start": at_start, "at_end": at_end}
