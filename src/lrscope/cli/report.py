"""``lrscope report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lrscope.cli.options import Json


def report(
    directory: Annotated[
        Path, Parameter(help="A directory that run, plan, train, sweep or a Watch wrote, finished or not.")
    ],
    /,
    *,
    json: Json = False,
) -> int:
    """Write the report of a run directory, finished or not, as one HTML file that works from disk."""
    import json as json_

    from lrscope.reports import write_report

    if (directory / "sweep.json").exists():
        from lrscope.cli.sweep_answer import finish
        from lrscope.sweeps import read

        page = finish(read(directory))["report"]
    else:
        page = write_report(directory)
    print(json_.dumps({"report": str(page)}) if json else f"report: {page}")
    return 0
