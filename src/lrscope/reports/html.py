"""The page of a run directory: what to run, what happened, why, and the evidence."""

from __future__ import annotations

from typing import Any

from lrscope.reports import sections
from lrscope.reports.document import document
from lrscope.reports.pictures import pictures
from lrscope.reports.story import Story

MOST_POINTS = 2000  # per column in the embedded data; run.json beside the report holds every point


def page(story: Story) -> str:
    """The whole report as HTML text."""
    drawn = pictures(story)
    return document(
        f"{story.task}: learning-rate report",
        sections.head(story),
        sections.missing(story),
        sections.run_this(story),
        sections.outcome(story, drawn),
        sections.stability(story, drawn),
        sections.evidence(story, drawn),
        sections.reproduce(story),
        sections.glossary(),
        data=_data(story),
    )


def _data(story: Story) -> dict[str, Any]:
    """What the page shows; long columns are thinned and say so."""
    return {
        "plan": story.plan.to_dict() if story.plan else None,
        "trials": story.trials.to_dict() if story.plan is None else None,
        "runs": {name: _thinned(run.to_dict()) for name, run in story.runs.items()},
    }


def _thinned(run: dict[str, Any]) -> dict[str, Any]:
    for column in run["columns"].values():
        stride = -(-len(column["step"]) // MOST_POINTS)
        if stride > 1:
            column["every"] = stride
            column["step"], column["value"] = column["step"][::stride], column["value"][::stride]
        column["value"] = [float(f"{v:.6g}") for v in column["value"]]
    return run
