"""Read a run directory, whole or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrscope.records import Plan, Run, Table, read_lines
from lrscope.reports.outcome import watched

KNOWN_RUNS = ("planned", "default", "cosine")


@dataclass(frozen=True)
class Story:
    """All that a report is written from.

    Attributes:
        plan: The plan, if planning came to its end.
        trials: One row per short run of the planning, also when planning was killed.
        runs: Full runs by name: ``planned``, ``default``, ``cosine`` first, then any other.
        config: What the command was asked for; empty if not recorded.
        unreadable: One sentence for every file that is there but could not be read.
    """

    plan: Plan | None = None
    trials: Table = field(default_factory=Table)
    runs: Mapping[str, Run] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        names = [self.plan.task] if self.plan else []
        names += [str(run.config["task"]) for run in self.runs.values() if run.config.get("task")]
        names += [str(self.config["task"])] if self.config.get("task") else []
        other = "watched training" if any(watched(run) for run in self.runs.values()) else "unnamed task"
        return names[0] if names else other

    @property
    def shown(self) -> Mapping[str, Run]:
        """The runs under the names they are shown by: without a plan there is nothing "planned", just a run."""
        return {("run" if k == "planned" and self.plan is None else k): run for k, run in self.runs.items()}

    @property
    def main(self) -> Run | None:
        """The run that the report is about."""
        others = sorted(self.runs.values(), key=lambda run: "stable_lr" not in run.columns)
        return self.runs.get("planned") or next(iter(others), None)

    @property
    def steps(self) -> int | None:
        """Length of the full run."""
        if self.plan is not None:
            return self.plan.steps
        lengths = [int(run.config["steps"]) for run in self.runs.values() if run.config.get("steps")]
        lengths += [int(self.config["steps"])] if self.config.get("steps") else []
        return lengths[0] if lengths else None


def load(directory: Path | str) -> Story:
    """Read what ``lrscope run`` left in ``directory``; a missing or half-written part is left out.

    Raises:
        ValueError: There is no such directory, or it holds no file of ours.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(f"{directory}: no such directory; give the one named by `lrscope run TASK --out DIR`")
    unreadable: list[str] = []
    plan = _plan(directory / "plan.json", unreadable)
    trials = _trials(directory / "trials.jsonl")
    if plan is not None and len(plan.trials) >= len(trials):
        trials = plan.trials
    runs = _runs(directory / "runs", unreadable)
    if plan is None and not len(trials) and not runs:
        found = f"; {' '.join(unreadable)}" if unreadable else ""
        raise ValueError(
            f"{directory}: nothing here to report; looked for plan.json, trials.jsonl and runs/*.jsonl as written "
            f"by `lrscope run TASK --out DIR`{found}"
        )
    return Story(plan, trials, runs, _config(directory / "config.json"), tuple(unreadable))


def _plan(path: Path, unreadable: list[str]) -> Plan | None:
    if not path.is_file():
        return None
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        unreadable.append(f"plan.json could not be read ({type(error).__name__}: {error}).")
        return None


def _trials(path: Path) -> Table:
    rows = list(filter(None, read_lines(path))) if path.is_file() else []
    asked = rows[-1].get("question") if rows else None  # a log may hold rows of an earlier, different question
    return Table.of({k: v for k, v in row.items() if k != "question"} for row in rows if row.get("question") == asked)


def _config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _runs(folder: Path, unreadable: list[str]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for path in sorted(folder.glob("*.jsonl"), key=lambda p: (_rank(p.stem), p.stem)):
        try:
            runs[path.stem] = Run.read(path)
        except (ValueError, TypeError, KeyError) as error:
            unreadable.append(f"runs/{path.name} could not be read ({error}).")
    return runs


def _rank(name: str) -> int:
    return KNOWN_RUNS.index(name) if name in KNOWN_RUNS else len(KNOWN_RUNS)
