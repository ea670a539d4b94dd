"""What one Hessian-vector product costs: wall time in gradients, memory beyond a gradient's in parameter vectors.

    python benchmarks/product_cost.py                # a minute on one core

Models at sizes where a gradient takes several milliseconds, in float32, with PyTorch's fused attention. The gradient is
plain torch's, and takes turns with the products; each number is the median of the ratios within a turn. *First* builds
what a product needs at a new point, *next* reuses it. Memory is the peak of the first product, the point and the vector
apart, beyond the peak of the gradient, as torch's allocator was asked for it (problems.peak_bytes). Prints a Markdown
table; raw numbers go to benchmarks/results/product_cost.json.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import problems
import torch
from problems import Problem

from lrscope.curvature import DifferenceHessian, ExactHessian

CASES: dict[str, Callable[[], Problem]] = {
    "MLP": lambda: problems.perceptron(width=740, examples=500),
    "CNN": lambda: problems.convolutional(width=32, examples=200),
    "GPT": lambda: problems.language(width=64, depth=4, heads=4, batch=16, context=64),
}


def measure(problem: Problem, repeats: int) -> dict[str, Any]:
    objective = problem.objective()
    theta = objective.point()
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    central = DifferenceHessian(objective, theta)
    sided = DifferenceHessian(objective, theta, gradient=objective.grad(theta))
    exact = ExactHessian(objective, theta)
    exact @ v
    calls: dict[str, Callable[[], Any]] = {
        "gradient": problem.grad,
        "difference": lambda: central @ v,
        "one-sided difference": lambda: sided @ v,
        "exact, first": lambda: ExactHessian(objective, theta) @ v,
        "exact, next": lambda: exact @ v,
    }
    taken = problems.taking_turns(calls, repeats)
    memory = {name: problems.peak_bytes(do) for name, do in calls.items()}
    vector = theta.numel() * theta.element_size()
    rows = {
        name: {
            "gradients": problems.ratio(taken[name], taken["gradient"]),
            "vectors_beyond_gradient": (memory[name] - memory["gradient"]) / vector,
        }
        for name in calls
    }
    return {"size": problem.size, "gradient_ms": 1e3 * statistics.median(taken["gradient"]),
            "gradient_vectors": memory["gradient"] / vector, "rows": rows, "seconds": taken}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    print(
        "| model | product | wall, gradients | peak memory beyond a gradient's, parameter vectors |\n|---|---|---|---|"
    )
    for label, make in CASES.items():
        problem = make()
        name = f"{label}, {problem.size:,} parameters"
        found[name] = measure(problem, options.repeats)
        for kind, row in found[name]["rows"].items():
            if kind == "gradient":
                unit = f"1 = {found[name]['gradient_ms']:.1f} ms"
                print(f"| {name} | {kind} | {unit} | the peak itself is {found[name]['gradient_vectors']:.1f} |")
            else:
                print(f"| | {kind} | {row['gradients']:.2f} | {row['vectors_beyond_gradient']:.2f} |", flush=True)
    print("\n", problems.keep("product_cost", repeats=options.repeats, cases=found), sep="")


if __name__ == "__main__":
    main()
