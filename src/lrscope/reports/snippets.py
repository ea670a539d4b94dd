"""The plan as something to paste: Python, and the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lrscope.records import Plan
from lrscope.reports.story import Story

# torch's own defaults, left out of what is printed; SGD's momentum always shows, as torch and lrscope differ there
_DEFAULTS = {"dampening": 0.0, "nesterov": False, "betas": [0.9, 0.999], "eps": 1e-8, "seed": 0}
_CLASS = {
    "sgd": "torch.optim.SGD",
    "adam": "torch.optim.Adam",
    "adamw": "torch.optim.AdamW",
    "giadam": "lrs.optimizers.GIAdam",
    "giadamw": "lrs.optimizers.GIAdamW",
    "riadam": "lrs.optimizers.RIAdam",
    "radam": "torch.optim.RAdam",
}
_DECAY = {name: 0.01 if name.endswith("w") else 0.0 for name in _CLASS}


def optimizer_text(story: Story) -> str | None:
    """The optimizer as people write it: ``adamw(weight_decay=0.1)``."""
    if story.plan is not None:
        return in_text(story.plan.optimizer)
    for config in (*[run.config for run in story.runs.values()], story.config):
        found = config.get("optimizer")
        if found:
            return in_text(found) if isinstance(found, Mapping) else str(found)
    return None


def in_text(spec: Mapping[str, Any]) -> str:
    name = str(spec.get("name", "optimizer"))
    options = _options(spec)
    return f"{name}({', '.join(options)})" if options else name


def python_snippet(plan: Plan) -> str:
    """The base learning rate is 1 because the schedule holds absolute learning rates."""
    kind = str(plan.optimizer.get("name", ""))
    options = "".join(f", {option}" for option in _options(plan.optimizer))
    build = _CLASS.get(kind, kind or "YourOptimizer")
    imports = "import torch\n\n" if build.startswith("torch.") else ""
    imports += "import lrscope as lrs\n\n"
    return (
        f"{imports}"
        f"schedule = lrs.schedules.parse(\n    {_quoted(plan.schedule_text)},\n    horizon={plan.steps},\n)\n"
        "# lr=1.0: the schedule holds absolute learning rates\n"
        f"optimizer = {build}(model.parameters(), lr=1.0{options})\n"
        "scheduler = lrs.ScheduledLR(optimizer, schedule)"
    )


def cli_line(story: Story) -> str:
    """``lrscope train`` that repeats the planned run: same task and settings as on the command line, same seed."""
    plan, config = story.plan, story.config
    if plan is None:
        return ""
    settings = [part for pair in config.get("set") or [] for part in ("--set", str(pair))]
    settings += ["--data", str(config["data"])] if config.get("data") else []
    settings += ["--device", str(config["device"])] if config.get("device") not in (None, "", "cpu") else []
    run = story.runs.get("planned")
    seed = config.get("seed", run.config.get("seed") if run else None)
    settings += ["--seed", str(seed)] if seed is not None else []
    lines = [
        ["lrscope", "train", str(config.get("task", plan.task))],
        [plan.schedule_text],
        ["--optimizer", in_text(plan.optimizer), "--steps", str(plan.steps), *settings],
    ]
    return " \\\n  ".join(shlex.join(line) for line in lines)


def _options(spec: Mapping[str, Any]) -> list[str]:
    usual = {**_DEFAULTS, "weight_decay": _DECAY.get(str(spec.get("name")))}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in spec.items() if k not in ("name", "lr")}
    return [f"{k}={_value(v)}" for k, v in plain.items() if k not in usual or usual[k] != v]


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_value, value))})"
    return repr(value)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
