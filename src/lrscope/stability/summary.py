"""What was seen in a watched training, in one sentence."""

from __future__ import annotations

import math

from lrscope.records import Run
from lrscope.stability.catapult import find_catapults
from lrscope.stability.gauge import StabilityGauge


def summary(run: Run, gauge: StabilityGauge, share: float = math.nan) -> str:
    """How the learning rate stands, the worst that was seen, how the loss went, what the cap did, and what it cost.

    Args:
        run: The record so far.
        gauge: What took its readings.
        share: Of the time, spent on readings; ``nan`` if unknown.
    """
    said = [_standing(run, gauge)]
    if run.status == "diverged":
        at = next((e.step for e in run.events if e.kind == "diverged"), run.steps_done)
        said.insert(0, f"diverged at step {at}")
    if "loss" in run.columns:
        loss = run["loss"].value
        said.append(f"loss {loss[0]:.3g} -> {loss[-1]:.3g}")
        if catapults := [c for c in find_catapults(run) if c.kind == "catapult"]:
            worst = max(catapults, key=lambda c: c.ratio)
            many = f"{len(catapults)} catapults, the largest" if len(catapults) > 1 else "a catapult,"
            said.append(f"{many} x{worst.ratio:.2g} at step {worst.peak}")
    if gauge.known and (many := sum("sharpness" in row and "headroom" not in row for row in run.rows)):
        said.append(f"{_count(many, 'reading')} did not converge")
    if gauge.cap is not None and gauge.cap.num_updates:
        said.append(
            f"the cap lowered the rate at {_count(gauge.cap.num_updates, 'update')}, at most to "
            f"{gauge.cap.lowest:.2g} of the schedule's"
        )
    if math.isfinite(share):
        said.append(f"readings took {share:.1%} of the time")
    return "; ".join(said)


def _standing(run: Run, gauge: StabilityGauge) -> str:
    if "headroom" not in run.columns:
        if "sharpness" in run.columns and gauge.known:
            return (
                f"sharpness is {run['sharpness'].value[-1]:.4g} or so, not converged, so there is no headroom reading"
            )
        if "sharpness" in run.columns:
            return f"sharpness is {run['sharpness'].value[-1]:.4g}, of an optimizer whose limit is not known"
        reasons = [e.detail["reason"] for e in run.events if e.kind == "sharpness not measured"]
        return f"no headroom reading: {reasons[-1]}" if reasons else "no headroom reading yet"
    steps, use = run["headroom"]
    now, over = float(use[-1]), int((use > 1).sum())
    row = next(row for row in reversed(run.rows) if "headroom" in row)
    lr, stable = row.get("lr_used", row.get("lr", math.nan)), row.get("stable_lr")
    if stable is None:
        text = f"no direction curves upward, so nothing limits the learning rate {lr:.3g} now"
    else:
        text = f"the learning rate {lr:.3g} now uses {_share(now)} what curvature allows ({stable:.3g})"
    text += f"; at most {_share(float(use.max())).removesuffix(' of')}, at step {steps[use.argmax()]}"
    return text + (
        f", and more than it at {over} of {len(use)} readings" if over else f"; {_count(len(use), 'reading')}"
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _share(headroom: float) -> str:
    """As a percentage; Adam's first steps can be hundreds of times what curvature allows."""
    return f"{headroom:.0%} of" if headroom < 10 else f"{headroom:,.0f} times"
