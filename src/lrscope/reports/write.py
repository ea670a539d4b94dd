"""Write the report beside the data it tells of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lrscope.records import strict_json
from lrscope.reports.html import page
from lrscope.reports.story import load


def write_report(directory: Path | str) -> Path:
    """Write ``report.html`` into a run directory, from what is there; return its path.

    Beside it, if the planned schedule was run: ``run.json`` (the whole planned run) and ``run.parquet`` (its rows).
    Files appear whole or not at all, so a reader never sees half of one.

    Raises:
        ValueError: There is no such directory, or it holds nothing that ``lrscope run`` wrote.
    """
    directory = Path(directory)
    story = load(directory)
    report = directory / "report.html"
    _whole(report, lambda path: path.write_text(page(story), encoding="utf-8"))
    planned = story.runs.get("planned")
    if planned is not None:
        _whole(
            directory / "run.json",
            lambda p: p.write_text(strict_json(planned.to_dict(), default=str), encoding="utf-8"),
        )
        if planned.rows:
            _whole(directory / "run.parquet", planned.table().to_parquet)
    return report


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
