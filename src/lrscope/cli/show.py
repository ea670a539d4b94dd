"""``lrscope show``: see a schedule before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from lrscope.cli.options import Json, check_out, horizon, in_steps, write_out
from lrscope.records import strict_json
from lrscope.schedules import Constant, FeedbackSchedule, Horizon, Schedule, chart, segments
from lrscope.schedules.checks import number
from lrscope.schedules.preview import SegmentRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_VALUES = 200
_EVERY_STEP = 1_000_000
_SAMPLE = 10_000  # steps of a longer run: far more than a chart has columns


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

    With ``--json`` one object: spec, num_steps, segments, and the learning rate at up to 200 steps. Of a schedule
    that listens to the run: what it listens to, and the bounds that are known beforehand.
    """
    check_out(out)
    run = horizon(steps, steps_per_epoch, tokens_per_step)
    resolved = in_steps(schedule, run, listening=True)
    base_lr = number("show", "base_lr", base_lr, above=0)
    if not isinstance(resolved, Schedule):
        show_listening(schedule, resolved, base_lr, run, out=out, json=json)
        return
    if out is not None:
        _write(out, {"lr": resolved}, base_lr, run.steps)
    if json:
        print(strict_json(_as_json(schedule, resolved, base_lr, run.steps)))
        return
    print(schedule)
    for line in _table(resolved, base_lr, run):
        print(line)
    print()
    print(chart(base_lr * _sample(resolved, run.steps)[1], steps=run.steps))
    if out is not None:
        print(f"written: {out}")


def _table(schedule: Schedule, base_lr: float, run: Horizon) -> list[str]:
    """One line per segment: its steps, its values, its text."""
    rows = [("steps", "lr", "segment")]
    for part in segments(schedule):
        end = _end(part, schedule, base_lr)
        span = f"{part.first} ..." if part.last is None else f"{part.first} ... {part.last}"
        if part.last is not None and part.last < part.first:
            span = "no steps"
        rows.append((span, f"{base_lr * part.start:.6g} -> {end}", part.text))
    length = schedule.num_steps
    if length is not None and length < run.steps:
        end = f"{base_lr * schedule(length):.6g}"
        rows.append((f"{length} ... {run.steps - 1}", end, "the end value is held"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]


def _end(part: SegmentRow, schedule: Schedule, base_lr: float) -> str:
    """The rate of the part's last update, and the one that it reaches one step later, if that is another one."""
    if part.last is None or part.end is None:
        return "for ever"
    reached = f"{base_lr * part.end:.6g}"
    if part.last < part.first:
        return reached
    last = f"{base_lr * schedule(part.last):.6g}"
    return last if last == reached else f"{last} (to {reached})"


def _sample(schedule: Schedule | FeedbackSchedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values for a picture: every step, or of a long run an even sample with the ends of its parts."""
    if steps <= _EVERY_STEP:
        return np.arange(steps), _all(schedule, steps)
    at = np.linspace(0, steps - 1, _SAMPLE).astype(int)
    for part in segments(schedule) if isinstance(schedule, Schedule) else ():
        for step in (part.first, part.last):
            if step is not None and 0 <= step < steps:
                at[round(step * (_SAMPLE - 1) / (steps - 1))] = step
    return at, _values(schedule, at)


def _all(schedule: Schedule | FeedbackSchedule, steps: int) -> np.ndarray:
    return schedule.values(steps) if isinstance(schedule, Schedule) else _values(schedule, np.arange(steps))


def _as_json(text: str, schedule: Schedule, base_lr: float, steps: int) -> dict[str, object]:
    at = np.unique(np.linspace(0, steps - 1, min(_MAX_VALUES, steps)).astype(int)).tolist()
    return {
        "text": text,
        "spec": schedule.to_spec(),
        "num_steps": schedule.num_steps,
        "horizon": steps,
        "base_lr": base_lr,
        "segments": [vars(part) for part in segments(schedule)],
        "steps": at,
        "values": [base_lr * schedule(t) for t in at],
    }


def show_listening(
    text: str, heard: FeedbackSchedule, base_lr: float, run: Horizon, *, out: Path | None, json: bool
) -> None:
    """What it listens to, and the least and the most that it can be: the rest is known when it runs."""
    core, factor = heard.parted()
    low, high = core.bounds()
    curves: Mapping[str, Schedule | FeedbackSchedule]
    if not heard.listens_to:
        name, curves = "lr", {"lr": heard}
    elif math.isfinite(high):
        name, curves = "at most", {"at least": low * factor, "at most": high * factor}
    else:
        name, curves = "if it hears nothing", {"if it hears nothing": heard}
    if out is not None:
        _write(out, curves, base_lr, run.steps)
    if json:
        at = np.unique(np.linspace(0, run.steps - 1, min(_MAX_VALUES, run.steps)).astype(int))
        told = {"text": text, "spec": heard.to_spec(), "horizon": run.steps, "base_lr": base_lr}
        told |= {"listens_to": sorted(heard.listens_to), "measures": heard.measures, "drives": sorted(heard.drives())}
        told |= {"steps": at.tolist()} | {key: (base_lr * _values(f, at)).tolist() for key, f in curves.items()}
        print(strict_json(told))
        return
    print(text)
    print(f"  drives {' and '.join(sorted(heard.drives()))}")
    if heard.listens_to:
        what = " and ".join(sorted(heard.listens_to)) + (" of every update" if heard.every_update else "")
        bounds = f"{base_lr * low:.6g} to {base_lr * high:.6g}" if math.isfinite(high) else "without an upper bound"
        print(f"  listens to {what}{', and measures along the way' if heard.measures else ''}")
        print(f"  {bounds}{'' if factor == Constant(1.0) else ', before it is multiplied'}")
        print("  what it will be is known when it runs: this is no preview")
    print(f"\n{name}:")
    if not isinstance(curve := curves[name], FeedbackSchedule) and factor != Constant(1.0):
        for line in _table(curve, base_lr, run):
            print(line)
    print(chart(base_lr * _sample(curve, run.steps)[1], steps=run.steps))
    if out is not None:
        print(f"written: {out}")


def _values(schedule: Schedule | FeedbackSchedule, at: np.ndarray) -> np.ndarray:
    """Its values at the steps ``at``; of one that listens, as if it heard nothing."""
    if isinstance(schedule, Schedule):
        return np.array([schedule(t) for t in at.tolist()])
    state = schedule.init()
    return np.array([schedule.value(state, t) for t in at.tolist()])


def _write(out: Path, curves: Mapping[str, Schedule | FeedbackSchedule], base_lr: float, steps: int) -> None:
    """A table of all steps, or a figure of a sample of them."""

    def draw(axes: Axes) -> None:
        from lrscope.reports.preview import plot_schedule

        sampled = {name: _sample(schedule, steps) for name, schedule in curves.items()}
        plot_schedule({name: base_lr * values for name, (_, values) in sampled.items()}, axes)
        for line, (at, _) in zip(axes.lines, sampled.values(), strict=True):
            line.set_xdata(at)
        axes.relim()
        axes.autoscale_view(scaley=False)

    write_out(out, lambda: {name: base_lr * _all(schedule, steps) for name, schedule in curves.items()}, draw)
