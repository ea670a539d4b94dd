"""Run-steps per second of batched replicas against one run after the other.

    python benchmarks/replicas.py            # prints a table, writes benchmarks/results/replicas.json
    python benchmarks/replicas.py --threads 1

Both engines alternate, several times, and the best of each counts: a shared machine only ever adds time.
Evaluation and the choice of the engine are left out. On a busy machine use ``--threads 1``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch

from lrscope.records import environment
from lrscope.schedules import Linear
from lrscope.tasks import Task, digits, topics
from lrscope.training import Cell, run_cells
from lrscope.training.engines import Engine

RESULTS = Path(__file__).parent / "results" / "replicas.json"
# name, task, optimizer, steps for N = 8
TASKS = {
    "digits MLP": (digits, {}, "sgd", 60),
    "digits MLP, width 256": (digits, {"width": 256}, "adamw", 30),
    "digits CNN": (digits, {"model": "cnn"}, "sgd", 12),
    "GPT, tiny": (topics, {"size": "tiny", "batch_size": 8}, "adamw", 4),
}


def speed(task: Task, optimizer: str, engine: Engine, n: int, steps: int, chunk: int | None) -> float:
    """Updates of all runs together per second."""
    cells = [Cell(Linear(0.0, 0.01 * (i + 1) / n, steps)) for i in range(n)]
    # The first call in a process pays for torch's own warming up; two steps are enough for that.
    run_cells(task, optimizer, cells[:2], 2, engine=engine, evaluate=False)
    started = time.perf_counter()
    run_cells(task, optimizer, cells, steps, engine=engine, evaluate=False, chunk=chunk)
    return n * steps / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--chunk", type=int, default=None, help="most replicas in one program (default: lrscope's own)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)

    rows = []
    print("| task | parameters | N | replicas | serial | ratio |\n|---|---|---|---|---|---|")
    for name, (make, options, optimizer, steps_at_8) in TASKS.items():
        task = make(**options)
        size = sum(p.numel() for p in task.model(0).parameters())
        for n in (8, 32):
            steps = max(2, steps_at_8 * 8 // n)
            best: dict[Engine, float] = {"replicas": 0.0, "serial": 0.0}
            for _ in range(asked.repeats):
                for engine in best:
                    best[engine] = max(best[engine], speed(task, optimizer, engine, n, steps, asked.chunk))
            ratio = best["replicas"] / best["serial"]
            rows.append({"task": name, "parameters": size, "n": n, "steps": steps, "optimizer": optimizer, **best})
            print(
                f"| {name} | {size:,} | {n} | {best['replicas']:.0f}/s | {best['serial']:.0f}/s | {ratio:.2f} |",
                flush=True,
            )
    about = {**environment(), "threads": asked.threads, "chunk": asked.chunk}
    about |= {
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1),
    }  # load: how busy the machine was
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"about": about, "unit": "run-steps per second", "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
