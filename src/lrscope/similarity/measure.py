"""One measurement from the arguments to the result: shapes, sides, formula, guards, resampling."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning
from lrscope.records import Cost
from lrscope.similarity.guards import guards_of
from lrscope.similarity.measures import Measure, Norms, Reading, squared_lengths
from lrscope.similarity.resample import bootstrap_interval, permutation_null
from lrscope.similarity.result import Similarity
from lrscope.similarity.shapes import Activations, Channels, Spatial, View, views
from lrscope.similarity.side import Side


@dataclass(frozen=True)
class Pair:
    """Two sides whose rows are at hand; the lengths of rows are there only for measures that want them."""

    x: Side
    y: Side
    lengths: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, measure: Measure, view: View) -> Pair:
        x = Side.of(view.x, view.eps[0], "x")
        y = x if view.y is view.x else Side.of(view.y, view.eps[1], "y")
        return cls.of_sides(measure, x, y)

    @classmethod
    def of_sides(cls, measure: Measure, x: Side, y: Side) -> Pair:
        measure.refuse(x, y)
        return cls(x, y, (squared_lengths(x), squared_lengths(y)) if measure.needs_norms else None)

    def read(self, measure: Measure, order: Tensor | None = None) -> Reading:
        """The measure, with the examples of y in ``order``; what belongs to one side alone is not computed again."""
        norms = None
        if self.lengths is not None:
            a, b = self.lengths
            if order is not None:
                b = b.reshape(len(order), -1)[order].flatten()
            norms = Norms.of(a, b)
        return measure.read(self.x, self.y, self.x.cross(self.y, order), norms)


def measured(
    measure: Measure,
    x: Activations,
    y: Activations,
    *,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    null: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Similarity:
    """Measure, guard and warn; the public functions are this with their measure filled in."""
    began = time.perf_counter()
    for name, count in (("null", null), ("bootstrap", bootstrap)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0 or count == 1:
            raise ValueError(f"{name}: expected a number of resamples, 0 (none) or at least 2, got {count!r}")
    with torch.no_grad():
        found = views(x, y, spatial, channels)
        pairs = [Pair.of(measure, view) for view in found]
        weights = [view.weight for view in found]
        examples = len(found[0].x)
        parts = [result_of(measure, pair.read(measure), pair.x, pair.y, examples) for pair in pairs]
        result = parts[0] if len(parts) == 1 else _mean(parts, weights)
        if null:

            def value(order: Tensor) -> float:
                return sum(w * p.read(measure, order).similarity for w, p in zip(weights, pairs, strict=True))

            result = replace(result, null=permutation_null(value, result.similarity, examples, null, seed))
        if bootstrap:
            result = replace(result, interval=bootstrap_interval(measure, found, result.similarity, bootstrap, seed))
    warn(result)
    return replace(result, cost=Cost(seconds=time.perf_counter() - began))


def result_of(measure: Measure, reading: Reading, x: Side, y: Side, examples: int) -> Similarity:
    return Similarity(
        measure.name,
        reading.similarity,
        reading.distance,
        measure.formula,
        reading.correlations,
        reading.weights,
        examples,
        x.num_rows,
        (x.dim, y.dim),
        reading.ranks,
        reading.chance,
        guards_of(x, y, reading, examples),
    )


def warn(result: Similarity) -> None:
    """An LrscopeWarning when the value should not be trusted."""
    for guard in result.guards:
        if guard.kind == "few_samples":
            warnings.warn(f"{result.measure}: {guard.message}", LrscopeWarning, stacklevel=4)


def _mean(parts: list[Similarity], weights: list[float]) -> Similarity:
    """One result of several frequencies; each kind of guard is kept once per side, from the worst of them."""
    worst = {}
    for part in parts:
        for guard in part.guards:
            key = (guard.kind, guard.side)
            if key not in worst or (guard.needed or 0) > (worst[key].needed or 0):
                worst[key] = guard
    return replace(
        parts[0],
        similarity=float(np.average([p.similarity for p in parts], weights=weights)),
        distance=float(np.average([p.distance for p in parts], weights=weights)),
        formula=f"mean over frequencies of {parts[0].formula}",
        correlations=np.empty(0),
        weights=np.empty(0),
        ranks=(max(p.ranks[0] for p in parts), max(p.ranks[1] for p in parts)),
        chance=float(np.average([p.chance for p in parts], weights=weights)),
        guards=tuple(worst.values()),
        parts=tuple(parts),
        part_weights=tuple(weights),
    )
