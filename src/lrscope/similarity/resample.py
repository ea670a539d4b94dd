"""Chance and spread: permutations of the examples of one side, halves of the examples of both."""

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
    """Measure anew on random halves of the examples, drawn without replacement, everything included.

    With replacement, an example that is drawn twice agrees with itself: percentile intervals then miss the truth of
    biased measures nearly always, and reflected ones that of debiased CKA. A half has no twins; it scatters around
    the estimate as the estimate does around the truth (1/m - 1/N = 1/N for m = N/2), and it is off by the same bias
    (twice b/N, less b/N), which reflecting at the estimate takes off.
    """
    from lrscope.similarity.measure import Pair

    generator = torch.Generator().manual_seed(seed)
    examples, values = len(found[0].x), []
    for _ in range(samples):
        half = torch.randperm(examples, generator=generator)[: examples // 2].to(found[0].x.device)
        parts = [View(v.x[half], v.y[half], v.eps, v.weight) for v in found]
        try:
            values.append(sum(v.weight * Pair.of(measure, v).read(measure).similarity for v in parts))
        except ValueError as error:
            raise ValueError(f"bootstrap: half of the {examples} examples cannot be measured: {error}") from None
    low, high = np.quantile(values, [0.025, 0.975])
    ends = np.clip([2 * observed - high, 2 * observed - low], -1, 1)
    return Interval(float(ends[0]), float(ends[1]), samples)
