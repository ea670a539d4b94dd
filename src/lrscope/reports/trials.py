"""The short runs of a plan, gathered into cells of one learning rate, warmup and horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, median

from lrscope.records import Table
from lrscope.reports.numbers import percent


@dataclass(frozen=True)
class Cell:
    """All seeds tried at one peak, warmup and horizon.

    Attributes:
        lr: Peak learning rate.
        warmup: Warmup as a share of the horizon.
        horizon: Steps of the short run.
        score: Mean over seeds; ``None`` if any seed diverged.
        low, high: Smallest and largest over seeds.
        seeds: Number of seeds tried.
        diverged: How many of them diverged.
        diverged_at: First step at which one did, if it was recorded.
    """

    lr: float
    warmup: float
    horizon: int
    score: float | None
    low: float | None
    high: float | None
    seeds: int
    diverged: int
    diverged_at: int | None


def cells(trials: Table, horizon: int | None = None) -> list[Cell]:
    """Cells in order of horizon, warmup and learning rate."""
    groups: dict[tuple[int, float, float], list[dict]] = {}
    for row in trials.rows():
        if row.get("lr") is None or row.get("horizon") is None:
            continue
        key = (int(row["horizon"]), _warmup(row), float(f"{row['lr']:.4g}"))
        if horizon is None or key[0] == horizon:
            groups.setdefault(key, []).append(row)
    return [_cell(*key, rows) for key, rows in sorted(groups.items(), key=lambda item: item[0])]


def horizons(trials: Table) -> list[int]:
    return sorted({cell.horizon for cell in cells(trials)})


def best(some: list[Cell]) -> Cell | None:
    scored = [cell for cell in some if cell.score is not None]
    return min(scored, key=lambda cell: cell.score or 0.0) if scored else None


def best_per_warmup(some: list[Cell]) -> dict[float, Cell]:
    found = {w: best([c for c in some if c.warmup == w]) for w in sorted({c.warmup for c in some})}
    return {w: cell for w, cell in found.items() if cell is not None}


def largest_trained(some: list[Cell]) -> dict[float, float]:
    """Per warmup, the largest peak below the first one that diverged; left out where the smallest diverged."""
    largest: dict[float, float] = {}
    for cell in sorted(some, key=lambda c: c.lr):
        broken = any(c.warmup == cell.warmup and c.diverged and c.lr <= cell.lr for c in some)
        if not broken:
            largest[cell.warmup] = cell.lr
    return largest


def warmup_name(share: float) -> str:
    return "no warmup" if share == 0 else f"{percent(share)} warmup"


def seed_spread(trials: Table) -> float | None:
    """How far the seed alone moves a score: half the range over seeds relative to the mean, the middle value over
    the cells of the longest horizon tried with several seeds. ``None`` if no cell was tried twice.
    """
    repeated = [c for c in cells(trials) if c.seeds > 1 and c.score and c.score > 0]
    if not repeated:
        return None
    longest = max(c.horizon for c in repeated)
    return median(
        (c.high - c.low) / 2 / c.score
        for c in repeated
        if c.horizon == longest and c.high is not None and c.low is not None and c.score
    )


def _warmup(row: dict) -> float:
    share = row.get("warmup_frac")
    if share is None:
        share = (row.get("warmup_steps") or 0) / max(int(row["horizon"]), 1)
    return round(float(share), 4)


def _cell(horizon: int, warmup: float, lr: float, rows: list[dict]) -> Cell:
    scores = [float(r["score"]) for r in rows if r.get("score") is not None and math.isfinite(r["score"])]
    bad = [
        r for r in rows if r.get("status") == "diverged" or (r.get("score") is not None and r["score"] != r["score"])
    ]
    steps = [int(r["diverged_at"]) for r in bad if r.get("diverged_at") is not None]
    whole = scores and not bad
    return Cell(
        lr=lr,
        warmup=warmup,
        horizon=horizon,
        score=mean(scores) if whole else None,
        low=min(scores) if whole else None,
        high=max(scores) if whole else None,
        seeds=len(rows),
        diverged=len(bad),
        diverged_at=min(steps) if steps else None,
    )
