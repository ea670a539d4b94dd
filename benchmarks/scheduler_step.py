"""What one ``scheduler.step()`` costs: ours against torch's, Hugging Face's and timm's, side by side.

    python benchmarks/scheduler_step.py            # prints a table, writes benchmarks/results/scheduler_step.json

Every scheduler runs the same warmup and cosine over the same optimizer with 1 to 400 parameter groups. All take turns,
many times, and the best of each counts: a shared machine only ever adds time. The floor is the closed form in plain
Python and one assignment per group. ``ours`` holds the two hooks that count updates, as they run in each
``optimizer.step()``; ``ours, step alone`` is what the others are measured by.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch

import lrscope as lrs
from lrscope.records import environment
from lrscope.schedules import Cosine, warmup

RESULTS = Path(__file__).parent / "results" / "scheduler_step.json"
WARMUP, STEPS = 500, 100_000
GROUPS = (1, 10, 50, 100, 200, 400)


def optimizer(groups: int) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1} for _ in range(groups)])


def factor(t: int) -> float:
    if t < WARMUP:
        return t / WARMUP
    return 0.5 * (1.0 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP)))


def floor(groups: int) -> Callable[[], None]:
    bound, t = optimizer(groups).param_groups, 0

    def step() -> None:
        nonlocal t
        t += 1
        value = 0.1 * factor(t)
        for group in bound:
            group["lr"] = value

    return step


def ours(groups: int, *, hooks: bool) -> Callable[[], None]:
    opt = optimizer(groups)
    scheduler = lrs.ScheduledLR(opt, warmup(WARMUP).then(Cosine(1.0, 0.0, STEPS - WARMUP)))
    pre, post = list(opt._optimizer_step_pre_hooks.values()), list(opt._optimizer_step_post_hooks.values())
    clock = scheduler._clock

    def step() -> None:
        if hooks:
            for hook in pre:
                hook(opt, (), {})
            for hook in post:
                hook(opt, (), {})
        else:
            clock.pending = 1
        scheduler.step()

    step.keeps = scheduler  # the hooks hold it weakly
    return step


def torch_lambda(groups: int) -> Callable[[], None]:
    opt = optimizer(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, factor)
    opt.step()
    return scheduler.step


def transformers_cosine(groups: int) -> Callable[[], None]:
    from transformers import get_cosine_schedule_with_warmup

    opt = optimizer(groups)
    scheduler = get_cosine_schedule_with_warmup(opt, WARMUP, STEPS)
    opt.step()
    return scheduler.step


def timm_cosine(groups: int) -> Callable[[], None]:
    """timm needs torchvision to be imported whole; its schedulers do not."""
    if "timm" not in sys.modules:
        spec = importlib.util.find_spec("timm")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("timm")
        bare = types.ModuleType("timm")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["timm"] = bare
    from timm.scheduler.cosine_lr import CosineLRScheduler

    scheduler = CosineLRScheduler(optimizer(groups), STEPS, warmup_t=WARMUP, t_in_epochs=False)
    t = 0

    def step() -> None:
        nonlocal t
        t += 1
        scheduler.step_update(t)

    return step


PEERS: dict[str, Callable[[int], Callable[[], None]]] = {
    "floor": floor,
    "ours": lambda n: ours(n, hooks=True),
    "ours, step alone": lambda n: ours(n, hooks=False),
    "torch LambdaLR": torch_lambda,
    "transformers": transformers_cosine,
    "timm": timm_cosine,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    rows = []
    print("| groups | " + " | ".join(PEERS) + " |\n|---|" + "---|" * len(PEERS))
    for n in GROUPS:
        steps, absent = {}, []
        for name, make in PEERS.items():
            try:
                steps[name] = make(n)
            except ModuleNotFoundError:
                absent.append(name)
        best = dict.fromkeys(steps, math.inf)
        count = 2000 if n < 50 else 400
        for _ in range(asked.repeats):
            for name, step in steps.items():
                began = time.perf_counter()
                for _ in range(count):
                    step()
                best[name] = min(best[name], (time.perf_counter() - began) / count * 1e6)
        rows.append({"groups": n, **{name: round(us, 3) for name, us in best.items()}})
        cells = [f"{best[name]:.2f}" if name in best else "not installed" for name in PEERS]
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)
    about = environment() | {"load": os.getloadavg()[0]}
    asked.out.write_text(json.dumps({"about": about, "unit": "microseconds per step", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
