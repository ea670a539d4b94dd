"""The plan as something to paste: Python, and the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lrscope.records import Plan
from lrscope.reports.load import Story

_CLASS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def optimizer_text(story: Story) -> str | None:
    """The optimizer as people write it: ``adamw(weight_decay=0.1)``."""
    if story.plan is not None:
        return in_text(story.plan.optimizer)
    for run in story.runs.values():
        found = run.config.get("optimizer")
        if found:
            return in_text(found) if isinstance(found, Mapping) else str(found)
    return None


def in_text(spec: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}={_value(value)}" for key, value in spec.items() if key != "name")
    return f"{spec.get('name', 'optimizer')}({options})" if options else str(spec.get("name", "optimizer"))


def python_snippet(plan: Plan) -> str:
    """The base learning rate is 1 because the schedule holds absolute learning rates."""
    kind = str(plan.optimizer.get("name", ""))
    options = "".join(f", {k}={_value(v)}" for k, v in plan.optimizer.items() if k not in ("name", "lr"))
    build = f"torch.optim.{_CLASS[kind]}" if kind in _CLASS else kind or "YourOptimizer"
    return (
        "import lrscope as lrs\n\n"
        f"schedule = lrs.schedules.parse({_quoted(plan.schedule_text)})\n"
        f"optimizer = {build}(model.parameters(), lr=1.0{options})  # lr=1.0: the schedule is absolute\n"
        "scheduler = lrs.ScheduledLR(optimizer, schedule)"
    )


def cli_line(plan: Plan) -> str:
    parts = ["lrscope", "train", plan.task, "--optimizer", in_text(plan.optimizer), "--steps", str(plan.steps)]
    return shlex.join([*parts, "--schedule", plan.schedule_text])


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_value, value))})"
    return repr(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
