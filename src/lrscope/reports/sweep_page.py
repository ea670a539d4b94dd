"""The report of a sweep: what trains, what is best, where runs failed, and how to do it again, on one page."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrscope.records import Table, strict_json
from lrscope.reports.document import document
from lrscope.reports.markup import Markup, join, table, tag
from lrscope.reports.numbers import capital, count, loss, lr, plural, sentence
from lrscope.reports.phase.cells import Winner, best_cell, judging
from lrscope.reports.phase.limits import boundary
from lrscope.reports.phase.words import axis_value, axis_words, row_name, summary
from lrscope.reports.sections import figure
from lrscope.reports.sweep_page_maps import maps, varied

MOST_ROWS = 400
"""Rows of the boundary's table that the page shows."""
MOST_DATA = 3_000
"""Rows of the sweep's table that are embedded; ``table.parquet`` beside the report holds every one."""

WORDS: tuple[tuple[str, str], ...] = (
    (
        "Trains",
        "The run finished, and its final loss (the mean of the last 5\u202f% of its steps) is nearer to the best of "
        "the sweep than a quarter of the way back to the first loss.",
    ),
    (
        "Boundary",
        "Going up from the best learning rate, the first one that does not train marks it; drawn half way between "
        "the rates around it. Its interval runs from the largest rate that trains in every seed to the smallest from "
        "which on none does.",
    ),
    ("Cell", "One point of the grid; a run is a cell with one seed."),
    ("Diverged", "The loss became infinite, not a number, or a thousand times its first value; the run stopped."),
    (
        "Catapult",
        "The loss jumps because the learning rate exceeds what the curvature allows, the sharpness falls in "
        "response, and the loss comes back down.",
    ),
    (
        "Edge of stability",
        "The learning rate stays around the largest that the curvature allows, and training goes on.",
    ),
    ("Warmup", "The first updates, during which the learning rate climbs to its peak."),
)


@dataclass(frozen=True)
class SweepStory:
    """All that the page tells of.

    Attributes:
        table: One row per run.
        axes: Values of each axis by name.
        config: What all runs share: ``task``, ``optimizer``, ``schedule``, ``steps``; what is ``None`` is an axis.
        environment: Versions, machine, and the command of the sweep.
        command: Trains the best cell again, with one of its seeds; ``None`` if there is none.
        skipped: What an adaptive sweep left out.
    """

    table: Table
    axes: Mapping[str, Sequence[Any]]
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    skipped: Sequence[str] = ()


def write_sweep_page(
    directory: Path | str,
    manifest: Mapping[str, Any],
    runs: Table,
    *,
    command: str | None = None,
    skipped: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` into a sweep's directory and return its path; it appears whole or not at all.

    Args:
        directory: Where.
        manifest: ``sweep.json`` of the directory: ``axes``, ``config``, ``environment``.
        runs: The sweep's table.
        command: What trains the best cell again.
        skipped: What an adaptive sweep left out, in sentences.
    """
    story = SweepStory(runs, manifest["axes"], manifest["config"], manifest.get("environment", {}), command, skipped)
    path = Path(directory) / "report.html"
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(sweep_page(story), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def sweep_page(story: SweepStory) -> str:
    """The whole report as HTML text: one file, no network."""
    x, others = varied(story.axes)
    said = summary(story.table, x, others) if x and len(story.table) else []
    return document(
        f"{_task(story)}: sweep report",
        _head(story, said),
        _best(story, x, others),
        _maps(story),
        _boundary(story, x, others, said),
        _failures(story),
        _reproduce(story),
        _words(),
        data=_data(story),
    )


def _data(story: SweepStory) -> dict[str, Any]:
    """What the page shows; of many rows the first ones, and it says so."""
    rows = {name: list(values[:MOST_DATA]) for name, values in story.table.columns.items()}
    data: dict[str, Any] = {"axes": dict(story.axes), "config": dict(story.config), "table": rows}
    return data | ({"rows": len(story.table)} if len(story.table) > MOST_DATA else {})


def _task(story: SweepStory) -> str:
    return str(story.config.get("task") or "sweep")


def _head(story: SweepStory, said: Sequence[str]) -> Markup:
    optimizer, steps = story.config.get("optimizer"), story.config.get("steps")
    facts = [str(optimizer) if optimizer else None, plural(int(steps), "step") if steps else None]
    eyebrow = " · ".join(["Sweep report", *[fact for fact in facts if fact], plural(len(story.table), "run")])
    lead = said[0] if said else "No run is recorded yet." if not len(story.table) else _counts(story)
    return tag("header", tag("p", eyebrow, class_="eyebrow"), tag("h1", _task(story)), tag("p", lead, class_="lead"))


def _counts(story: SweepStory) -> str:
    status = Counter(story.table["status"])
    runs = plural(len(story.table), "run")
    return f"{count(status['finished'])} of {runs} finished, {count(status['diverged'])} diverged."


def _best(story: SweepStory, x: str | None, others: Sequence[str]) -> Markup | None:
    judge = judging(story.table)
    top = best_cell(story.table, x, others, value=judge) if len(story.table) else None
    if top is None:
        return None
    facts = [_fact(axis_words(name).capitalize(), _shown(name, value), "") for name, value in top.axes.items()]
    return tag(
        "section",
        tag("h2", "The best cell"),
        tag("dl", facts, _fact(capital(axis_words(judge)), loss(top.value), _span(top)), class_="facts"),
        tag("pre", tag("code", story.command), class_="copy", aria_label="Command line") if story.command else None,
        tag(
            "p",
            "Trains this cell again, under watch, with the seed that ended nearest to the median. One click on the "
            "box selects all of it.",
            class_="note",
        )
        if story.command
        else None,
        tag(
            "p",
            "It was chosen by the runs that it is reported with, so fresh seeds will be a little worse.",
            class_="note",
        ),
    )


def _span(top: Winner) -> str:
    return f"{loss(top.low)} – {loss(top.high)} over {top.seeds} seeds" if top.seeds > 1 else "one seed"


def _shown(name: str, value: Any) -> str:
    return lr(float(value)) if name == "lr" else axis_value(name, value)


def _fact(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="sub") if note else None)


def _maps(story: SweepStory) -> Markup | None:
    drawn = list(maps(story.table, story.axes))
    return tag("section", tag("h2", "The map"), [figure(picture) for picture in drawn]) if drawn else None


def _boundary(story: SweepStory, x: str | None, others: Sequence[str], said: Sequence[str]) -> Markup | None:
    if x is None or not len(story.table):
        return None
    found = list(boundary(story.table, x, others).rows())
    every = max((row["seeds"] for row in found), default=1)
    header = [
        *([axis_words(name) for name in others] or [""]),
        "trains in every seed up to",
        "in no seed from",
        "note",
    ]
    rows: list[list[object]] = []
    for row in found[:MOST_ROWS]:
        notes = [f"{row['ragged']} of {every} seeds train again above"] if row["ragged"] else []
        notes += [f"{plural(row['raised'], 'run')} with errors"] if row["raised"] else []
        names = [axis_value(name, row[name]) for name in others] or ["all"]
        low = "none tried" if row["low"] is None else lr(row["low"])
        rows.append([*names, low, "beyond those tried" if row["high"] is None else lr(row["high"]), "; ".join(notes)])
    return tag(
        "section",
        tag("h2", "Up to where it trains"),
        tag("ul", [tag("li", sentence(text)) for text in said[1:]]),
        table(header, rows, numeric=max(len(others), 1), class_="small") if rows else None,
        tag("h3", "What was not run") if story.skipped else None,
        tag("ul", [tag("li", sentence(text)) for text in story.skipped]) if story.skipped else None,
    )


def _failures(story: SweepStory) -> Markup | None:
    raised = [row for row in story.table.rows() if row["status"] == "failed"]
    if not raised:
        return None
    errors: dict[str, list[Mapping[str, Any]]] = {}
    for row in raised:
        errors.setdefault(str(row.get("error") or "unknown"), []).append(row)
    names = [name for name, values in story.axes.items() if len(values) > 1]
    rows = [[text, count(len(some)), row_name({n: some[0][n] for n in names})] for text, some in errors.items()]
    return tag(
        "section",
        tag("h2", f"{plural(len(raised), 'run')} raised an error"),
        table(["Error", "runs", "the first one"], rows, class_="small"),
        tag("p", "They count nowhere on this page. Each cell's file holds its traceback.", class_="note"),
    )


def _reproduce(story: SweepStory) -> Markup:
    environment = dict(story.environment)
    command = environment.pop("command", None)
    command = None if command == "python" else command  # a script of the user's own, which the record does not name
    rows: list[list[object]] = [[key, value] for key, value in environment.items()]
    for name in ("optimizer", "schedule", "steps"):
        if (value := story.config.get(name)) is not None:
            rows.append([name, value if isinstance(value, (str, int)) else strict_json(value)])
    work = sum(row.get("gradients") or 0 for row in story.table.rows())
    text = f"{plural(len(story.table), 'run')}, {count(work)} gradient evaluations of one training batch."
    return tag(
        "section",
        tag("h2", "Cost, and how to reproduce"),
        tag("p", text),
        tag("p", "The same command again continues or repeats this:") if command else None,
        tag("pre", tag("code", command), class_="copy") if command else None,
        table(["", "Environment"], rows, numeric=2) if rows else None,
        tag(
            "p",
            "All rows are in ",
            tag("code", "table.parquet"),
            " beside this page, and as JSON within it (element ",
            tag("code", "lrscope-data"),
            ").",
            class_="note",
        ),
    )


def _words() -> Markup:
    terms = [join(tag("dt", term), tag("dd", text)) for term, text in WORDS]
    return tag("section", tag("h2", "What the words mean"), tag("dl", terms, class_="glossary"))
