"""A schedule from the gradient norms of an earlier run."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.schedules.base import FloatArray, Schedule
from lrscope.schedules.checks import number, short, whole
from lrscope.schedules.ramps import Linear
from lrscope.schedules.table import Table

_EDGE = 2  # points dropped at each end: the first gradients and the last ones are not like the others
_COLLAPSE = 0.3


def refined(
    gradient_norms: ArrayLike, *, norm: str = "l2", steps: int | None = None, smoothing: float = 0.1
) -> Schedule:
    r"""The schedule that is best for the gradient norms of an earlier run of the same job.

    With the smoothed norms G,

    .. math:: w_t = G_t^{-2} \;(\text{l2}) \quad\text{or}\quad G_t^{-1} \;(\text{l1}), \qquad
        s(t) \propto w_t \sum_{p > t} w_p,

    scaled to a largest value of 1: a warmup appears where the first gradients are large, and where they grow the
    end comes sooner. Constant norms give a line to zero. Only the shape is meant to be used; tune the peak anew,
    within a factor of two or three of the old one.

    Where the norms vanish (training data that the model can fit exactly) the weights would put the peak at the end
    of the run. Then a LrscopeWarning says so and the answer is linear decay to zero: if the smallest smoothed norm
    is less than 0.3 of the median, or the peak lies after half of the run.

    Args:
        gradient_norms: One norm per update, shape ``(n,)``, n of 16 or more; values that are not finite are left out,
            and so are the first two and the last two.
        norm: ``"l2"`` for SGD (the Euclidean norm), ``"l1"`` for Adam and its kin (the sum of absolute values).
        steps: Length of the next run; that of the old one unless given.
        smoothing: Width of the median filter, as a share of the run.

    Raises:
        ScheduleError: Too few norms, a norm that is negative, an unknown ``norm``.

    Example:
        >>> refined([1.0] * 20, steps=4).values(5).round(2)
        array([1.  , 0.75, 0.5 , 0.25, 0.  ])

    References:
        Defazio, Cutkosky, Mehta, Mishchenko, When, Why and How Much? Adaptive Learning Rate Scheduling by
        Refinement, 2023, arXiv 2310.07831. The guard against vanishing norms is ours.
    """
    if norm not in ("l2", "l1"):
        raise ScheduleError(f"refined: norm must be 'l2' (SGD) or 'l1' (Adam), got {short(norm)}")
    if not 0 < number("refined", "smoothing", smoothing) <= 1:
        raise ScheduleError(
            f"refined: smoothing must be above 0 and at most 1, a share of the run, got {short(smoothing)}"
        )
    try:
        norms = np.asarray(gradient_norms, dtype=np.float64)
    except (TypeError, ValueError):
        raise ScheduleError(f"refined: gradient_norms must be numbers, got {short(gradient_norms)}") from None
    if norms.ndim != 1:
        raise ScheduleError(f"refined: gradient_norms must be one number per update, shape (n,), got {norms.shape}")
    count = norms.size if steps is None else whole("refined", "steps", steps, at_least=1)
    finite = norms[np.isfinite(norms)]
    if (finite < 0).any():
        raise ScheduleError(f"refined: norms are 0 or more, got {finite.min():g}")
    if finite.size < 16:
        raise ScheduleError(f"refined: needs 16 finite norms or more, got {finite.size}; log one for every update")
    smooth = _median_filter(finite[_EDGE:-_EDGE] / (finite.max() or 1.0), smoothing)  # only the shape counts
    if smooth.min() < _COLLAPSE * np.median(smooth) or smooth.min() == 0:
        return _linear_instead("the gradient norms vanish on the way", count)
    weights = smooth ** (-2.0 if norm == "l2" else -1.0)
    tails = np.append(np.cumsum(weights[::-1])[::-1][1:], 0.0)
    values = weights * tails
    if np.argmax(values) > values.size / 2:
        return _linear_instead("the refined peak lies in the second half of the run", count)
    shape = Table(tuple((values / values.max()).tolist()))
    # The last entry, 0, belongs to the end of the run: n - 1 intervals are stretched, not n.
    return shape.first(len(shape.entries) - 1).stretch(count)


def _median_filter(values: FloatArray, share: float) -> FloatArray:
    """Running medians; the right end is mirrored, the left one repeated, since a run starts abruptly."""
    half = max(int(share * values.size / 2), 1)
    padded = np.concatenate([np.full(half, values[0]), values, values[-2 : -2 - half : -1]])
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)


def _linear_instead(why: str, steps: int) -> Linear:
    warnings.warn(f"refined: {why}; linear decay to zero is used instead", LrscopeWarning, stacklevel=3)
    return Linear(1.0, 0.0, steps)
