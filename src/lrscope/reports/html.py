"""The page: one file, no network, light and dark, wide and narrow."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from lrscope.records import strict_json
from lrscope.reports import sections
from lrscope.reports.markup import Markup, tag
from lrscope.reports.pictures import pictures
from lrscope.reports.story import Story
from lrscope.reports.svg import css_variables

MOST_POINTS = 2000  # per column in the embedded data; run.json beside the report holds every point


def page(story: Story) -> str:
    """The whole report as HTML text."""
    drawn = pictures(story)
    body = tag(
        "main",
        sections.head(story),
        sections.missing(story),
        sections.run_this(story),
        sections.outcome(story, drawn),
        sections.stability(story, drawn),
        sections.evidence(story, drawn),
        sections.reproduce(story),
        sections.glossary(),
    )
    return "<!doctype html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", f"{story.task}: learning-rate report"),
            tag("style", Markup(style())),
        ),
        tag("body", body, tag("script", Markup(embedded(story)), type="application/json", id="lrscope-data")),
        lang="en",
    )


def style() -> str:
    light, dark = css_variables(0), css_variables(1)
    modes = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return modes + files("lrscope.reports").joinpath("page.css").read_text(encoding="utf-8")


def embedded(story: Story) -> str:
    """The data as JSON that cannot end its script element; long columns are thinned and say so."""
    data = {
        "plan": story.plan.to_dict() if story.plan else None,
        "trials": story.trials.to_dict() if story.plan is None else None,
        "runs": {name: _thinned(run.to_dict()) for name, run in story.runs.items()},
    }
    return strict_json(data, separators=(",", ":"), default=str).replace("<", "\\u003c").replace("http", "\\u0068ttp")


def _thinned(run: dict[str, Any]) -> dict[str, Any]:
    for column in run["columns"].values():
        stride = -(-len(column["step"]) // MOST_POINTS)
        if stride > 1:
            column["every"] = stride
            column["step"], column["value"] = column["step"][::stride], column["value"][::stride]
        column["value"] = [float(f"{v:.6g}") for v in column["value"]]
    return run
