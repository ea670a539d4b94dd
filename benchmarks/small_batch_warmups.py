"""What warmups that measure cost and bring on small batches: none, linear, from the critical rate, by catapults.

    python benchmarks/small_batch_warmups.py    # a table, and its numbers in benchmarks/results; about 5 minutes

``digits`` in batches of its own size, 1,500 updates at a constant peak after the warmup, three seeds. The linear
warmup has 1,000 updates. ``reached`` is the update at which the peak was there, ``search`` the forward passes of all
searches in training steps (one is two forward passes), ``highest`` the largest loss over the first. Means over seeds;
``loss`` is the evaluation loss at the end, ``-`` where a run diverged.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lrscope as lrs
from lrscope.records import Run, environment
from lrscope.schedules import Constant, Linear
from lrscope.stability import CatapultWarmup, critical_lr, warmup_from_critical

RESULTS = Path(__file__).parent / "results" / "small_batch_warmups.json"
LENGTH, STEPS = 1000, 1500
CASES = [("sgd(momentum=0)", 1.0), ("sgd(momentum=0.9)", 0.1), ("sgd(momentum=0.9)", 0.3), ("adamw", 0.03)]


def from_critical(task: Any, optimizer: str, peak: float, seed: int) -> tuple[Any, float]:
    critical = critical_lr(task.objective(seed, num_batches=3), optimizer, curvature=False)
    found = warmup_from_critical(critical, peak, LENGTH)
    return found.schedule.then(Constant(peak)), found.search_steps


def catapult(share: float) -> Callable[..., tuple[Any, float]]:
    return lambda task, optimizer, peak, seed: (CatapultWarmup(peak, over=20, share=share), 0.0)  # noqa: ARG005


WARMUPS: dict[str, Callable[..., tuple[Any, float]]] = {
    "none": lambda task, optimizer, peak, seed: (Constant(peak), 0.0),  # noqa: ARG005
    "linear": lambda task, optimizer, peak, seed: (  # noqa: ARG005
        Linear(peak / LENGTH, peak, LENGTH - 1).then(Constant(peak)),
        0.0,
    ),
    "from critical": from_critical,
    "catapult": catapult(1.0),
    "catapult, share 0.25": catapult(0.25),
    "catapult, share 0.1": catapult(0.1),
}


def row(run: Run, peak: float, search: float) -> dict[str, float | None]:
    there = np.flatnonzero(run["lr"].value >= peak * (1 - 1e-9))
    losses = run["loss"].value
    passes = sum(event.detail["forwards"] for event in run.events if event.kind == "measured")
    return {
        "reached": float(there[0]) + 1 if len(there) else None,
        "last_lr": float(run["lr"].value[-1]),
        "search": search + passes / 2,
        "highest": float(losses.max() / losses[0]),
        "loss": run.final("eval_loss") if run.status == "finished" else None,
    }


def mean(values: list[float | None]) -> str:
    known = [v for v in values if v is not None and math.isfinite(v)]
    text = f"{statistics.fmean(known):.4g}" if known else "-"
    return text if len(known) in (0, len(values)) else f"{text} ({len(known)} of {len(values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    task, found = lrs.tasks.digits(), []
    print(
        "| optimizer, peak | warmup | reached | last rate | search | highest | loss |\n|---|---|---|---|---|---|---|"
    )
    for optimizer, peak in CASES:
        for name, make in WARMUPS.items():
            rows = []
            for seed in range(seeds):
                schedule, search = make(task, optimizer, peak, seed)
                rows.append(row(lrs.train(task, optimizer, schedule, STEPS, seed=seed), peak, search))
            cells = [mean([r[key] for r in rows]) for key in ("reached", "last_lr", "search", "highest", "loss")]
            print(f"| {optimizer}, {peak:g} | {name} | {' | '.join(cells)} |", flush=True)
            found.append({"optimizer": optimizer, "peak": peak, "warmup": name, "seeds": rows})
    RESULTS.write_text(json.dumps({"environment": environment(), "steps": STEPS, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
