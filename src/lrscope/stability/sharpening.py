"""What the sharpness does by itself, before the learning rate meets it: rises, falls or stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lrscope.errors import MeasurementError
from lrscope.records import Run
from lrscope.stability.level import noise_of

CHANGE = 1.1
"""A change by less than this factor is none."""
_FEWEST = 5
"""Readings that a trend needs."""


@dataclass(frozen=True)
class Sharpening:
    """How the sharpness moved while the learning rate was below what it allows.

    Attributes:
        kind: ``"sharpening"``, ``"reduction"``, ``"constant"``; ``"unknown"`` where there never were five readings
            in a row below the limit.
        start, end: Steps of the first and the last reading of that stretch.
        before, after: Sharpness there (medians of up to three readings).
        noise: Standard deviation of one reading, as a share of it.
        turn: Step at which it turned round, if it did; ``kind`` is then the way it went first.
        at_turn: Sharpness there.
        met: ``"head-on"``: the sharpness was rising when the learning rate reached the limit; ``"rear-end"``: it was
            falling and the ramp caught up; ``"ramp"``: it stood still; ``None``: it was never reached.
    """

    kind: Literal["sharpening", "reduction", "constant", "unknown"]
    start: int
    end: int
    before: float
    after: float
    noise: float
    turn: int | None = None
    at_turn: float | None = None
    met: Literal["head-on", "rear-end", "ramp"] | None = None

    def __str__(self) -> str:
        if self.kind == "unknown":
            return (
                "the learning rate was too often beyond what curvature allows to see where the sharpness goes by "
                "itself"
            )
        words = {"sharpening": "rose", "reduction": "fell", "constant": "stayed"}
        text = f"while the learning rate was below what curvature allows, the sharpness {words[self.kind]}"
        if self.kind == "constant":
            give = f" +- {self.noise:.0%} from reading to reading" if self.noise >= 0.02 else ""
            text += f" at about {self.before:.3g}{give} (steps {self.start:,} to {self.end:,})"
        elif self.turn is not None:
            then = "risen again" if self.kind == "reduction" else "fallen again"
            text += f" from {self.before:.3g} to {self.at_turn:.3g} by step {self.turn:,} and had {then} to "
            text += f"{self.after:.3g} by step {self.end:,}"
        else:
            text += f" by itself from {self.before:.3g} to {self.after:.3g} (steps {self.start:,} to {self.end:,})"
        said = {
            "head-on": "it rose into the learning rate: expect many small catapults, and let warmup take its time",
            "rear-end": "the learning rate rose faster than it fell: a longer warmup meets it later and more gently",
            "ramp": "the learning rate rose up to it",
        }
        return text + (f"; {said[self.met]}" if self.met else "")


def natural_sharpening(run: Run) -> Sharpening:
    """Whether the sharpness of ``run`` rose, fell or stayed before the learning rate met the limit.

    Read is the first stretch of five or more readings with a headroom below 1, up to the first that is not. (Adam's
    first steps are beyond it wherever there is no warmup.) A change counts from :data:`CHANGE` on,
    and from three standard deviations of a reading's noise. Which of the three it is, is set by parameterisation and
    initialisation, and decides what a warmup does: against sharpening it competes, with a reduction it cooperates.
    For Adam the sharpness is the preconditioned one, which falls first, whatever the network.

    Raises:
        MeasurementError: There are no readings of the sharpness and the headroom.

    References:
        Kalra & Barkeshli 2024, arXiv 2406.09405: progressive sharpening, sharpness reduction, constant sharpness.
    """
    rows = [r for r in run.rows if r.get("sharpness") is not None and r.get("headroom") is not None]
    if not rows:
        raise MeasurementError(
            f"run {run.name!r}: no readings of sharpness and headroom (columns: {', '.join(run.columns) or 'none'}); "
            "record them with SharpnessProbe or Watch"
        )
    begin, free, beyond = 0, [], None
    for i, row in enumerate([*rows, None]):
        if row is not None and row["headroom"] < 1:
            continue
        free = [r for r in rows[begin:i] if r["sharpness"] > 0]
        if len(free) >= _FEWEST:
            beyond = row
            break
        begin = i + 1
    else:
        first, last = rows[0], rows[-1]
        return Sharpening(
            "unknown", int(first["step"]), int(last["step"]), first["sharpness"], last["sharpness"], math.nan
        )
    steps = [int(r["step"]) for r in free]
    x = np.log([r["sharpness"] for r in free])
    noise = noise_of(x)
    least = max(math.log(CHANGE), 3 * noise)
    smooth = x if noise < 1e-3 else _medians_of_three(x)
    first, last = float(smooth[0]), float(smooth[-1])
    turn = _turn(smooth, least)
    way = (smooth[turn] if turn is not None else last) - first
    kind = "constant" if abs(way) < least else "sharpening" if way > 0 else "reduction"
    met = None
    if beyond is not None:
        lately = last - (smooth[turn] if turn is not None else first)
        met = "ramp" if abs(lately) < least else "head-on" if lately > 0 else "rear-end"
    return Sharpening(
        kind,
        steps[0],
        steps[-1],
        math.exp(first),
        math.exp(last),
        noise,
        None if turn is None else steps[turn],
        None if turn is None else math.exp(smooth[turn]),
        met,
    )


def _turn(x: np.ndarray, least: float) -> int | None:
    """Where a series turned round: its extreme, if both ends lie on the same side of it by ``least``."""
    found = [(min(x[0], x[-1]) - x.min(), int(x.argmin())), (x.max() - max(x[0], x[-1]), int(x.argmax()))]
    far, at = max(found)
    return at if far >= least else None


def _medians_of_three(x: np.ndarray) -> np.ndarray:
    return np.array([np.median(x[max(0, i - 1) : i + 2]) for i in range(len(x))])
