"""Chance and spread: permutations of the examples of one side, resamples of the examples of both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lrscope.similarity.measures import Measure
from lrscope.similarity.result import Interval, Null
from lrscope.similarity.shapes import View


def permutation_null(
    value: Callable[[Tensor], float], observed: float, examples: int, samples: int, seed: int
) -> Null:
    """``value(order)`` under random orders of the examples of y."""
    generator = torch.Generator().manual_seed(seed)
    found = np.array([value(torch.randperm(examples, generator=generator)) for _ in range(samples)])
    # A permutation that leaves everything in place must count as "at least as large", also after rounding.
    at_least = int((found >= observed - 1e-12).sum())
    return Null(
        float(found.mean()),
        float(found.std(ddof=1)),
        float(np.quantile(found, 0.95)),
        (1 + at_least) / (1 + samples),
        samples,
    )


def bootstrap_interval(measure: Measure, found: list[View], observed: float, samples: int, seed: int) -> Interval:
    """Resample examples with replacement and measure anew, everything included."""
    from lrscope.similarity.measure import Pair

    generator = torch.Generator().manual_seed(seed)
    examples, values = len(found[0].x), []
    for _ in range(samples):
        drawn = torch.randint(examples, (examples,), generator=generator)
        where = drawn.to(found[0].x.device)
        total = 0.0
        for view in found:
            again = View(view.x[where], view.y[where], view.eps)
            total += view.weight * Pair.of(measure, again).read(measure).similarity
        values.append(total)
    low, high = np.quantile(values, [0.025, 0.975])
    # Repeated examples push every resample up by about what chance adds to the estimate itself, so the interval is
    # reflected at the estimate ("basic" bootstrap): the push is taken off instead of being counted twice.
    ends = np.clip([2 * observed - high, 2 * observed - low], -1, 1)
    return Interval(float(ends[0]), float(ends[1]), samples)
