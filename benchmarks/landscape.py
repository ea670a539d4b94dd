"""Mode connectivity against plain training, and planes against loops of full evaluations.

    python benchmarks/landscape.py           # prints two tables, writes benchmarks/results/landscape.json
    python benchmarks/landscape.py --threads 1 --device cpu

A step of training a curve is set against a step of training the network: the same batches, loss and rule (SGD with
momentum 0.9, weight decay), torch's own optimizer over the network's own parameters. A plane of 25 x 25 points is set
against three loops that put each point into the network and evaluate it: over an epoch that the task draws anew, over
batches that are kept, and over kept batches with loss and accuracy taken by hand from one forward pass. Everything
alternates within a run; the best of each counts, since a shared machine only ever adds time. On one thread of a CPU the
clock is that of the process, which stands still while others compute.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lrscope.landscape import plane
from lrscope.landscape.connect import _straight, _train
from lrscope.landscape.surface import Surface
from lrscope.optimizers import OptimizerSpec
from lrscope.records import environment
from lrscope.tasks import BatchStream, Task, digits, topics

RESULTS = Path(__file__).parent / "results" / "landscape.json"
MOMENTUM, DECAY, LR = 0.9, 5e-4, 0.03


def normed(seed: int) -> nn.Module:  # noqa: ARG001 - the generators are seeded
    """A convolutional network with BatchNorm, 25,000 parameters."""
    layers: list[nn.Module] = []
    channels = 1
    for wide, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [
            nn.Conv2d(channels, wide, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        ]
        channels = wide
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))


def convolutional() -> Task:
    return dataclasses.replace(digits(), build=normed, name="digits, BatchNorm CNN")


# name: task, steps of one round
STEPS: dict[str, tuple[Callable[[], Task], int]] = {
    "digits MLP": (digits, 200),
    "digits MLP, width 512, 4 layers": (lambda: digits(width=512, depth=4), 20),
    "BatchNorm CNN": (convolutional, 25),
    "GPT, tiny": (lambda: topics(size="tiny", batch_size=8), 8),
}


def plain(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    stream = BatchStream(task.train, 0)
    for _ in range(steps):
        batch = task.to_device(next(stream))
        optimizer.zero_grad()
        loss = task.loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # looks at the loss, as a loop that notices divergence does


def steps_table(repeats: int, device: str) -> list[dict]:
    rows = []
    print("| task | parameters | plain step, ms | Bezier step, ms | ratio | chain step, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, (make, steps) in STEPS.items():
        task = dataclasses.replace(make(), device=device)
        model = task.model(0).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        rule = OptimizerSpec("sgd", momentum=MOMENTUM)
        times: dict[str, list[float]] = {"plain": [], "bezier": [], "chain": []}
        surface = Surface(task)
        paths = {k: _straight(surface, task.model(1), task.model(2), k, 1) for k in ("bezier", "chain")}

        def curve(kind: str, steps: int) -> None:
            _train(surface, paths[kind], rule, LR, DECAY, steps, 0, None)  # noqa: B023 - called within the round

        runs = {
            "plain": lambda: plain(task, model, optimizer, steps),  # noqa: B023
            "bezier": lambda: curve("bezier", steps),  # noqa: B023
            "chain": lambda: curve("chain", steps),  # noqa: B023
        }
        for run in runs.values():
            run()
        for _ in range(repeats):
            for key, run in runs.items():
                times[key].append(timed(run, device) / steps * 1e3)
        best = {key: min(t) for key, t in times.items()}
        middle = {key: statistics.median(t) for key, t in times.items()}
        size = sum(p.numel() for p in model.parameters())
        rows.append({"task": name, "parameters": size, "best": best, "median": middle, "all": times})
        shown = [f"{best[k]:.3f}" for k in ("plain", "bezier", "chain")]
        ratio = [best[k] / best["plain"] for k in ("bezier", "chain")]
        print(
            f"| {name} | {size:,} | {shown[0]} | {shown[1]} | {ratio[0]:.2f} | {shown[2]} | {ratio[1]:.2f} |",
            flush=True,
        )
    return rows


def plane_table(repeats: int, num_points: int, device: str) -> list[dict]:
    rows = []
    print("\n| sets | points | plane, s | loop, epoch drawn anew | loop, batches kept | loop, one forward pass |")
    print("|---|---|---|---|---|---|")
    for sets in ("train", "train and test"):
        task = dataclasses.replace(digits(), device=device)
        if sets == "train":
            task = dataclasses.replace(task, evaluate=None)
        networks = [task.model(s) for s in (0, 1, 2)]
        found = plane(task, *networks, num_points=num_points)
        points = [
            found.origin + x * found.directions[0] + y * found.directions[1]
            for y in found.y.tolist()
            for x in found.x.tolist()
        ]
        kept = {of: task.batches(of=of) for of in ("train", "evaluate")}

        runs: dict[str, Callable[[], np.ndarray]] = {
            "plane": lambda: plane(task, *networks, num_points=num_points).values["train_loss"].ravel(),  # noqa: B023
            "drawn": lambda: loop(task, points, lambda of: task.batches(of=of)),  # noqa: B023
            "kept": lambda: loop(task, points, kept.__getitem__),  # noqa: B023
            "one pass": lambda: loop(task, points, kept.__getitem__, once=True),  # noqa: B023
        }
        losses = {key: run() for key, run in runs.items()}  # the same numbers, and torch's own warming up
        for key, values in losses.items():
            np.testing.assert_allclose(values, losses["plane"], rtol=1e-4, err_msg=key)
        times: dict[str, list[float]] = {key: [] for key in runs}
        for _ in range(repeats):
            for key, run in runs.items():
                times[key].append(timed(run, device))
        best = {key: min(t) for key, t in times.items()}
        rows.append({"sets": sets, "points": len(points), "best": best, "all": times})
        cells = [f"{best[key]:.2f} s ({best[key] / best['plane']:.2f} x)" for key in ("drawn", "kept", "one pass")]
        print(f"| {sets} | {len(points)} | {best['plane']:.2f} | {' | '.join(cells)} |", flush=True)
    return rows


@torch.no_grad()
def loop(task: Task, points: list, batches: Callable[[str], list], *, once: bool = False) -> np.ndarray:
    """Training losses; every set's loss and accuracy are computed on the way."""
    model = task.model(0).eval()
    losses = []
    for theta in points:
        nn.utils.vector_to_parameters(theta, model.parameters())
        means = {}
        for of in ("train", "evaluate"):
            n = loss = right = 0.0
            for batch in batches(of):
                k = task.count(batch)
                if once:
                    x, y = batch
                    logits = model(x)
                    loss += k * float(nn.functional.cross_entropy(logits, y))
                    right += float((logits.argmax(-1) == y).sum())
                else:
                    loss += k * float(task.loss_fn(model, batch))
                    right += k * float(task.metrics["accuracy"](model, batch))
                n += k
            means[of] = loss / max(n, 1), right / max(n, 1)
        losses.append(means["train"][0])
    return np.array(losses)


def timed(run: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    started = clock()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the steps' table")
    parser.add_argument("--plane-repeats", type=int, default=2)
    parser.add_argument("--num-points", type=int, default=25, help="along each side of the plane")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    about: dict = {
        **environment(),
        "threads": asked.threads,
        "device": asked.device,
        "date": time.strftime("%Y-%m-%d"),
    }
    about["load"] = round(os.getloadavg()[0], 1)  # how busy the machine was
    if asked.device != "cpu":
        about["gpu"] = torch.cuda.get_device_name()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    found = {"about": about, "steps": steps_table(asked.repeats, asked.device)}
    asked.out.write_text(json.dumps(found, indent=2) + "\n")  # what is measured is kept
    found["plane"] = plane_table(asked.plane_repeats, asked.num_points, asked.device)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
