"""Loss catapults, live or in a record: the loss jumps out of its level and comes back, with a sharpness that fell."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lrscope.records import Run
from lrscope.stability.level import (
    MEMORY,
    RECENT,
    WIDTHS,
    Excursion,
    Level,
    central_mean,
    excursions,
    is_abrupt,
    noise_of,
    overlap,
    spread,
    widths,
)

FELL = 0.98
"""A jump that leaves less than this share of the sharpness has flattened the loss, where readings are exact enough:
measured at the edge of stability, small catapults take 4 to 9 % of it."""
_READINGS = 50
"""Readings of the sharpness that its noise is estimated from."""


@dataclass(frozen=True)
class Catapult:
    """One excursion of the loss.

    Attributes:
        onset: Step at which the loss left its level.
        peak: Step of the highest smoothed loss of the excursion.
        end: First step back at the level of the onset, but for a tenth of the rise; ``None`` if it has not come back.
        ratio: Smoothed loss at the peak over that at the onset (for losses that reach zero or below: both above the
            lowest loss of the run less a twentieth of its range).
        sharpness_before: Last reading up to the onset, or the first one up to the peak; ``None`` if there is none.
        sharpness_after: First reading from the end on, or else the last one after the peak.
        headroom: Largest reading from the one at the onset to the peak.
        noise: Standard deviation of the readings of the sharpness, as a share of it.
        abrupt: Whether noisy losses came and went at once, as those of bad batches do; a catapult grows.
    """

    onset: int
    peak: int
    end: int | None
    ratio: float
    sharpness_before: float | None = None
    sharpness_after: float | None = None
    headroom: float | None = None
    noise: float = 0.0
    abrupt: bool = False

    @property
    def kind(self) -> Literal["catapult", "spike", "climb", "jump"]:
        """``"climb"``: it has not come back. ``"spike"``: it came back, and the sharpness had not fallen.
        ``"catapult"``: it came back, and the sharpness had fallen, or nobody measured it. ``"jump"``: nobody
        measured it, and the losses came and went at once, as those of bad batches do: no answer.
        """
        if self.end is None:
            return "climb"
        if self.sharpness_before is None or self.sharpness_after is None:
            return "jump" if self.abrupt else "catapult"
        return "catapult" if self.fell else "spike"

    @property
    def fell(self) -> bool:
        """Whether the sharpness is lower afterwards, to :data:`FELL` and by three times the noise of a difference."""
        if self.sharpness_before is None or self.sharpness_after is None:
            return False
        return self.sharpness_after < self.sharpness_before * min(FELL, math.exp(-3 * math.sqrt(2) * self.noise))

    def __str__(self) -> str:
        back = f"came back by step {self.end:,}" if self.end is not None else "had not come back when the record ends"
        text = f"the loss jumped by x{self.ratio:.2g} at step {self.onset:,} and {back}"
        before, after = self.sharpness_before, self.sharpness_after
        if before is not None and after is not None:
            text += f"; sharpness {'fell' if self.fell else 'went'} from {before:.3g} to {after:.3g}"
            if self.end is not None:
                change = "no fall" if after >= before * FELL else "no more than the readings vary"
                text += ": a catapult" if self.fell else f", which is {change}: a spike rather than a catapult"
        elif self.kind == "jump":
            text += ", at once each time: bad batches or a very fast catapult, which only the sharpness could tell"
        if self.headroom is not None:
            times = f"{self.headroom:.2g} times" if self.headroom > 1 else f"only {self.headroom:.2g} of"
            text += f"; the learning rate was {times} what curvature allows"
        return text


def find_catapults(run: Run) -> list[Catapult]:
    r"""Catapults, spikes and climbs in the training loss of ``run``; :attr:`Catapult.kind` tells them apart.

    The log loss is smoothed by running means of the middle half of 3, 9 and 27 losses, which forgives single bad
    batches. Where one of them rises within 100 updates by more than :math:`\max(\log 1.15, 8 \sigma)`, with
    :math:`\sigma` the noise of the smoothed loss estimated from second differences of neighbouring batches (blind to
    trends), an excursion is open; it closes when all but a tenth of the rise is gone. The columns ``sharpness`` and
    ``headroom``, where they are, are read beside it; without them a jump that comes and goes at once has no answer,
    as bad batches in a row look the same. How often this is right is measured in ``docs/mechanisms.md``.

    Cost: a pass over the recorded losses for each of four widths. Stages as in Kalra & Barkeshli 2024 (approach,
    loss rises, sharpness drops, loss falls again).
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
    readings = [
        (int(s), name, float(v))
        for name in ("sharpness", "headroom")
        if name in run.columns
        for s, v in zip(*run[name], strict=True)
    ]
    return [_with_readings(found, readings) for found in excursions(steps, x)]


class CatapultDetector:
    """:func:`find_catapults` while the run goes on: one call per update, no look ahead.

    It lags behind by half of what it smooths, the price of forgiving single bad batches, and knows the noise from
    the last losses only. Losses have to be positive; others are passed over.

    Example:
        >>> detector = CatapultDetector()
        >>> loss = [1.0] * 50 + [2.0, 4.0, 6.0, 4.0, 2.0, 1.0] + [0.9] * 20
        >>> [str(c) for step, value in enumerate(loss) if (c := detector.update(step, value))]
        ['the loss jumped by x6 at step 49 and came back by step 55']
    """

    def __init__(self) -> None:
        self._levels = {width: Level() for width in (1, *WIDTHS)}
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._readings: list[Reading] = []
        self._last: Excursion | None = None
        self._over: Excursion | None = None  # and waits for a reading of the sharpness
        self._noise, self._age = 0.0, 0

    @property
    def open(self) -> bool:
        """Whether the loss is out of its level now."""
        return any(level.open for level in self._levels.values())

    def update(
        self, step: int, loss: float, *, sharpness: float | None = None, headroom: float | None = None
    ) -> Catapult | None:
        """Note the loss of an update, and readings where there are; returns an excursion when it is over.

        Where the sharpness is read, that is with the first reading afterwards. Cost: about 50 microseconds.
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
        last = list(self._recent)[-WIDTHS[-1] :]
        for width in widths(len(self._recent)):
            middle, level = last[-1 - width // 2][0], self._levels[width]
            smooth = float(central_mean(np.array([v for _, v in last[-width:]])))
            found = level.see(middle, smooth, float(spread(self._noise, width)))
            if found is not None and not (self._last and overlap(found, self._last)):
                if width > 1 and self._recent[0][0] <= found.onset:
                    steps, x = np.array(self._recent).T
                    found = found._replace(abrupt=is_abrupt(found, steps, x, np.full(len(x), self._noise)))
                self._last = self._over = found
        return self._told(step)

    def _told(self, step: int) -> Catapult | None:
        if self._over is None:
            if self._age % 50 == 0:
                self._forget()
            return None
        over = _with_readings(self._over, self._readings)
        latest = max((s for s, name, _ in self._readings if name == "sharpness"), default=step)
        end = step if over.end is None else over.end
        if over.sharpness_before is not None and latest < end and step < end + MEMORY:
            return None
        self._over = None
        return over

    def _forget(self) -> None:
        """Keep the readings that an excursion may still need: the last of each kind before it, and all since."""
        since = min(level.earliest for level in self._levels.values() if level.past or level.open)
        lately = [s for s, name, _ in self._readings if name == "sharpness"][-_READINGS:]
        since = min([since, *lately[:1]])
        old = {name: (s, name, v) for s, name, v in self._readings if s <= since}
        self._readings = [*old.values(), *(r for r in self._readings if r[0] > since)]

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of them; a detector that loads it goes on as if never interrupted."""
        return {
            "levels": [level.state_dict() for level in self._levels.values()],
            "recent": [list(r) for r in self._recent],
            "readings": [list(r) for r in self._readings],
            "last": None if self._last is None else list(self._last),
            "over": None if self._over is None else list(self._over),
            "noise": [self._noise, self._age],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for level, stored in zip(self._levels.values(), state["levels"], strict=True):
            level.load_state_dict(stored)
        self._recent = deque(((s, v) for s, v in state["recent"]), maxlen=RECENT)
        self._readings = [(s, name, v) for s, name, v in state["readings"]]
        self._last = None if state["last"] is None else Excursion(*state["last"])
        self._over = None if state["over"] is None else Excursion(*state["over"])
        self._noise, self._age = state["noise"]


Reading = tuple[int, str, float]
"""Step, ``"sharpness"`` or ``"headroom"``, and its value."""


def _with_readings(found: Excursion, readings: list[Reading]) -> Catapult:
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
        math.exp(found.height),
        before[-1] if before else None,
        after[0] if after else None,
        max((v for s, v in headroom if first <= s <= found.peak), default=None),
        noise_of(np.log(lately)) if len(lately) >= 5 else 0.0,
        found.abrupt,
    )
