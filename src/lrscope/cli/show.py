"""``lrscope show``: see a schedule before anything is trained."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from lrscope.cli.options import Json, check_steps
from lrscope.errors import ScheduleError
from lrscope.records import strict_json
from lrscope.schedules import Horizon, Schedule, chart, csv_rows, parse, segments
from lrscope.schedules.checks import number

_MAX_VALUES = 200


def show(
    schedule: Annotated[
        str, Parameter(help="For example 'warmup(6%) > cosine(to=0)' or '0.5 * (warmup(500) > linear)'.")
    ],
    *,
    steps: Annotated[int, Parameter(help="Optimizer updates in the run.")],
    steps_per_epoch: Annotated[int | None, Parameter(help="Updates per epoch, for lengths in epochs.")] = None,
    tokens_per_step: Annotated[float | None, Parameter(help="Tokens per update, for lengths in tokens.")] = None,
    base_lr: Annotated[float, Parameter(help="The optimizer's learning rate, which the schedule multiplies.")] = 1.0,
    out: Annotated[Path | None, Parameter(help="Also write the values: .csv, or a figure: .png, .svg, .pdf.")] = None,
    json: Json = False,
) -> None:
    """Print a schedule as it would run: its segments in steps, and a chart.

    With ``--json`` one object: spec, num_steps, segments, and the learning rate at up to 200 steps.
    """
    check_steps(steps)
    horizon = Horizon(steps, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step)
    resolved = parse(schedule, horizon)
    base_lr = number("show", "base_lr", base_lr, above=0)
    lr = base_lr * resolved.values(horizon.steps)
    if out is not None:
        _write(out, lr)
    if json:
        print(strict_json(_as_json(schedule, resolved, base_lr, lr)))
        return
    print(schedule)
    for line in _table(resolved, base_lr, horizon):
        print(line)
    print()
    print(chart(lr))
    if out is not None:
        print(f"written: {out}")


def _table(schedule: Schedule, base_lr: float, horizon: Horizon) -> list[str]:
    """One line per segment: its steps, its values, its text."""
    rows = [("steps", "lr", "segment")]
    for part in segments(schedule):
        end = "for ever" if part.end is None else f"{base_lr * part.end:.6g}"
        span = f"{part.first} ..." if part.last is None else f"{part.first} ... {part.last}"
        if part.last is not None and part.last < part.first:
            span = "no steps"
        rows.append((span, f"{base_lr * part.start:.6g} -> {end}", part.text))
    length = schedule.num_steps
    if length is not None and length < horizon.steps:
        end = f"{base_lr * schedule(length):.6g}"
        rows.append((f"{length} ... {horizon.steps - 1}", end, "the end value is held"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]


def _as_json(text: str, schedule: Schedule, base_lr: float, lr: np.ndarray) -> dict[str, object]:
    at = np.unique(np.linspace(0, lr.size - 1, min(_MAX_VALUES, lr.size)).astype(int))
    return {
        "text": text,
        "spec": schedule.to_spec(),
        "num_steps": schedule.num_steps,
        "horizon": lr.size,
        "base_lr": base_lr,
        "segments": [vars(part) for part in segments(schedule)],
        "steps": at.tolist(),
        "values": lr[at].tolist(),
    }


def _write(out: Path, lr: np.ndarray) -> None:
    suffix = out.suffix.lower()
    if suffix not in (".csv", ".png", ".svg", ".pdf"):
        raise ScheduleError(f"out: the name must end in .csv, .png, .svg or .pdf, got {out.name!r}")
    if not out.parent.is_dir():
        raise ScheduleError(f"out: the folder {str(out.parent)!r} does not exist; create it first")
    if suffix == ".csv":
        with out.open("w", newline="") as file:
            csv.writer(file).writerows(csv_rows({"lr": lr}))
        return
    from matplotlib.figure import Figure

    from lrscope.reports.preview import plot_schedule

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    plot_schedule({"lr": lr}, figure.add_subplot())
    figure.savefig(out)
