"""The shape every trial and every plan runs: linear warmup, then decay to zero."""

from __future__ import annotations

from typing import Literal, get_args

from lrscope.schedules import Cosine, Linear, Schedule

Decay = Literal["linear", "cosine"]
DECAYS = get_args(Decay)


def warmup_steps(frac: float, steps: int) -> int:
    """Updates until the peak for a warmup fraction: at least 1, which is no warmup, and at most ``steps``."""
    return min(max(1, round(frac * steps)), steps)


def recipe(peak: float, warmup: int, steps: int, decay: Decay = "linear") -> Schedule:
    r"""Learning rates that rise linearly to ``peak`` and fall to zero.

    .. math::

        \eta_t = \begin{cases} \eta_{peak} (t+1)/W & t < W \\ \eta_{peak} \, d((t-W+1)/(T-W+1)) & t \ge W \end{cases}

    with W = ``warmup``, T = ``steps`` and :math:`d(s) = 1-s` (linear) or :math:`(1+\cos \pi s)/2` (cosine). Update
    W-1 is the first at the peak, so W = 1 means no warmup, and no update is wasted at learning rate zero
    (Kalra & Barkeshli 2024: the k-th update of the warmup uses k/W).
    """
    fall = {"linear": Linear, "cosine": Cosine}[decay](peak, 0.0, steps - warmup + 1)
    return fall if warmup <= 1 else Linear(peak / warmup, peak, warmup - 1).then(fall)
