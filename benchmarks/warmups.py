"""What is a warmup worth? Every warmup at every peak, on the built-in tasks.

All runs of a task have the same number of updates, the same seeds and the same end: at the peak until a third of the
run is done, then linearly to zero. They differ in how they get to the peak within that third:

    none            at the peak from the first update
    linear 5 %      up from 0 over 5 % of the run
    linear 33 %     up from 0 over the whole third
    from critical   the slope of linear 33 %, from the measured critical learning rate (first batch of each seed)
    catapult        CatapultWarmup as the paper has it (delta 0.1, for AdamW 0.01)
    catapult / 4    the same with share=0.25, which is advised for small batches
    GI-AdamW, RAdam no warmup of the schedule; the optimizer brings its own

One line a run goes to ``benchmarks/results/warmups.jsonl`` as soon as it is known; what is there is not repeated.
``python docs/warmup_value_figures.py`` makes tables and pictures of it.

    python benchmarks/warmups.py                        # everything
    python benchmarks/warmups.py digits-mlp sgd         # one pair
    python benchmarks/warmups.py topics adamw RAdam     # one warmup of it; processes may run side by side
    python benchmarks/warmups.py digits-mlp --seeds 5   # more seeds
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lrscope as lrs
from lrscope.planning.recipe import warmup_steps
from lrscope.records import drop_torn_line, environment, read_lines
from lrscope.schedules import Constant, Linear, Schedule
from lrscope.stability import CatapultWarmup, warmup_from_critical
from lrscope.tasks import BatchStream
from lrscope.tasks.text import build as build_gpt
from lrscope.tasks.topics import ALPHABET
from lrscope.training import Cell, run_cells

RESULTS = Path(__file__).parent / "results" / "warmups.jsonl"
BEGIN = 0.33
"""Share of the run after which every run decays; the planner's longest warmup."""
DELTA = {"sgd": 0.1, "adamw": 0.01}
FIXED = {
    "sgd": {"none": "sgd", "linear 5 %": "sgd", "linear 33 %": "sgd", "from critical": "sgd"},
    "adamw": {
        "none": "adamw",
        "linear 5 %": "adamw",
        "linear 33 %": "adamw",
        "from critical": "adamw",
        "GI-AdamW": "giadamw",
        "RAdam": "radam",
    },
}
"""The optimizer of each warmup that is known before the run; these train as batched replicas."""
LISTENING = {"catapult": 1.0, "catapult / 4": 0.25}
PEAKS = {
    ("digits-mlp", "sgd"): range(-5, 4),
    ("digits-mlp", "adamw"): range(-9, 2),
    ("digits-cnn", "sgd"): range(-3, 2),
    ("digits-cnn", "adamw"): range(-7, 0),
    ("topics", "sgd"): range(-5, 2),
    ("topics", "adamw"): range(-10, -4),
}
"""Exponents of 2: from below the best peak to beyond where runs fail."""


def small_topics() -> lrs.Task:
    """The text task with a GPT of two blocks, and batches of 8 windows of 32 characters, so that all runs fit."""
    task = lrs.tasks.topics(batch_size=8, context=32, steps=300)
    build = partial(build_gpt, vocab=len(ALPHABET) + 1, context=32, dropout=0.0, width=64, depth=2, heads=4)
    return dataclasses.replace(task, build=build, name="topics-2x64")


TASKS = {
    "digits-mlp": lrs.tasks.digits,
    "digits-cnn": partial(lrs.tasks.digits, model="cnn", steps=300),
    "topics": small_topics,
}


def shape(warmup: str, peak: float, steps: int, critical: lrs.CriticalLR) -> tuple[Schedule, int]:
    """Learning rates, and the number of updates before the first one at the peak."""
    before = warmup_steps(BEGIN, steps) - 1  # updates below the peak where the warmup is longest
    fall = Linear(peak, 0.0, steps - before)
    if warmup == "from critical":
        found = warmup_from_critical(critical, peak, before)
        made = found.schedule.then(_hold(peak, before - found.reach_steps, fall))
        return made, found.reach_steps if found.start < peak else 0
    length = {"linear 5 %": warmup_steps(0.05, steps), "linear 33 %": before + 1}.get(warmup, 1)
    rest = _hold(peak, before + 1 - length, fall)
    return (Linear(peak / length, peak, length - 1).then(rest) if length > 1 else rest), length - 1


def _hold(peak: float, steps: int, fall: Schedule) -> Schedule:
    return Constant(peak, steps).then(fall) if steps else fall


class Log:
    """Rows by their key, appended to the file the moment they are known."""

    KEY = ("kind", "task", "family", "warmup", "peak", "seed")

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            drop_torn_line(path)
        self.rows = {self.key(row): row for row in (read_lines(path) if path.exists() else ()) if row}

    def key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self.KEY)

    def has(self, **asked: Any) -> bool:
        return self.key(asked) in self.rows

    def add(self, **row: Any) -> None:
        self.rows[self.key(row)] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def fixed(name: str, family: str, asked: Sequence[str], seeds: Sequence[int], log: Log) -> None:
    """The runs whose learning rates are known beforehand, of the warmups asked for."""
    task = TASKS[name]()
    if not log.has(kind="task", task=name):
        log.add(kind="task", task=name, **describe(task), environment=environment())
    critical = {seed: critical_of(task, name, family, seed, log) for seed in seeds}
    for rule in dict.fromkeys(FIXED[family].values()):
        warmups = [warmup for warmup, mine in FIXED[family].items() if mine == rule and warmup in asked]
        missing = [row for warmup in warmups for row in rows_of(name, family, warmup, seeds) if not log.has(**row)]
        # Where the critical learning rate is above the peak there is nothing left to warm up: the very same run.
        twins = [row for row in missing if row["warmup"] == "from critical" and no_warmup(row, critical)]
        train_fixed(task, rule, [row for row in missing if row not in twins], critical, log)
        for row in twins:
            found = log.rows[log.key(row | {"warmup": "none"})]
            log.add(**found | row | {"search": search_steps(critical[row["seed"]])})


def no_warmup(row: dict[str, Any], critical: dict[int, lrs.CriticalLR]) -> bool:
    return shape(row["warmup"], row["peak"], 100, critical[row["seed"]])[1] == 0


def search_steps(critical: lrs.CriticalLR) -> float:
    """Work of a search in training steps, a forward pass being half of one, as in the paper."""
    return critical.cost.in_gradients(per_forward=0.5)


def rows_of(name: str, family: str, warmup: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    peaks = [2.0**k for k in PEAKS[name, family]]
    same = {"kind": "run", "task": name, "family": family, "warmup": warmup}
    return [same | {"peak": peak, "seed": seed} for seed in seeds for peak in peaks]


def describe(task: lrs.Task) -> dict[str, Any]:
    """What a reader has to know of a task; ``guess`` is the loss of one that knows how frequent classes are."""
    assert task.evaluate is not None
    labels = torch.cat([batch[1].flatten() for batch in task.evaluate])
    share = torch.bincount(labels).double() / len(labels)
    guess = float(-(share * share.clamp_min(1e-300).log()).sum())
    size = sum(p.numel() for p in task.model(0).parameters())
    return {"name": task.name, "parameters": size, "steps": task.steps, "guess": guess}


def critical_of(task: lrs.Task, name: str, family: str, seed: int, log: Log) -> lrs.CriticalLR:
    """At the initial parameters, on the batch of the first update. Cheap, so it is measured again every time."""
    objective = lrs.Objective(task.model(seed), task.loss_fn, [next(BatchStream(task.train, seed))])
    found = lrs.critical_lr(objective, family, curvature=False)
    if not log.has(kind="critical", task=name, family=family, seed=seed):
        cost = {"forwards": found.cost.forwards, "gradients": found.cost.gradients}
        log.add(kind="critical", task=name, family=family, seed=seed, lr=found.lr, status=found.status, **cost)
    return found


def train_fixed(
    task: lrs.Task, rule: str, asked: list[dict[str, Any]], critical: dict[int, lrs.CriticalLR], log: Log
) -> None:
    if not asked:
        return
    shapes = [shape(row["warmup"], row["peak"], task.steps, critical[row["seed"]]) for row in asked]

    def on_run(i: int, run: lrs.records.Run) -> None:
        if run.status != "interrupted":
            search = search_steps(critical[asked[i]["seed"]]) if asked[i]["warmup"] == "from critical" else 0.0
            keep(run, asked[i], log, reach=shapes[i][1], search=search)

    cells = [Cell(made[0], row["seed"]) for made, row in zip(shapes, asked, strict=True)]
    run_cells(task, rule, cells, task.steps, on_run=on_run)


def train_listening(task: lrs.Task, row: dict[str, Any], log: Log) -> None:
    steps, family = task.steps, row["family"]
    before = warmup_steps(BEGIN, steps) - 1
    listens = CatapultWarmup(row["peak"], delta=DELTA[family], share=LISTENING[row["warmup"]])
    factor = Constant(1.0, before).then(Linear(1.0, 0.0, steps - before))
    try:
        run = lrs.train(task, family, listens * factor, steps, seed=row["seed"])
    except Exception as error:  # what failed is reported, and the others go on
        log.add(**row, status="failed", error=f"{type(error).__name__}: {error}")
        print("FAILED", log.rows[log.key(row)], flush=True)
        return
    rates = run["lr"].value
    there = np.flatnonzero(rates >= row["peak"] * (1 - 1e-9))
    forwards = sum(event.detail["forwards"] for event in run.events if event.kind == "measured")
    searches = sum(event.kind == "measured" for event in run.events)
    reach = int(there[0]) if len(there) else None
    keep(run, row, log, reach=reach, search=forwards / 2, searches=searches, highest=float(rates.max()))


def keep(run: lrs.records.Run, row: dict[str, Any], log: Log, **extra: Any) -> None:
    """One finished or diverged run as a line."""
    final = run.final("eval_loss")
    diverged = [event.step for event in run.events if event.kind == "diverged"]
    log.add(
        **row,
        status=run.status,
        eval_loss=final if math.isfinite(final) else None,
        accuracy=run.final("accuracy") if "accuracy" in run.columns and math.isfinite(final) else None,
        worst=float(np.max(run["loss"].value)),
        diverged_at=diverged[0] if diverged else None,
        seconds=round(run.cost.seconds, 2),
        **extra,
    )
    print(*row.values(), run.status, round(final, 4), extra, f"{run.cost.seconds:.1f} s", flush=True)


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    seeds = range(int(arguments[arguments.index("--seeds") + 1]) if "--seeds" in arguments else 3)
    RESULTS.parent.mkdir(exist_ok=True)
    log = Log(RESULTS)
    names = [name for name in TASKS if name in arguments] or list(TASKS)
    families = [family for family in FIXED if family in arguments] or list(FIXED)
    warmups = [*FIXED["adamw"], *LISTENING]
    asked = [warmup for warmup in warmups if warmup in arguments] or warmups
    pairs = [(name, family) for name, family in PEAKS if name in names and family in families]
    for name, family in pairs:
        fixed(name, family, asked, seeds, log)
    for warmup, (name, family) in product([warmup for warmup in LISTENING if warmup in asked], pairs):
        task = TASKS[name]()
        for row in rows_of(name, family, warmup, seeds):
            if not log.has(**row):
                train_listening(task, row, log)


if __name__ == "__main__":
    main(sys.argv[1:])
