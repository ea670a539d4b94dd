"""Layers of networks compared by what they answer to the same examples."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import LrscopeWarning
from lrscope.isolation import isolated_rng, mode_of
from lrscope.similarity import Recording, Similarity, cka, compare, procrustes, pwcca, record, svcca
from lrscope.similarity.layers import find_layers
from lrscope.tasks import Task

Measure = Literal["svcca", "pwcca", "cka", "procrustes"]
Layers = str | Sequence[str] | None
MEASURES: Mapping[str, Callable[..., Similarity]] = {
    "svcca": svcca,
    "pwcca": pwcca,
    "cka": cka,
    "procrustes": procrustes,
}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "svcca": {"variance": 0.99},
    "pwcca": {},
    "cka": {"debiased": True},
    "procrustes": {},
}
"""CKA is the debiased one, which says something also for more units than examples."""


def check_measure(measure: str) -> None:
    if measure not in get_args(Measure):
        raise ValueError(f"measure: expected one of {', '.join(get_args(Measure))}, got {measure!r}")


def check_layers(model: nn.Module, layers: Layers, name: str = "layers") -> None:
    """Refuse names that match nothing, before any work."""
    try:
        find_layers(model, layers)
    except (ValueError, TypeError) as error:
        raise type(error)(str(error).replace("layers", name, 1)) from None


def recorded(
    task: Task, models: Mapping[str, nn.Module], layers: Layers = None, *, max_examples: int | None = None
) -> dict[str, Recording]:
    """Activations of each model on the evaluation set (the training set, if there is none), means over positions.

    Without ``layers`` those modules that hold a matrix of weights, in the order they run.
    """
    found = record(models, task, layers, spatial="average", max_examples=max_examples)
    if layers is not None:
        return found
    return {name: _with_weights(recording, models[name]) for name, recording in found.items()}


def _with_weights(recording: Recording, model: nn.Module) -> Recording:
    """What modules with a matrix of their own answered: activations and norms only follow them."""
    holders = [n for n, m in model.named_modules() if any(p.ndim > 1 for p in m.parameters(recurse=False))]

    def belongs(key: str) -> bool:
        return any(key == h or key.startswith((f"{h}#", f"{h}.", f"{h}[")) for h in holders)

    kept = {key: value for key, value in recording.activations.items() if belongs(key)}
    if not kept:
        return recording
    return Recording(kept, recording.examples, recording.skipped, recording.inputs, recording.cost)


def compared(x: Tensor, y: Tensor, measure: str) -> tuple[float, float]:
    """Similarity, and what unrelated data of this size give; ``nan`` where the measure says nothing.

    Guards are not repeated for each of many pairs: the level of chance beside each number says the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LrscopeWarning)
        try:
            found = MEASURES[measure](x, y, **OPTIONS[measure])
        except ValueError:  # no unit that varies (all dead), or fewer examples than directions
            return math.nan, math.nan
    return found.similarity, found.chance


def matrix(a: Recording, b: Recording, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """Each layer of ``a`` with each of ``b``: similarity and chance, ``(len(a), len(b))``; ``nan`` where none."""
    values, chance = np.full((2, len(a), len(b)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LrscopeWarning)
        try:
            found = compare(a, b, measure, **OPTIONS[measure])
        except ValueError:  # no pair could be measured
            return values, chance
    for (i, row), (j, column) in itertools.product(enumerate(a), enumerate(b)):
        if (row, column) in found.results:
            values[i, j], chance[i, j] = found[row, column].similarity, found[row, column].chance
    return values, chance


def same_layers(a: Recording, b: Recording, measure: str) -> dict[str, tuple[float, float]]:
    """Similarity and chance of each layer with itself in the other network."""
    return {layer: compared(a[layer], b[layer], measure) for layer in a if layer in b}


@torch.no_grad()
def calibrated(task: Task, model: nn.Module) -> nn.Module:
    """``model`` with BatchNorm statistics of the training set: those of an untrained network are placeholders."""
    norms: list[Any] = [m for m in model.modules() if isinstance(getattr(m, "running_mean", None), Tensor)]
    if not norms:
        return model
    momenta = [m.momentum for m in norms]
    with isolated_rng(0), mode_of(model, training=True, dropout=False):
        seen = 0
        for batch in task.batches():
            seen += task.count(batch)
            for m in norms:
                m.momentum = task.count(batch) / seen  # a mean over all examples; the first batch forgets the rest
            task.loss_fn(model, batch)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return model
