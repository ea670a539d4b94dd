"""Loss catapults, live or in a record: the loss jumps out of its level and comes back, with a sharpness that fell."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lrscope.records import Run

RISE = 1.15
"""A climb of the smoothed loss by less than this factor is not called a jump, however quiet the run."""
NOISE = 8.0
"""Nor is one below this many standard deviations of the smoothed loss's own noise."""
MEMORY = 100
"""Updates within which the loss has to rise: a catapult takes O(log width) steps, under 100 in Lewkowycz et al. 2020,
and what rises more slowly is a drift."""
WIDTHS = (3, 9, 27)
"""Losses that a running median smooths, each tried: the shorter shows a short high jump, the longer a low long one
under noise. Losses without noise, of the full batch, are taken as they are."""
FELL = 0.98
"""A jump that leaves less than this share of the sharpness has flattened the loss, where readings are exact enough:
measured at the edge of stability, small catapults take 4 to 9 % of it."""
_GIVE_UP = 10 * MEMORY
"""Updates after which a loss that has not come back has found a new level."""
_READINGS = 50
"""Readings of the sharpness that its noise is estimated from."""
_RECENT = 200
"""Losses that the noise is estimated from, around each or before it: it falls by orders of magnitude in a run."""


@dataclass(frozen=True)
class Catapult:
    """One excursion of the loss.

    Attributes:
        onset: Step at which the loss left its level.
        peak: Step of the highest smoothed loss of the excursion.
        end: First step back at the level of the onset; ``None`` if it has not come back.
        ratio: Smoothed loss at the peak over that at the onset (for losses that reach zero or below: both above the
            lowest loss of the run less a twentieth of its range).
        sharpness_before: Last reading up to the onset, or the first one up to the peak; ``None`` if there is none.
        sharpness_after: First reading from the end on, or else the last one after the peak.
        headroom: Largest reading from the one at the onset to the peak.
        noise: Standard deviation of the readings of the sharpness, as a share of it.
    """

    onset: int
    peak: int
    end: int | None
    ratio: float
    sharpness_before: float | None = None
    sharpness_after: float | None = None
    headroom: float | None = None
    noise: float = 0.0

    @property
    def kind(self) -> Literal["catapult", "spike", "climb"]:
        """``"climb"``: it has not come back. ``"spike"``: it came back, and the sharpness had not fallen to
        :data:`FELL` or by three times its noise. ``"catapult"``: it came back, and the sharpness fell, or nobody
        measured it.
        """
        if self.end is None:
            return "climb"
        if self.sharpness_before is None or self.sharpness_after is None:
            return "catapult"
        return "catapult" if self.fell else "spike"

    @property
    def fell(self) -> bool:
        """Whether the sharpness is lower afterwards, by more than its readings vary."""
        if self.sharpness_before is None or self.sharpness_after is None:
            return False
        return self.sharpness_after < self.sharpness_before * min(FELL, math.exp(-3 * self.noise))

    def __str__(self) -> str:
        back = f"came back by step {self.end:,}" if self.end is not None else "had not come back when the record ends"
        text = f"the loss jumped by x{self.ratio:.2g} at step {self.onset:,} and {back}"
        before, after = self.sharpness_before, self.sharpness_after
        if before is not None and after is not None:
            text += f"; sharpness {'fell' if self.fell else 'went'} from {before:.3g} to {after:.3g}"
            if self.end is not None:
                text += ": a catapult" if self.fell else ", which is no fall: a spike rather than a catapult"
        if self.headroom is not None:
            times = f"{self.headroom:.2g} times" if self.headroom > 1 else f"only {self.headroom:.2g} of"
            text += f"; the learning rate was {times} what curvature allows"
        return text


def find_catapults(run: Run) -> list[Catapult]:
    r"""Catapults, spikes and climbs in the training loss of ``run``; :attr:`Catapult.kind` tells them apart.

    The log loss is smoothed by running medians, which forgives single bad batches. Where one of them rises within
    :data:`MEMORY` updates by more than
    :math:`\max(\log RISE, NOISE \cdot \sigma)`, with :math:`\sigma` the noise of the smoothed loss estimated from
    second differences of neighbouring batches (blind to trends), an excursion is open; it closes when all but a tenth
    of the rise is gone. The columns ``sharpness`` and ``headroom`` are read beside it, where they are.

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
    noise, stride = _local_noise(x), int(np.median(np.diff(steps)))
    found: list[Catapult] = []
    for width in _widths(len(x)):
        level, smooth = _Level(stride), _running_median(x, width)
        values = zip(steps.tolist(), smooth.tolist(), _spread(noise, width).tolist(), strict=True)
        seen = [c for value in values if (c := level.see(*value))]
        seen += [level.excursion(None)] if level.open else []
        found += [c for c in seen if not any(_overlap(c, d) for d in found)]
    return [_with_curvature(c, run) for c in sorted(found, key=lambda c: c.onset)]


class CatapultDetector:
    """:func:`find_catapults` while the run goes on: one call per update, no look ahead.

    It lags behind by half of a median's width, the price of forgiving single bad batches, and knows the noise from
    the last losses only. Losses have to be positive; others are passed over.

    Example:
        >>> detector = CatapultDetector()
        >>> loss = [1.0] * 50 + [2.0, 4.0, 6.0, 4.0, 2.0, 1.0] + [0.9] * 20
        >>> [str(c) for step, value in enumerate(loss) if (c := detector.update(step, value))]
        ['the loss jumped by x6 at step 49 and came back by step 55']
    """

    def __init__(self) -> None:
        self._levels = {width: _Level(1) for width in (1, *WIDTHS)}
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)
        self._readings: list[Reading] = []
        self._last: Catapult | None = None
        self._noise, self._age = 0.0, 0

    @property
    def open(self) -> bool:
        """Whether the loss is out of its level now."""
        return any(level.open for level in self._levels.values())

    def update(
        self, step: int, loss: float, *, sharpness: float | None = None, headroom: float | None = None
    ) -> Catapult | None:
        """Note the loss of an update, and readings where there are; returns an excursion when it is over.

        Cost: about 50 microseconds.
        """
        for name, value in (("sharpness", sharpness), ("headroom", headroom)):
            if value is not None and math.isfinite(value):
                self._readings.append((step, name, float(value)))
        if not 0 < loss < math.inf:
            return None
        self._recent.append((step, math.log(loss)))
        if len(self._recent) < 10:
            return None
        if self._age % 10 == 0 or len(self._recent) < 2 * WIDTHS[-1]:
            self._noise = noise_of(np.array([v for _, v in self._recent]))
        self._age += 1
        last = [self._recent[i] for i in range(-min(len(self._recent), WIDTHS[-1]), 0)]
        over = None
        for width in _widths(len(self._recent)):
            middle, level = last[-1 - width // 2][0], self._levels[width]
            smooth = sorted(v for _, v in last[-width:])[width // 2]
            found = level.see(middle, smooth, float(_spread(self._noise, width)))
            if found is not None and over is None and not (self._last and _overlap(found, self._last)):
                self._last = over = _with_readings(found, self._readings)
        self._forget()
        return over

    def _forget(self) -> None:
        """Keep the readings that an excursion may still need: the last of each kind before it, and all since."""
        since = min((level.onset if level.open else level.earliest) for level in self._levels.values() if level.past)
        old = {name: (s, name, v) for s, name, v in self._readings if s <= since}
        self._readings = [*old.values(), *(r for r in self._readings if r[0] > since)]

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of them; a detector that loads it goes on as if never interrupted."""
        return {
            "levels": {width: level.state_dict() for width, level in self._levels.items()},
            "recent": [list(r) for r in self._recent],
            "readings": [list(r) for r in self._readings],
            "last": None if self._last is None else vars(self._last),
            "noise": [self._noise, self._age],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for width, level in self._levels.items():
            level.load_state_dict(state["levels"][width])
        self._recent = deque(((s, v) for s, v in state["recent"]), maxlen=_RECENT)
        self._readings = [(s, name, v) for s, name, v in state["readings"]]
        self._last = None if state["last"] is None else Catapult(**state["last"])
        self._noise, self._age = state["noise"]


class _Level:
    """The level of a smoothed log loss, and whether it is out of it.

    Args:
        stride: Updates between two values, as far as known beforehand.
    """

    def __init__(self, stride: int) -> None:
        self.memory = max(MEMORY, 10 * stride)
        self.past: deque[tuple[int, float]] = deque()
        self.open = False
        self.onset = self.peak = 0
        self.lowest = self.top = 0.0

    def see(self, step: int, x: float, sigma: float) -> Catapult | None:
        """The next value, whose noise is ``sigma``; returns an excursion that is over."""
        if self.open:
            if x > self.top:
                self.top, self.peak = x, step
            height = self.top - self.lowest
            back = x <= self.lowest + max(0.1 * height, min(2 * sigma, 0.5 * height))
            if not back and step - self.onset <= max(_GIVE_UP, 10 * self.memory):
                return None
            self.open = False
            self.past = deque([(step, x)])
            return self.excursion(step if back else None)
        while self.past and self.past[0][0] < step - self.memory:
            self.past.popleft()
        threshold = max(math.log(RISE), NOISE * sigma)
        if self.past and x > (lowest := min(v for _, v in self.past)) + threshold:
            near = lowest + max(0.1 * (x - lowest), 2 * sigma)
            self.onset = max(s for s, v in self.past if v <= near)
            self.lowest, self.top, self.peak, self.open = lowest, x, step, True
        self.past.append((step, x))
        return None

    @property
    def earliest(self) -> int:
        """Step from which on an excursion could begin."""
        return self.past[0][0] if self.past else 0

    def excursion(self, end: int | None) -> Catapult:
        return Catapult(self.onset, self.peak, end, math.exp(self.top - self.lowest))

    def state_dict(self) -> dict[str, Any]:
        return vars(self) | {"past": [list(p) for p in self.past]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self.past = deque((s, v) for s, v in state["past"])


Reading = tuple[int, str, float]
"""Step, ``"sharpness"`` or ``"headroom"``, and its value."""


def _with_curvature(found: Catapult, run: Run) -> Catapult:
    readings = [
        (int(s), name, float(v))
        for name in ("sharpness", "headroom")
        if name in run.columns
        for s, v in zip(*run[name], strict=True)
    ]
    return _with_readings(found, readings)


def _with_readings(found: Catapult, readings: list[Reading]) -> Catapult:
    """The excursion with what was measured around it."""
    sharpness = [(s, v) for s, name, v in readings if name == "sharpness"]
    headroom = [(s, v) for s, name, v in readings if name == "headroom"]
    before = [v for s, v in sharpness if s <= found.onset] or [v for s, v in sharpness[:1] if s <= found.peak]
    over = found.peak if found.end is None else found.end
    after = [v for s, v in sharpness if s >= over][:1] or [v for s, v in sharpness if s > found.peak][-1:]
    first = max((s for s, _ in headroom if s <= found.onset), default=found.onset)
    lately = [v for s, v in sharpness if v > 0 and s <= over][-_READINGS:]
    return Catapult(
        found.onset,
        found.peak,
        found.end,
        found.ratio,
        before[-1] if before else None,
        after[0] if after else None,
        max((v for s, v in headroom if first <= s <= found.peak), default=None),
        noise_of(np.log(lately)) if len(lately) >= 5 else 0.0,
    )


def noise_of(x: np.ndarray) -> float:
    """Standard deviation of batch noise in x: from the median second difference, blind to trends and to jumps."""
    return float(1.4826 * np.median(np.abs(np.diff(x, 2))) / math.sqrt(6))


def _local_noise(x: np.ndarray) -> np.ndarray:
    """:func:`noise_of` the values around each, a new one every tenth of the window."""
    if len(x) <= _RECENT:
        return np.full(len(x), noise_of(x))
    starts = np.unique(np.append(np.arange(0, len(x) - _RECENT, _RECENT // 10), len(x) - _RECENT))
    return np.interp(np.arange(len(x)), starts + _RECENT / 2, [noise_of(x[i : i + _RECENT]) for i in starts])


def _widths(length: int) -> tuple[int, ...]:
    """Which medians to take; none longer than a fifth of what there is, as it would see nothing but itself."""
    return (1, *(w for w in WIDTHS if 5 * w <= max(length, 5 * WIDTHS[0])))


def _overlap(a: Catapult, b: Catapult) -> bool:
    return a.onset <= (math.inf if b.end is None else b.end) and b.onset <= (math.inf if a.end is None else a.end)


def _spread(noise: Any, width: int) -> Any:
    """Standard deviation of a median of ``width`` values; of one noisy value ``inf``, as it tells nothing."""
    return np.where(noise <= 1e-3, noise, np.inf) if width == 1 else 1.2533 * noise / math.sqrt(width)


def _running_median(x: np.ndarray, width: int) -> np.ndarray:
    """Medians of full windows; at the ends the outermost one, since part of a window would be noisier."""
    inner = np.median(np.lib.stride_tricks.sliding_window_view(x, width), axis=-1)
    return np.pad(inner, width // 2, mode="edge")
