"""What does it cost, and how well does it work, to know the sharpness at every training step?

    python benchmarks/tracking.py            # about three minutes on one core

Handwritten digits, a 64-64-64-10 network, float32 training. At every step the tracker's value is compared with a
float64 Lanczos solve of the same matrix (residual below 2e-3, so the value is good to about 1e-4 or better). Prints a
Markdown table; raw numbers go to benchmarks/results/tracking.json.
"""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lrscope import Objective, SharpnessTracker, sharpness
from lrscope.curvature import ExactHessian, headroom, preconditioner, stability_threshold
from lrscope.linalg import lanczos
from lrscope.records import environment

STEPS, EXAMPLES = 300, 200
RUNS = {  # name: loss, activation, optimizer, learning rate (times 1/sharpness at the start, except Adam), batch size
    "GD, MSE, tanh": ("mse", nn.Tanh, "sgd", 2.0, None),
    "GD, MSE, ReLU": ("mse", nn.ReLU, "sgd", 1.5, None),
    "GD, cross-entropy, tanh": ("xent", nn.Tanh, "sgd", 0.4, None),
    "SGD momentum, batch 64, MSE, tanh": ("mse", nn.Tanh, "momentum", 1.0, 64),
    "Adam, batch 64, cross-entropy, tanh": ("xent", nn.Tanh, "adam", 3e-3, 64),
    "Adam, full batch, MSE, ReLU": ("mse", nn.ReLU, "adam", 3e-3, None),
}
BUDGETS = {"budget 0.1": 0.1, "budget None": None}


def data():
    X, y = load_digits(return_X_y=True)
    X = torch.tensor(X[:EXAMPLES])
    return (X - X.mean(1, keepdim=True)) / X.std(1, keepdim=True), torch.tensor(y[:EXAMPLES])


def network(act):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), act(), nn.Linear(64, 64), act(), nn.Linear(64, 10))


def mse(model, batch):
    return 0.5 * (model(batch[0]) - F.one_hot(batch[1], 10).to(batch[0])).pow(2).mean()


def xent(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


class Truth:
    """Tight float64 eigenvalues along a path; warm-started, with a random vector against wrong eigenvalues."""

    def __init__(self, objective):
        self.objective = objective
        self.generator = torch.Generator().manual_seed(1)
        self.vectors = torch.empty(objective.size, 0, dtype=torch.float64)

    def __call__(self, theta, P):
        H = ExactHessian(self.objective, theta.double())
        S = torch.ones_like(H.theta) if P is None else P.double().rsqrt()
        fresh = torch.randn(H.size, 1, dtype=torch.float64, generator=self.generator)
        start = torch.cat([self.vectors, fresh], dim=1)
        pairs = lanczos(lambda v: S * (H @ (S * v)), start, count=2, tol=2e-3, max_matvecs=150)
        self.vectors = pairs.vectors
        return float(pairs.values[0])


def measure(name):
    loss_name, act, kind, rate, batch_size = RUNS[name]
    loss_fn = {"mse": mse, "xent": xent}[loss_name]
    X, y = data()
    model = network(act)
    objective = Objective(model, loss_fn, [(X.float(), y)])
    truth = Truth(Objective(network(act).double(), loss_fn, [(X, y)]))
    lr = rate if kind == "adam" else rate / sharpness(objective).value
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=lr),
        "momentum": lambda: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=lr),
    }[kind]()
    trackers = {label: SharpnessTracker(objective, optimizer, budget=b) for label, b in BUDGETS.items()}
    generator = torch.Generator().manual_seed(0)
    values = {label: [] for label in ["truth", *trackers]}
    seconds = dict.fromkeys(trackers, 0.0)
    gradient_seconds, claims = 0.0, {label: [] for label in trackers}
    for _ in range(STEPS):
        began = time.perf_counter()
        gradient = objective.grad(objective.point())
        gradient_seconds += time.perf_counter() - began
        P = preconditioner(optimizer, objective, gradient) if kind == "adam" else None
        values["truth"].append(truth(objective.point(), P))
        for label, tracker in trackers.items():
            result = tracker.update(gradient=gradient)
            values[label].append(result.value)
            claims[label].append(result.converged)
            seconds[label] += result.cost.seconds
        index = torch.arange(EXAMPLES) if batch_size is None else torch.randint(0, EXAMPLES, (batch_size,),
                                                                               generator=generator)  # fmt: skip
        optimizer.zero_grad()
        loss_fn(model, (X[index].float(), y[index])).backward()
        optimizer.step()
    true = np.array(values["truth"])
    used = [headroom(lr, float(v), stability_threshold(optimizer)) for v in true]
    rows = {}
    for label, tracker in trackers.items():
        error = np.abs(np.array(values[label]) / true - 1)
        sure = np.array(claims[label])
        rows[label] = {
            "products_per_step": tracker.num_matvecs / STEPS,
            "median_error": float(np.median(error)),
            "p90_error": float(np.quantile(error, 0.9)),
            "p99_error": float(np.quantile(error, 0.99)),
            "max_error": float(error.max()),
            "share_within_1_percent": float((error <= 0.01).mean()),
            "share_called_converged": float(sure.mean()),
            "share_of_those_within_2_percent": float((error[sure] <= 0.02).mean()) if sure.any() else None,
            "seconds_in_gradients": seconds[label] / gradient_seconds,
            "method": result.method,
        }
    return {"run": name, "lr": lr, "headroom": [min(used), float(np.median(used)), max(used)], "trackers": rows,
            "values": values}  # fmt: skip


def main():
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    began = time.perf_counter()
    results = []
    print("| run | headroom (median, max) | tracker | products per step | error: median | 90 % | 99 % | max | "
          "steps within 1 % | time per update, in gradients |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in RUNS:
        found = measure(name)
        results.append(found)
        for label, row in found["trackers"].items():
            _, mid, high = found["headroom"]
            print(f"| {name} | {mid:.2f}, {high:.2f} | {label} | {row['products_per_step']:.2f} | "
                  f"{row['median_error']:.2%} | {row['p90_error']:.2%} | {row['p99_error']:.1%} | "
                  f"{row['max_error']:.1%} | {row['share_within_1_percent']:.0%} | "
                  f"{row['seconds_in_gradients']:.1f} |", flush=True)  # fmt: skip
    out = Path(__file__).parent / "results" / "tracking.json"
    out.parent.mkdir(exist_ok=True)
    seconds = time.perf_counter() - began
    report = {"date": date.today().isoformat(), "environment": environment(), "threads": torch.get_num_threads(),
              "steps": STEPS, "examples": EXAMPLES, "seconds": seconds, "results": results}  # fmt: skip
    out.write_text(json.dumps(report) + "\n")
    print(f"\n{seconds:.0f} s; raw numbers in {out}")


if __name__ == "__main__":
    main()
