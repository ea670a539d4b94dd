"""Does the plan find what a dense grid finds, and at what share of its cost?

For each task and optimizer every cell of peak LR (factors of two) x warmup (1 step, 5 %, 33 %) is trained in full
for three seeds. Plans are made with three planning seeds of their own, and each planned schedule is trained in full
for the same three seeds as the grid. The number to look at: the mean final evaluation loss of the planned run over
that of the grid's best cell. Runs are kept in ``benchmarks/results/grid_*.jsonl`` and not repeated.

    python benchmarks/plan_vs_grid.py                       # everything, about an hour on 2 cores
    python benchmarks/plan_vs_grid.py digits sgd            # one pair
"""

from __future__ import annotations

import json
import math
import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch

import lrscope as lrs
from lrscope.optimizers import OptimizerSpec
from lrscope.planning.trials import Trial, Trials
from lrscope.records import environment
from lrscope.tasks import load

RESULTS = Path(__file__).parent / "results"
WARMUPS = (0.0, 0.05, 0.33)
SEEDS = (0, 1, 2)
PLAN_SEEDS = (0, 10, 20)
LRS = {"sgd": [2.0**k for k in range(-8, 3)], "adamw": [2.0**k for k in range(-12, -1)]}
"""Wide enough that the best cell is never on an edge."""


def measure(task_name: str, optimizer: str) -> dict:
    """Grid and plans of one pair, run where missing."""
    task, spec = load(task_name), OptimizerSpec.parse(optimizer)
    steps = task.steps
    done = Trials(task, spec, "linear", log=RESULTS / f"grid_{task_name}_{optimizer}.jsonl")

    def score(lr: float, warmup: float) -> list[float | None]:
        return [row["score"] for row in done.run([Trial(steps, lr, warmup, s) for s in SEEDS], 0)]

    grid = {}
    for lr, warmup in product(LRS[optimizer], WARMUPS):
        grid[lr, warmup] = score(lr, warmup)
        print(f"{task_name} {optimizer} lr {lr:.5g} warmup {warmup:.0%}: {grid[lr, warmup]}", flush=True)
    cost = sum(row["gradients"] for row in done.rows)

    stored = RESULTS / f"plans_{task_name}_{optimizer}.json"
    plans = json.loads(stored.read_text()) if stored.exists() else {}
    for seed in PLAN_SEEDS:
        if str(seed) not in plans:
            made = lrs.plan(task, spec, steps, seed=seed)
            plans[str(seed)] = {
                "peak_lr": made.peak_lr,
                "warmup": made.warmup_frac,
                "gradients": made.cost.in_gradients(),
                "seconds": made.cost.seconds,
                "expected": [made.expected_low, made.expected_loss, made.expected_high],
            }
            stored.write_text(json.dumps(plans, indent=1))
        plan = plans[str(seed)]
        plan["scores"] = score(plan["peak_lr"], plan["warmup"])
        print(f"{task_name} {optimizer} plan {seed}: {plan}", flush=True)
    return {"steps": steps, "grid": grid, "grid_gradients": cost, "plans": plans}


def mean(scores: list[float | None]) -> float:
    return math.inf if None in scores else float(np.mean(scores))  # type: ignore[arg-type]


def row(name: str, optimizer: str, found: dict) -> str:
    order = sorted(found["grid"].items(), key=lambda item: mean(item[1]))
    (lr, warmup), best = order[0]
    second = mean(order[1][1])
    noise = np.std(best, ddof=1) / math.sqrt(len(best)) / mean(best)
    ratios = [mean(p["scores"]) / mean(best) - 1 for p in found["plans"].values()]
    chosen = "; ".join(f"{p['peak_lr']:.3g} / {p['warmup']:.0%}" for p in found["plans"].values())
    share = np.mean([p["gradients"] for p in found["plans"].values()]) / found["steps"]
    return (
        f"| {name} | {optimizer} | {lr:.4g} / {warmup:.0%} | {mean(best):.4f} ± {noise:.1%} | {second / mean(best) - 1:+.1%} "
        f"| {chosen} | {'; '.join(f'{r:+.1%}' for r in ratios)} | {share:.1f} | {found['grid_gradients'] / found['steps']:.0f} |"
    )


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)  # run the pairs side by side, one per core
    RESULTS.mkdir(exist_ok=True)
    tasks = [a for a in arguments if a in ("digits", "topics")] or ["digits", "topics"]
    optimizers = [a for a in arguments if a in LRS] or list(LRS)
    lines = [
        "| task | optimizer | best cell (peak / warmup) | its loss, ± standard error | next best cell "
        "| planned, 3 planning seeds (peak / warmup) | planned over best | plan, full runs | grid, full runs |",
        "|" + "---|" * 9,
    ]
    for name, optimizer in product(tasks, optimizers):
        found = measure(name, optimizer)
        lines.append(row(name, optimizer, found))
    table = "\n".join(lines)
    print(table)
    print(environment())
    if len(tasks) * len(optimizers) == 4:
        where = ", ".join(f"{k} {v}" for k, v in environment().items() if k != "command")
        (RESULTS / "plan_vs_grid.md").write_text(f"{table}\n\n{where}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
