"""From a cell's run to its row of the table and the record that is kept."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrscope.records import Run
from lrscope.stability import find_catapults
from lrscope.sweeps.cells import SweepCell
from lrscope.sweeps.table import TYPES

WINDOW = 0.05
"""Share of the steps whose mean is the final loss: one batch's loss alone is noise."""
TRAINED = 0.9
"""A run trains if its final loss is below this share of its first; a smaller fall may be noise of the batches."""
CURVE_POINTS = 160
"""Steps of the loss curve that are kept, spaced by equal ratios; all steps around events come on top."""
AROUND = 12
"""Steps kept on each side of an event."""


def record_of(cell: SweepCell, run: Run) -> dict[str, Any]:
    """What is kept of a finished or diverged run, JSON-able."""
    catapults = find_catapults(run)
    events = [{"step": e.step, "kind": e.kind, **e.detail} for e in run.events]
    events += [{"step": c.onset, "kind": c.kind, "peak": c.peak, "end": c.end, "ratio": c.ratio} for c in catapults]
    losses = [(row["step"], row["loss"]) for row in run.rows if "loss" in row]
    steps, values = (np.array(column) for column in zip(*losses, strict=True)) if losses else (np.zeros(0),) * 2
    marks = [step for e in events for step in (e["step"], e.get("peak"), e.get("end")) if step is not None]
    kept = _kept(steps, marks)
    row = _row(cell, run, values, catapult=any(c.kind == "catapult" for c in catapults))
    return _record(cell, row, events, {"step": steps[kept].tolist(), "loss": values[kept].tolist()})


def failure_of(cell: SweepCell, error: BaseException | str, *, engine: str) -> dict[str, Any]:
    """What is kept of a cell that raised, with the traceback."""
    if isinstance(error, BaseException):
        trace = "".join(traceback.format_exception(error))
        lines = str(error).strip().splitlines() or [""]
        # Of an error that quotes a traceback, as from a DataLoader's worker, the end says what it is.
        said = lines[-1] if "Traceback" in str(error) else " ".join(" ".join(lines).split())
        line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    else:
        trace = line = error
    row = {**cell.point, **dict.fromkeys(TYPES)}
    row |= {"cell": cell.hash, "status": "failed", "trains": False, "engine": engine, "error": line[:500]}
    return {**_record(cell, row, [], {"step": [], "loss": []}), "traceback": trace}


def _record(cell: SweepCell, row: Mapping[str, Any], events: list[Any], curve: Mapping[str, Any]) -> dict[str, Any]:
    return {"cell": cell.hash, "config": cell.config, "row": dict(row), "events": events, "curve": dict(curve)}


def _row(cell: SweepCell, run: Run, losses: np.ndarray, *, catapult: bool) -> dict[str, Any]:
    diverged = [e.step for e in run.events if e.kind == "diverged"]
    width = max(1, round(WINDOW * len(losses)))
    means = np.convolve(losses, np.full(width, 1 / width), mode="valid") if len(losses) else np.zeros(0)
    first = float(losses[0]) if len(losses) else None
    final = float(losses[-width:].mean()) if run.status == "finished" and len(losses) else None
    trains = first is not None and final is not None and final < first - (1 - TRAINED) * abs(first)
    ends = {name: run[name].value[-1].item() for name in run.columns if name not in ("loss", "lr")}
    row = {**cell.point, **dict.fromkeys(TYPES), **ends}
    row |= {
        "cell": cell.hash,
        "status": run.status,
        "diverged_at": diverged[0] if diverged else None,
        "first_loss": first,
        "final_loss": final,
        "best_loss": float(means.min()) if means.size else None,
        "trains": trains,
        "catapult": catapult,
        "engine": _engine(run),
        "seconds": round(run.cost.seconds, 4),
        "gradients": round(run.cost.gradients, 3),
    }
    return {
        name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in row.items()
    }


def _engine(run: Run) -> str:
    """Who ran it, and with which float32 products where these were not torch's full ones, which changes numbers."""
    engine, level = str(run.config.get("engine")), run.config.get("matmul_precision", "highest")
    return engine if level == "highest" else f"{engine}, {level} matmul precision"


def _kept(steps: np.ndarray, marks: list[int]) -> np.ndarray:
    """Indices of the steps that are kept, increasing."""
    count = len(steps)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    spaced = np.unique(np.geomspace(1, count, min(count, CURVE_POINTS)).round().astype(np.int64)) - 1
    near = [np.flatnonzero(np.abs(steps - mark) <= AROUND) for mark in marks]
    return np.unique(np.concatenate([spaced, *near]))
