"""Find loss catapults in a recorded run: the loss climbs out of its level and comes back lower."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lrscope.records import Run

RISE = 1.15
"""A climb of the smoothed loss by less than this factor is not called a catapult, however quiet the run."""
NOISE = 8.0
"""Nor is one below this many standard deviations of the smoothed loss's own noise."""


@dataclass(frozen=True)
class Catapult:
    """One excursion of the loss.

    Attributes:
        onset: Step at which the loss was last at its lowest level so far.
        peak: Step of the highest smoothed loss of the excursion.
        end: First step back at the level of the onset; ``None`` if the run ended first.
        ratio: Smoothed loss at the peak over that at the onset (for losses that reach zero or below: both above the
            lowest loss of the run less a twentieth of its range).
    """

    onset: int
    peak: int
    end: int | None
    ratio: float


def find_catapults(run: Run) -> list[Catapult]:
    r"""Catapults in the training loss of ``run``.

    The log loss is smoothed by a running median (1 % of the run), which forgives single bad batches. Where it
    stands above its running minimum m by more than
    :math:`\max(\log RISE, NOISE \cdot \sigma)`, with :math:`\sigma` the noise of the smoothed loss estimated from
    the median jump between neighbouring batches, an excursion is open; it closes when the loss is back at m.

    Cost: one pass over the recorded losses. Stages as in Kalra & Barkeshli 2024 (approach, loss
    rises, sharpness drops, loss falls again).
    """
    if "loss" not in run.columns:
        return []
    steps, loss = run["loss"]
    if len(loss) < 10:
        return []
    # A loss that reaches zero or below has no log: its height above its lowest value is judged instead, with a floor
    # so that the neighbourhood of the lowest value does not count as a fall without end.
    shift = 0.0 if loss.min() > 0 else 0.05 * float(np.ptp(loss)) - float(loss.min())
    x = np.log(loss + shift) if np.ptp(loss) > 0 else np.zeros_like(loss)
    width = max(1, len(x) // 200) * 2 + 1 if _noise(x) > 1e-3 else 1
    smooth = _running_median(x, width)
    threshold = max(math.log(RISE), NOISE * 1.2533 * _noise(x) / math.sqrt(width))  # a median's spread
    found: list[Catapult] = []
    lowest, onset, at = smooth[0], 0, 0
    while at < len(smooth):
        if smooth[at] <= lowest:
            lowest, onset = smooth[at], at
        elif smooth[at] > lowest + threshold:
            back = np.flatnonzero(smooth[at:] <= lowest)
            end = at + int(back[0]) if len(back) else None
            peak = at + int(np.argmax(smooth[at:end]))
            found.append(
                Catapult(
                    int(steps[onset]),
                    int(steps[peak]),
                    int(steps[end]) if end is not None else None,
                    math.exp(smooth[peak] - lowest),
                )
            )
            if end is None:
                break
            at = end
            continue
        at += 1
    return found


def _noise(x: np.ndarray) -> float:
    """Standard deviation of batch noise in x: from the median jump between neighbours, blind to trends and jumps."""
    return float(1.4826 * np.median(np.abs(np.diff(x))) / math.sqrt(2))


def _running_median(x: np.ndarray, width: int) -> np.ndarray:
    half = width // 2
    padded = np.pad(x, half, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=-1)
