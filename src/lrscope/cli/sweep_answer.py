"""What ``lrscope sweep`` answers: picture, report, the best cell and the command that trains it again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrscope.sweeps import Sweep


def _picture(found: Sweep, x: str | None, others: list[str], judge: str) -> Path | None:
    """The phase diagram as phase.png beside the table; none where there is nothing to draw it over."""
    if x is None or len(others) > 2 or not any(found.table["trains"]):
        return None
    import io

    from lrscope.records import write_whole

    y, over = [*others, None, None][:2]
    panels = found.table.plot.phase(x=x, y=y, over=over, value=judge)
    figure = (panels.flat[0] if hasattr(panels, "flat") else panels).figure
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_whole(found.directory / "phase.png", data.getvalue())
    return found.directory / "phase.png"


def finish(found: Sweep) -> dict[str, Any]:
    """Draw the picture, write the report, and say what came out."""
    from lrscope.reports.phase.cells import bar_of, judging
    from lrscope.reports.sweep_page import write_sweep_page
    from lrscope.reports.sweep_page_maps import varied
    from lrscope.sweeps.phases import summary
    from lrscope.sweeps.store import TABLE

    (x, others), judge = varied(found.axes), judging(found.table)
    status, bar = found.table["status"], bar_of(found.table)
    best = _best(found, x, others, judge)
    command = None if best is None else _command(found, best["again"])
    picture = _picture(found, x, others, judge)
    page = write_sweep_page(found.directory, found.manifest, found.table, command=command, skipped=found.skipped)
    return {
        "directory": str(found.directory),
        "cells": {"all": len(status), **{kind: status.count(kind) for kind in ("finished", "diverged", "failed")}},
        "trains_below": bar if math.isfinite(bar) else None,
        "best": best,
        "command": command,
        "said": summary(found.table, x, others, value=judge) if x is not None else [],
        "skipped": found.skipped,
        "errors": sorted({row["error"] for row in found.failed.rows()}),
        "table": str(found.directory / TABLE),
        "picture": None if picture is None else str(picture),
        "report": str(page),
    }


def _best(found: Sweep, x: str | None, others: list[str], judge: str) -> dict[str, Any] | None:
    """The best cell over its seeds, as on the page, and of its runs the row that lies nearest to their median."""
    from lrscope.reports.phase.cells import best_cell

    top = best_cell(found.table, x, others, value=judge)
    if top is None:
        return None
    rows = found.table.where(status="finished", **top.axes).rows()
    again = min(rows, key=lambda row: abs(row[judge] - top.value) if row[judge] is not None else math.inf)
    return {
        "axes": dict(top.axes), "judged_by": judge, "median": top.value, "low": top.low, "high": top.high,
        "seeds": top.seeds, "again": again,
    }  # fmt: skip


def _command(found: Sweep, row: dict[str, Any]) -> str | None:
    """The command that trains a cell again, under watch; ``None`` for a task that has no name."""
    import shlex

    from lrscope.optimizers import OptimizerSpec

    config, shared = found.record(row["cell"])["config"], found.manifest["config"]
    words = ["lrscope", "train", shared["task"], _schedule(shared["schedule"], config, row)]
    words += ["--optimizer", str(OptimizerSpec.from_spec(config["optimizer"]))]
    words += ["--steps", str(config["steps"]), "--seed", str(config["seed"])]
    words += ["--device", shared["device"]] if shared["device"] else []
    words += [word for name, value in config["settings"].items() for word in ("--set", f"{name}={value}")]
    return shlex.join(words)


def _schedule(shape: Any, config: dict[str, Any], row: dict[str, Any]) -> str:
    """The cell's schedule as it was asked for, where that text says the same; else in whole steps."""
    from lrscope.errors import ScheduleError
    from lrscope.records import strict_json
    from lrscope.schedules import Horizon, from_spec, parse, to_text

    text = str(row.get("schedule") if shape is None else shape)
    for name, value in row.items():
        text = text.replace(f"{{{name}}}", str(value))
    try:
        same = strict_json(parse(text, Horizon(config["steps"])).to_spec()) == strict_json(config["shape"])
    except (ScheduleError, ValueError):
        same = False
    text = text if same else to_text(from_spec(config["shape"]))
    return text if "lr" not in row else f"{config['lr']!r} * ({text})"
