"""``lrscope report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lrscope.cli.options import Json


def report(
    directory: Annotated[
        Path, Parameter(help="A directory that run, plan, train or a Watch wrote, finished or not.")
    ],
    /,
    *,
    json: Json = False,
) -> int:
    """Write the report of a run directory, finished or not, as one HTML file that works from disk."""
    import json as json_

    from lrscope.reports import write_report

    page = write_report(directory)
    print(json_.dumps({"report": str(page)}) if json else f"report: {page}")
    return 0
