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
    "MLP": lambda: problems.perceptron(width=512, examples=1000),
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


def table(found: dict[str, Any]) -> str:
    lines = ["| model | product | wall, gradients | peak memory beyond a gradient's, parameter vectors |",
             "|---|---|---|---|"]  # fmt: skip
    for name, case in found.items():
        unit = f"1 = {case['gradient_ms']:.1f} ms | the peak itself is {case['gradient_vectors']:.1f}"
        lines.append(f"| {name} | gradient | {unit} |")
        for kind, row in case["rows"].items():
            if kind != "gradient":
                lines.append(f"| | {kind} | {row['gradients']:.2f} | {row['vectors_beyond_gradient']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for label, make in CASES.items():
        problem = make()
        found[f"{label}, {problem.size:,} parameters"] = measure(problem, options.repeats)
    print(table(found), "\n\n", problems.keep("product_cost", repeats=options.repeats, cases=found), sep="")


if __name__ == "__main__":
    main()
