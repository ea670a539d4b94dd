"""What does it cost, and how well does it work, to know the sharpness at every training step?

    pip install --no-deps curvlinops-for-pytorch==3.0.1 PyHessian==0.1 hessian-eigenthings==1.0.0a5
    pip install backpack-for-pytorch einops einconv linear-operator opt-einsum scipy
    python benchmarks/tracking.py                 # seven to nine minutes on one core; --no-peers: less, without them
    python benchmarks/tracking.py --only GPT      # some runs; nothing is kept

Ten runs: handwritten digits on a 64-64-64-10 network (9,000 parameters) and on a small convolutional network, and
characters of English prose on a small GPT (30,000 parameters), all trained in float32. At every step the tracker's
value is compared with a float64 Lanczos solve of the same matrix (residual below 2e-3, so the value is good to about
1e-4 or better).

At twelve steps of every run without Adam each peer measures the same matrix, cold, by its own tolerance of 1 %
(hessian-eigenthings' Lanczos with the smallest multiple of ten steps at which it calls itself converged, shorter
attempts not counted), and its products and wall time stand beside those of the tracker's update at the same steps, in
the same process. Peers have no Adam preconditioner.

Last, the pace: which steps ``SharpnessTracker.step`` would have measured on the true curve of each run, the largest
relative difference between the sharpness and its last reading, and the same for readings at a fixed period of equal
number. Prints Markdown tables; raw numbers go to benchmarks/results/tracking.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cold_sharpness as cold
import numpy as np
import torch
import torch.nn.functional as F
from problems import Problem, convolutional, keep, language, perceptron
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrscope import SharpnessTracker, sharpness
from lrscope.curvature import ExactHessian, headroom, preconditioner, stability_threshold
from lrscope.curvature.pace import Pace
from lrscope.linalg import lanczos

POINTS = 12
"""Steps at which peers measure."""


@dataclass(frozen=True)
class Training:
    """A problem and how it is trained; ``rate`` is times 1/sharpness at the start, except for Adam."""

    problem: Callable[[], Problem]
    kind: str
    rate: float
    batch: int | None = None
    steps: int = 300


def squared(problem: Problem) -> Problem:
    targets = F.one_hot(problem.targets, 10).to(problem.inputs)
    return Problem(problem.name, problem.model, F.mse_loss, problem.inputs, targets)


def mlp(act: Any, squares: bool) -> Callable[[], Problem]:
    return lambda: perceptron(act=act, squared=squares)


RUNS = {
    "MLP: GD, MSE, tanh": Training(mlp(nn.Tanh, True), "sgd", 2.0),
    "MLP: GD, MSE, ReLU": Training(mlp(nn.ReLU, True), "sgd", 1.5),
    "MLP: GD, cross-entropy, tanh": Training(mlp(nn.Tanh, False), "sgd", 0.4),
    "MLP: SGD momentum, batch 64, MSE, tanh": Training(mlp(nn.Tanh, True), "momentum", 1.0, 64),
    "MLP: Adam, batch 64, cross-entropy, tanh": Training(mlp(nn.Tanh, False), "adam", 3e-3, 64),
    "MLP: Adam, full batch, MSE, ReLU": Training(mlp(nn.ReLU, True), "adam", 3e-3),
    "CNN: GD, cross-entropy": Training(convolutional, "sgd", 1.0, steps=200),
    "CNN: SGD momentum, batch 64, MSE": Training(lambda: squared(convolutional()), "momentum", 1.0, 64, 200),
    "GPT: GD": Training(lambda: language(batch=16), "sgd", 1.0, steps=150),
    "GPT: Adam, batch 8": Training(lambda: language(batch=16), "adam", 3e-3, 8, steps=60),
}


class Truth:
    """Tight float64 eigenvalues along a path; warm-started, with a random vector against wrong eigenvalues."""

    def __init__(self, problem: Problem) -> None:
        self.objective = problem.copy(torch.float64).objective()
        self.generator = torch.Generator().manual_seed(1)
        self.vectors = torch.empty(self.objective.size, 0, dtype=torch.float64)

    def __call__(self, theta: torch.Tensor, P: torch.Tensor | None) -> float:
        H = ExactHessian(self.objective, theta.double())
        S = torch.ones_like(H.theta) if P is None else P.double().rsqrt()
        fresh = torch.randn(H.size, 1, dtype=torch.float64, generator=self.generator)
        start = torch.cat([self.vectors, fresh], dim=1)
        pairs = lanczos(lambda v: S * (H @ (S * v)), start, count=2, tol=2e-3, max_matvecs=150)
        self.vectors = pairs.vectors
        return float(pairs.values[0])


def optimizer_for(training: Training, problem: Problem) -> torch.optim.Optimizer:
    if training.kind == "adam":
        return torch.optim.Adam(problem.params, lr=training.rate)
    momentum = 0.9 if training.kind == "momentum" else 0.0
    return torch.optim.SGD(problem.params, lr=training.rate / sharpness(problem.objective()).value, momentum=momentum)


def peers() -> dict[str, Callable[[Problem, float, int], cold.Answer]]:
    steps: dict[Any, int] = {}
    lanczos_once = cold.eigenthings_lanczos(steps)

    def eigenthings(problem: Problem, tol: float, seed: int) -> cold.Answer:
        return lanczos_once(problem, tol, seed)

    found = {
        "curvlinops, SciPy's eigsh": ("curvlinops", cold.curvlinops),
        "hessian-eigenthings, Lanczos": ("hessian_eigenthings", eigenthings),
        "hessian-eigenthings, power": ("hessian_eigenthings", cold.eigenthings_power),
        "PyHessian, power": ("pyhessian", cold.pyhessian),
    }
    missing = {package for package, _ in found.values() if importlib.util.find_spec(package) is None}
    if missing:
        raise SystemExit(
            f"{', '.join(sorted(missing))}: not installed; see the first lines of this file, or --no-peers"
        )
    return {name: solve for name, (_, solve) in found.items()}


def measure(name: str, training: Training, beside: bool) -> dict[str, Any]:
    problem = training.problem()
    truth, objective, optimizer = Truth(problem), problem.objective(), optimizer_for(training, problem)
    tracker = SharpnessTracker(objective, optimizer)
    adaptive = tracker.adaptive
    lr = float(optimizer.param_groups[0]["lr"])
    generator = torch.Generator().manual_seed(0)
    size = len(problem.inputs)
    solvers = peers() if beside and not adaptive else {}
    at = {round(i) for i in np.linspace(0, training.steps - 1, POINTS + 1)[1:]}
    true, values, products, converged, seconds, unit = [], [], [], [], [], []
    peer: dict[str, dict[str, Any]] = {n: {"products": [], "seconds": [], "error": []} for n in solvers}
    for step in range(training.steps):
        began = time.perf_counter()
        gradient = objective.grad(objective.point())
        unit.append(time.perf_counter() - began)
        P = preconditioner(optimizer, objective, gradient) if adaptive else None
        true.append(truth(objective.point(), P))
        began = time.perf_counter()
        result = tracker.update(gradient=gradient)
        seconds.append(time.perf_counter() - began)
        values.append(result.value)
        products.append(result.num_matvecs)
        converged.append(result.converged)
        if step in at:
            for label, solve in solvers.items():
                _beside(peer[label], solve, problem.copy(), true[-1], f"{name}, step {step}")
        index = torch.arange(size)
        if training.batch is not None:
            index = torch.randint(0, size, (training.batch,), generator=generator)
        optimizer.zero_grad()
        problem.criterion(problem.model(problem.inputs[index]), problem.targets[index]).backward()
        optimizer.step()
        optimizer.zero_grad()
    threshold = stability_threshold(optimizer)
    used = [headroom(lr, v, threshold) for v in true]
    return {
        "run": name, "size": problem.size, "lr": lr, "threshold": threshold, "method": result.method,
        "headroom": [min(used), float(np.median(used)), max(used)], "truth": true, "values": values,
        "products": products, "converged": converged, "seconds": seconds, "gradient_seconds": unit,
        "points": sorted(at), "peers": peer, "pace": pace(true, lr / threshold),
    }  # fmt: skip


def _beside(row: dict[str, Any], solve: Any, problem: Problem, true: float, key: str) -> None:
    problem = Problem(key, problem.model, problem.criterion, problem.inputs, problem.targets)
    try:
        if solve.__name__ == "eigenthings":
            solve(problem, 1e-2, 0)  # finds its number of steps, unmeasured
        began = time.perf_counter()
        answer = solve(problem, 1e-2, 0)
    except (RuntimeError, NotImplementedError) as error:
        row["cannot"] = str(error).strip().splitlines()[0]
        return
    row["seconds"].append(time.perf_counter() - began)
    row["products"].append(answer.products)
    row["error"].append(abs(answer.value / true - 1) if answer.converged else float("inf"))


def pace(true: list[float], scale: float) -> dict[str, Any]:
    """Readings of the rule on the true curve, and what they and equally many at a fixed period have missed."""
    rule, read = Pace(), []
    for step, value in enumerate(true):
        if rule.due(scale):
            rule.read([value])
            read.append(step)
    fixed = sorted({round(x) for x in np.linspace(0, len(true), len(read), endpoint=False)})
    return {"readings": read, "missed": missed(true, read), "missed_at_fixed_period": missed(true, fixed)}


def missed(true: list[float], read: list[int]) -> dict[str, float]:
    """Relative differences between the curve and its last reading."""
    last, away = true[0], []
    due = set(read)
    for step, value in enumerate(true):
        last = value if step in due else last
        away.append(abs(value - last) / max(abs(value), abs(last)))
    return {"mean": float(np.mean(away)), "p90": float(np.quantile(away, 0.9)), "largest": max(away)}


def accuracy(found: list[dict[str, Any]]) -> str:
    lines = [
        "| run | headroom (median, max) | products per step: all, warm | error: median | 90 % | 99 % | max | "
        "steps within 1 % | time per update, in gradients |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found:
        error = np.abs(np.array(run["values"]) / np.array(run["truth"]) - 1)
        _, mid, high = run["headroom"]
        time_each = statistics.median(run["seconds"][1:]) / statistics.median(run["gradient_seconds"])
        lines.append(
            f"| {run['run']} | {mid:.2f}, {high:.2f} | {np.mean(run['products']):.2f}, "
            f"{np.mean(run['products'][1:]):.2f} | {np.median(error):.2%} | {np.quantile(error, 0.9):.2%} | "
            f"{np.quantile(error, 0.99):.1%} | {error.max():.1%} | {(error <= 0.01).mean():.1%} | {time_each:.1f} |"
        )
    return "\n".join(lines)


def comparison(found: list[dict[str, Any]]) -> str:
    names = list(found[0]["peers"]) if found else []
    lines = [
        "| run | lrscope: products, ms, worst error | " + " | ".join(names) + " | best right peer: products, time |",
        "|---|---|" + "---|" * (len(names) + 1),
    ]
    for run in found:
        at = run["points"]
        error = [abs(run["values"][i] / run["truth"][i] - 1) for i in at]
        ours = {"products": np.mean(run["products"]), "ms": 1e3 * statistics.median(run["seconds"][i] for i in at)}
        cells, right = [], {}
        for name in names:
            row = run["peers"][name]
            if "cannot" in row:
                cells.append("cannot")
                continue
            products, ms, worst = np.mean(row["products"]), 1e3 * statistics.median(row["seconds"]), max(row["error"])
            cells.append(f"{products:.1f}, {ms:.0f}, {worst:.1%}" + ("" if worst <= 0.01 else " (wrong)"))
            if worst <= 0.01:
                right[name] = (products / ours["products"], ms / ours["ms"])
        best = (
            f"{min(r[0] for r in right.values()):.1f} x, {min(r[1] for r in right.values()):.1f} x"
            if right else "none was right"
        )  # fmt: skip
        lines.append(f"| {run['run']} | {ours['products']:.1f}, {ours['ms']:.0f}, {max(error):.1%} | "
                     + " | ".join(cells) + f" | {best} |")  # fmt: skip
    return "\n".join(lines)


def paces(found: list[dict[str, Any]]) -> str:
    lines = [
        "| run | steps | readings | from the last reading, own pace: mean | 90 % | largest | fixed period: mean | "
        "90 % | largest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found:
        p = run["pace"]
        cells = [f"{p[k][q]:.1%}" for k in ("missed", "missed_at_fixed_period") for q in ("mean", "p90", "largest")]
        lines.append(f"| {run['run']} | {len(run['truth'])} | {len(p['readings'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="runs with this in their name; nothing is kept")
    parser.add_argument("--no-peers", action="store_true", help="without the other packages; nothing is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    began, found = time.perf_counter(), []
    with sdpa_kernel(SDPBackend.MATH):  # none of the peers does fused attention
        for name, training in RUNS.items():
            if options.only in name:
                found.append(measure(name, training, not options.no_peers))
                print(f"{name}: {time.perf_counter() - began:.0f} s so far", flush=True)
    compared = [run for run in found if run["peers"]]
    print("", accuracy(found), comparison(compared), paces(found), sep="\n\n")
    seconds = time.perf_counter() - began
    print(f"\n{seconds:.0f} s")
    if not options.only and not options.no_peers:
        print(keep("tracking", cold.PEERS, seconds=seconds, results=found))


if __name__ == "__main__":
    main()
