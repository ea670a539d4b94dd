"""The level of a noisy loss, and its excursions: smoothing, noise, and when a climb is no longer noise."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

RISE = 1.15
"""A climb of the smoothed loss by less than this factor is not called a jump, however quiet the run."""
NOISE = 8.0
"""Nor is one below this many standard deviations of the smoothed loss's own noise."""
MEMORY = 100
"""Updates within which the loss has to rise: a catapult takes O(log width) steps, under 100 in Lewkowycz et al. 2020,
and what rises more slowly is a drift."""
GIVE_UP = 10
"""Times the memory, after which a loss that has not come back has found a new level."""
WIDTHS = (3, 9, 27)
"""Losses that are smoothed together, each tried: the fewer show a short high jump, the more a low long one under
noise. Losses without noise, of the full batch, are taken as they are."""
SPREAD = {3: 0.6705, 9: 0.3587, 27: 0.2072}
"""Standard deviation of :func:`central_mean` of so many normal values, in theirs."""
ABRUPT = 0.25
"""A jump is abrupt if the losses beside the high ones are within this share of its height, or the noise, of its
level: growth, be it only by a factor of four per update, leaves steps on the way."""
RECENT = 200
"""Losses that the noise is estimated from, around each or before it: it falls by orders of magnitude in a run."""


class Excursion(NamedTuple):
    """Steps at which the loss left its level, was highest, came back (``None``: it has not); the rise of its log.

    ``floor`` is the log loss that it rose from; ``abrupt`` says that noisy losses came and went at once, as bad
    batches do.
    """

    onset: int
    peak: int
    end: int | None
    height: float
    floor: float = 0.0
    abrupt: bool = False


class Level:
    """The level of a smoothed log loss, and whether it is out of it.

    Args:
        stride: Updates between two values, as far as known beforehand.
    """

    def __init__(self, stride: int = 1) -> None:
        self.memory = max(MEMORY, 10 * stride)
        self.past: deque[tuple[int, float]] = deque()  # lower than all that came later, so rising
        self.open = False
        self.onset = self.peak = 0
        self.lowest = self.top = 0.0

    def see(self, step: int, x: float, sigma: float) -> Excursion | None:
        """The next value, whose noise is ``sigma``; returns an excursion that is over."""
        if self.open:
            if x > self.top:
                self.top, self.peak = x, step
            height = self.top - self.lowest
            back = x <= self.lowest + max(0.1 * height, min(2 * sigma, 0.5 * height))
            if not back and step - self.onset <= GIVE_UP * self.memory:
                return None
            self.open = False
            self.past = deque([(step, x)])
            return self.excursion(step if back else None)
        while self.past and self.past[0][0] < step - self.memory:
            self.past.popleft()
        threshold = max(math.log(RISE), NOISE * sigma)
        if self.past and x > (lowest := self.past[0][1]) + threshold:
            near = lowest + max(0.1 * (x - lowest), 2 * sigma)
            self.onset = max(s for s, v in self.past if v <= near)
            self.lowest, self.top, self.peak, self.open = lowest, x, step, True
        while self.past and self.past[-1][1] >= x:
            self.past.pop()
        self.past.append((step, x))
        return None

    @property
    def earliest(self) -> int:
        """Step from which on an excursion began or could begin."""
        return self.onset if self.open else self.past[0][0] if self.past else 0

    def excursion(self, end: int | None) -> Excursion:
        return Excursion(self.onset, self.peak, end, self.top - self.lowest, self.lowest)

    def state_dict(self) -> dict[str, Any]:
        return vars(self) | {"past": [list(p) for p in self.past]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.past = deque((s, v) for s, v in state["past"])


def excursions(steps: np.ndarray, x: np.ndarray) -> list[Excursion]:
    """All excursions of a log loss, by their onsets; one that fewer losses have shown is not told again."""
    noise, stride = local_noise(x), int(np.median(np.diff(steps)))
    found: list[Excursion] = []
    for width in widths(len(x)):
        level, smooth = Level(stride), running_mean(x, width)
        values = zip(steps.tolist(), smooth.tolist(), spread(noise, width).tolist(), strict=True)
        seen = [e for value in values if (e := level.see(*value))]
        seen += [level.excursion(None)] if level.open else []
        fresh = [e for e in seen if not any(overlap(e, f) for f in found)]
        found += fresh if width == 1 else [e._replace(abrupt=is_abrupt(e, steps, x, noise)) for e in fresh]
    return sorted(found)


def is_abrupt(found: Excursion, steps: np.ndarray, x: np.ndarray, noise: np.ndarray) -> bool:
    """Whether ``x`` goes from its level to half the height of the excursion within one loss, and back within one.

    ``noise`` is that of each loss. Where a single loss says nothing, under five times the noise, the answer is no.
    """
    begin, last = np.searchsorted(steps, (found.onset, steps[-1] if found.end is None else found.end))
    high = begin + np.flatnonzero(x[begin : last + 1] > found.floor + 0.5 * found.height)
    if not len(high) or found.height < 5 * noise[begin]:
        return False
    near = found.floor + max(ABRUPT * found.height, 2 * noise[begin])
    return bool(max(x[max(high[0] - 1, 0)], x[min(high[-1] + 1, len(x) - 1)]) <= near)


def overlap(a: Excursion, b: Excursion) -> bool:
    return a.onset <= (math.inf if b.end is None else b.end) and b.onset <= (math.inf if a.end is None else a.end)


def noise_of(x: np.ndarray) -> float:
    """Standard deviation of batch noise in x: from the median second difference, blind to trends and to jumps."""
    return float(1.4826 * np.median(np.abs(np.diff(x, 2))) / math.sqrt(6))


def local_noise(x: np.ndarray) -> np.ndarray:
    """:func:`noise_of` the values around each, a new one every tenth of the window."""
    if len(x) <= RECENT:
        return np.full(len(x), noise_of(x))
    starts = np.unique(np.append(np.arange(0, len(x) - RECENT, RECENT // 10), len(x) - RECENT))
    return np.interp(np.arange(len(x)), starts + RECENT / 2, [noise_of(x[i : i + RECENT]) for i in starts])


def widths(length: int) -> tuple[int, ...]:
    """How many losses to smooth together; no more than a fifth of what there is, as they would see but themselves."""
    return (1, *(w for w in WIDTHS if 5 * w <= max(length, 5 * WIDTHS[0])))


def spread(noise: Any, width: int) -> Any:
    """Standard deviation of a smoothed value; of one noisy value ``inf``, as it tells nothing."""
    return np.where(noise <= 1e-3, noise, np.inf) if width == 1 else SPREAD[width] * noise


def central_mean(x: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis: nearly as forgiving as a median, and a sixth less noisy."""
    width = x.shape[-1]
    cut = 0 if width == 1 else max(1, width // 4)
    return np.sort(x, axis=-1)[..., cut : width - cut].mean(axis=-1)


def running_mean(x: np.ndarray, width: int) -> np.ndarray:
    """Central means of full windows; at the ends the outermost one, since part of a window would be noisier."""
    inner = central_mean(np.lib.stride_tricks.sliding_window_view(x, width))
    return np.pad(inner, width // 2, mode="edge")
