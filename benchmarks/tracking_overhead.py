"""What watching the sharpness adds to a training that looks at it every 50 steps.

    python benchmarks/tracking_overhead.py           # three to four minutes on one core

A character GPT is trained with AdamW, once plainly and once for each way of watching, all from the same start on the same
batches. The runs take turns of ten steps, so that a machine that is slow for a while is slow for all of them; overhead
is the median over blocks of 50 steps of (with / without - 1), everything included. The first reading, a cold solve with a
trial of the products, is told apart: it is paid once. Beside it stands what was
counted: gradients and products, at what a product costs by its method, over 50 steps. After each block the last reading is compared with a solve to a
residual of 0.1 % at the same point, unmeasured. Prints a Markdown table; raw numbers go to
benchmarks/results/tracking_overhead.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from dataclasses import dataclass, field
from typing import Any

import problems
import torch
from problems import cross_entropy

from lrscope import Objective, SharpnessTracker
from lrscope.curvature import preconditioned_sharpness
from lrscope.tasks import topics

EVERY, TURN = 50, 10
BATCH, CONTEXT = 48, 64
WATCHES: dict[
    str, tuple[int, dict[str, Any], bool]
] = {  # share of a batch looked at, options, at the tracker's own pace
    "every 50 steps, on a whole batch": (1, {}, False),
    "every 50 steps, on an eighth of a batch": (8, {}, False),
    "budget of 0.05 gradients a step, on a whole batch": (1, {"budget": 0.05, "longest": EVERY}, True),
}
PRODUCT = {"difference": 2.0, "exact": 2.6, "forward": 4.0}  # gradients each, for a few products at one point


def loss_fn(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    return cross_entropy(model(batch[0]), batch[1])


@dataclass
class Training:
    """One run, a block of steps at a time."""

    model: torch.nn.Module
    batches: list[Any]
    watch: str = ""
    seconds: list[float] = field(default_factory=list)
    readings: list[Any] = field(default_factory=list)
    first: float = 0.0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        if self.watch:
            part, options, self.paced = WATCHES[self.watch]
            small = [tuple(t[: BATCH // part] for t in self.batches[0])]
            self.objective = Objective(self.model, loss_fn, small)
            self.tracker = SharpnessTracker(self.objective, self.optimizer, **options)

    def look(self, step: int) -> None:
        if not self.watch:
            return
        due = self.tracker.update if step % EVERY == 0 else lambda: None
        found = self.tracker.step() if self.paced else due()
        if found is not None:
            self.readings.append((step, found, self.objective.point()))

    def steps(self, begin: int, number: int) -> None:
        for step in range(begin, begin + number):
            self.optimizer.zero_grad()
            loss_fn(self.model, self.batches[step % len(self.batches)]).backward()
            self.optimizer.step()
            self.look(step + 1)


def counted(readings: list[Any], watch: str) -> float:
    """Their work in gradients of a whole batch."""
    each = [r.cost.gradients + PRODUCT[r.method] * r.cost.products for r in readings]
    return sum(each) / WATCHES[watch][0]


def measure(blocks: int) -> dict[str, Any]:
    torch.manual_seed(0)
    task = topics(size="small", batch_size=BATCH, context=CONTEXT)
    model = task.build(0)
    stream: list[Any] = []
    while len(stream) < 200:
        stream += list(task.train)
    runs = {name: Training(copy.deepcopy(model), stream[:200], name) for name in ("", *WATCHES)}
    for run in runs.values():
        run.steps(0, 5)  # warms up; AdamW has a state from here on
        if run.watch:
            run.first = problems.seconds(lambda run=run: run.readings.append((5, run.tracker.update(), None)))
    errors: dict[str, list[float]] = {name: [] for name in WATCHES}
    for block in range(blocks):
        taken = dict.fromkeys(runs, 0.0)
        for begin in range(block * EVERY, (block + 1) * EVERY, TURN):
            for name, run in runs.items():
                taken[name] += problems.seconds(lambda run=run, begin=begin: run.steps(begin, TURN))
        for name, run in runs.items():
            run.seconds.append(taken[name])
            if name and run.readings[-1][0] == (block + 1) * EVERY:
                truth = preconditioned_sharpness(run.objective, run.optimizer, tol=1e-3).value
                errors[name].append(abs(run.readings[-1][1].value / truth - 1))
    plain = runs.pop("")
    unit = statistics.median(plain.seconds) / EVERY
    rows = {}
    for name, run in runs.items():
        later = [found for _, found, _ in run.readings[1:]]
        rows[name] = {
            "overhead": problems.ratio(run.seconds, plain.seconds) - 1,
            "first_reading_in_steps": run.first / unit,
            "gradients_per_step": counted(later, run.watch) / (blocks * EVERY),
            "readings_per_block": len(later) / blocks,
            "products_per_reading": statistics.mean(r.num_matvecs for r in later) if later else None,
            "method": run.readings[0][1].method,
            "median_error": statistics.median(errors[name]) if errors[name] else None,
            "worst_error": max(errors[name], default=None),
            "converged": [r.converged for r in later],
            "values": [r.value for r in later],
            "seconds": run.seconds,
        }
    size = sum(p.numel() for p in model.parameters())
    return {"size": size, "step_ms": 1e3 * unit, "blocks": blocks, "plain_seconds": plain.seconds, "rows": rows}


def percent(x: float | None) -> str:
    return "-" if x is None else f"{x:.1%}"


def table(found: dict[str, Any]) -> str:
    lines = [
        f"GPT, {found['size']:,} parameters; a step takes {found['step_ms']:.0f} ms.\n",
        "| watching | overhead | counted, gradients a step | readings in 50 steps | products each | "
        "error: median, worst | first reading, steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        each = "-" if row["products_per_reading"] is None else f"{row['products_per_reading']:.1f}"
        lines.append(
            f"| {name} | {row['overhead']:.1%} | {row['gradients_per_step']:.3f} | "
            f"{row['readings_per_block']:.1f} | {each} | {percent(row['median_error'])}, "
            f"{percent(row['worst_error'])} | {row['first_reading_in_steps']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.blocks)
    print(table(found), "\n\n", problems.keep("tracking_overhead", **found), sep="")


if __name__ == "__main__":
    main()
